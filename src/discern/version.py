"""The version of discern, also of a checkout that is not installed."""

__version__ = "0.1.0"
"""The package's metadata take it from here."""
