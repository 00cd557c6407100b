"""The HTTP service of ``discern serve``."""
