"""Image-classification experiments on PyTorch Lightning and Hydra that explain themselves."""

import importlib
from typing import TYPE_CHECKING

from discern.version import __version__

if TYPE_CHECKING:
    from discern.api import compare, evaluate, predict, sweep, train
    from discern.config.compose import compose
    from discern.models.saved import load

__all__ = [
    "__version__", "compare", "compose", "evaluate", "load", "predict", "sweep", "train",
]  # fmt: skip

_MODULES = {
    "compare": "discern.api",
    "compose": "discern.config.compose",
    "evaluate": "discern.api",
    "load": "discern.models.saved",
    "predict": "discern.api",
    "sweep": "discern.api",
    "train": "discern.api",
}


def __getattr__(name: str) -> object:
    """Import a name on first use, so that the command line starts without torch."""
    if name in _MODULES:
        return vars(importlib.import_module(_MODULES[name]))[name]
    raise AttributeError(f"module 'discern' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
