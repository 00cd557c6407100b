"""``python -m discern`` is the command ``discern``."""

from discern.commands.cli import main

main()
