"""The models that a checkpoint may name."""

import importlib

from torch import nn

from discern.config.user_config import choices, make_importable, target_of
from discern.errors import DiscernError, did_you_mean, first_line

MODELS = {"mlp": "discern.models.mlp.MLP", "transfer": "discern.models.transfer.TransferClassifier"}
"""Name in a checkpoint -> class. A checkpoint never names a class itself: importing what a
file from a stranger names would run the stranger's choice of code. Beside these it may name a
choice of the group ``model``, a user's file, which names the class."""


def name_of(target: str) -> str | None:
    """The name for checkpoints of a config's ``_target_``, None for a class that has none."""
    known = next((name for name, path in MODELS.items() if path == target), None)
    if known is not None:
        return known
    return next(
        (name for name, path in choices("model").items() if target_of(path) == target), None
    )


def model_class(name: str) -> type[nn.Module]:
    """The class that ``name`` stands for.

    Raises:
        DiscernError: there is none, or it cannot be imported.
    """
    own = {choice: path for choice, path in choices("model").items() if choice not in MODELS}
    target = MODELS.get(name) or (target_of(own[name]) if name in own else None)
    if target is None:
        raise DiscernError(
            f"{name} is not a registered model, nor one of your own in conf/model of this folder; "
            f"{did_you_mean(name, [*MODELS, *own])}"
        )
    make_importable(target)
    module, _, attribute = target.rpartition(".")
    try:
        found: type[nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DiscernError(
            f"model={name} is {target}, which cannot be imported: {first_line(error)}."
        ) from error
    return found
