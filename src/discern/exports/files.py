"""Which files are exported models."""

from pathlib import Path

SUFFIX = ".onnx"


def is_exported(path: Path) -> bool:
    """Whether a file is an exported model by its name."""
    return path.suffix.lower() == SUFFIX
