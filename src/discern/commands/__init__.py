"""The subcommands of ``discern``, a file each."""
