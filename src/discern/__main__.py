"""``python -m discern`` is the command ``discern``."""

from discern.cli import main

main()
