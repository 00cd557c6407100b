"""The models that ``ckpt_path`` and ``ensemble`` mean together."""

from __future__ import annotations

from discern.errors import DiscernError, as_override
from discern.files.places import placed
from discern.runs.folder import BEST, find_checkpoint, is_sweep


def is_ensemble(ckpt_path: str | list[str]) -> bool:
    """Whether a value of ``ckpt_path`` means several models."""
    return len(ckpt_path) > 1 if isinstance(ckpt_path, list) else is_sweep(placed(ckpt_path))


def check_models(ckpt_path: str | list[str], ensemble: str | None) -> None:
    """Check that there are such models, and that they can be taken together.

    Raises:
        DiscernError: one is missing or named twice, or ``ensemble`` is not for these.
    """
    named = f"ckpt_path={as_override(ckpt_path)}"
    if isinstance(ckpt_path, str) and is_sweep(placed(ckpt_path)):
        if ensemble is None:
            raise DiscernError(
                f"{named} is the folder of a sweep; ensemble=top3 takes its three best jobs, and "
                f"{ckpt_path.rstrip('/')}/{BEST} is the best one."
            )
        return
    if ensemble is not None and ensemble.startswith("top"):
        raise DiscernError(
            f"ensemble={ensemble} takes the best jobs of a sweep, and {named} is not the folder of "
            "one."
        )
    if ensemble is not None and not is_ensemble(ckpt_path):
        raise DiscernError(
            f"ensemble={ensemble} is of several models: give ckpt_path=[RUN,RUN], or the folder of "
            "a sweep."
        )
    for each in [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path:
        if isinstance(ckpt_path, list) and is_sweep(placed(each)):
            raise DiscernError(
                f"{named} has the folder of a sweep in it, {each}; each must be a run or a "
                "checkpoint."
            )
        find_checkpoint(each)
    if isinstance(ckpt_path, list):
        files = [find_checkpoint(each).resolve() for each in ckpt_path]
        twice = next((a for a, f in zip(ckpt_path, files, strict=True) if files.count(f) > 1), None)
        if twice is not None:
            raise DiscernError(f"{named} names the model in {twice} twice.")
