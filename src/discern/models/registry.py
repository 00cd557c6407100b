"""The models that a checkpoint may name."""

import importlib

from torch import nn

from discern.errors import DiscernError
from discern.nearest import did_you_mean

MODELS = {
    "mlp": "discern.models.mlp.MLP",
    "transfer": "discern.models.transfer.TransferClassifier",
}
"""Name in a checkpoint -> class. A checkpoint never names a class itself: importing what a
file from a stranger names would run the stranger's choice of code."""


def name_of(target: str) -> str | None:
    """The registered name of a config's ``_target_``, None for a class that is not registered."""
    return next((name for name, path in MODELS.items() if path == target), None)


def model_class(name: str) -> type[nn.Module]:
    """The class registered under ``name``.

    Raises:
        DiscernError: there is none.
    """
    if name not in MODELS:
        raise DiscernError(f"{name} is not a registered model; {did_you_mean(name, MODELS)}")
    module, _, attribute = MODELS[name].rpartition(".")
    found: type[nn.Module] = getattr(importlib.import_module(module), attribute)
    return found
