"""torch's optimizers, with one pass over the parameters for a step where they have it."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]
"""Parameters and their settings, as torch's optimizers take them."""

Build = Callable[..., Optimizer]
"""Makes an optimizer of groups of parameters."""

IMPLEMENTATION = ("fused", "foreach", "differentiable")
"""Arguments of torch's optimizers that say how a step is computed, of which one excludes others."""


def build_optimizer(build: Build, groups: list[Group], may_fuse: bool) -> Optimizer:
    """An optimizer; fused if it is torch's, can be, and the parameters are on the CPU.

    A step of Adam then takes a third of the time with the default MLP, a quarter with a head of
    660,000 parameters; one of SGD gives the same bits. On other devices torch's own choice is left
    alone, and so is an explicit ``fused`` or ``foreach``. A checkpoint that is loaded changes none.

    Args:
        build: makes it, of groups of parameters.
        groups: of the parameters.
        may_fuse: False where something else forbids it, as mixed precision with clipping does.
    """
    fused = (
        may_fuse
        and _can_be_fused(build)
        and all(_is_taken(parameter) for group in groups for parameter in group["params"])
    )
    optimizer = build(groups, **({"fused": True} if fused else {}))
    optimizer.register_load_state_dict_post_hook(_keep_implementation)
    return optimizer


def _can_be_fused(build: Build) -> bool:
    """Whether it is torch's own, takes ``fused``, and no setting says how steps are computed."""
    kind, given = getattr(build, "func", build), getattr(build, "keywords", {})
    return (
        kind.__module__.startswith("torch.optim.")
        and "fused" in inspect.signature(kind).parameters
        and not any(name in given for name in IMPLEMENTATION)
    )


def _is_taken(parameter: Tensor) -> bool:
    """Whether a fused step is right for it: the CPU's takes no complex numbers, and no strides."""
    return parameter.is_cpu and parameter.is_floating_point() and parameter.is_contiguous()


def _keep_implementation(optimizer: Optimizer) -> None:
    """Keep this run's implementation of a step when a checkpoint is loaded."""
    chosen = {k: optimizer.defaults[k] for k in IMPLEMENTATION if k in optimizer.defaults}
    for group in optimizer.param_groups:
        group.update(chosen)
