"""Image-classification experiments on PyTorch Lightning and Hydra that explain themselves."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discern.checkpoints import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what a program uses when it uses it: the command line starts without torch."""
    if name == "load":
        from discern.checkpoints import load

        return load
    raise AttributeError(f"module 'discern' has no attribute '{name}'")
