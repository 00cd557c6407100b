"""Writing checkpoints, and going on from them, also in another folder."""

import logging
import math
import re
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pydantic import AfterValidator, Field
from torch import Tensor

from discern.errors import DiscernError, about, first_line
from discern.files.places import identity
from discern.files.writing import write_whole
from discern.models.checkpoint import SUFFIX, flaw, write
from discern.models.saved import read
from discern.runs.folder import BEFORE_LAST, LAST_SAVED
from discern.schema import Strict, check_schema
from discern.training.between_batches import BetweenBatches
from discern.training.divergence import divergence, finite_weights

log = logging.getLogger(__name__)


State = dict[str, Any]
"""That of a ``ModelCheckpoint``, which a schema has checked."""


PAUSES = (0.5, 2.0)
"""Seconds after which a checkpoint that could not be written is tried again."""


class WholeFileCheckpointIO(CheckpointIO):
    """Writes a checkpoint as safetensors, whole or not at all, and reads plain values only.

    The last checkpoint of a run that a new one replaces stays beside it, as the one before.

    Lightning writes to the system's temporary folder and moves: killed in the middle across file
    systems it leaves an empty file, into a folder without write permission it returns as if all
    were well. Here the new file is complete and on disk before it takes the name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Write ``checkpoint`` to ``path``; what fails is tried again, see :data:`PAUSES`.

        Raises:
            DiscernError: it cannot be written, or holds what has no place in its file, such as a
                callback's object.
        """
        path = Path(path)
        beside = path.with_name(BEFORE_LAST) if path.name == LAST_SAVED else None
        replaced = identity(path)
        for pause in (*PAUSES, None):
            # A try may fail after the new file has its name, which is not the one before then.
            keep = beside if identity(path) == replaced else None
            try:
                write({"state_dict": {}, **checkpoint}, path, keep)
            except OSError as error:
                why = error.strerror or first_line(error)
                if pause is None:
                    raise DiscernError(
                        f"{path} cannot be written, also when tried again: {why}; what was saved "
                        "before is kept."
                    ) from error
                log.warning(
                    "%s cannot be written (%s): it is tried again in %g s.", path, why, pause
                )
                time.sleep(pause)
            else:
                return

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: object = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU; nothing in it is ever executed.

        Raises:
            DiscernError: it is not one.
        """
        with about("ckpt_path"):
            return read(path)


class RunCheckpoint(ModelCheckpoint, BetweenBatches):
    """Lightning's ModelCheckpoint that keeps the best score when a run continues in a new folder.

    Lightning forgets the best score when a run is continued in a new folder, and the continued run
    would call its first epoch the best. Here the checkpoints kept so far are copied along. And a
    model of weights that are not finite, or that the watched metric is not finite of, takes the
    place of none that is. One that is due by steps or time is made between two batches, from where
    a run goes on to the bit.
    """

    FILE_EXTENSION = SUFFIX

    def on_train_batch_end(self, *_: object) -> None:
        """Nothing: see :meth:`between_batches`."""

    def between_batches(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if a checkpoint is due by steps or time."""
        if self._every_n_train_steps >= 1 or self._train_time_interval is not None:
            super().on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the epoch, or its last batch, makes due."""
        self.between_batches(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def has_saved(self, path: Path, step: int) -> bool:
        """Whether the latest checkpoint is this file, of this optimizer step."""
        latest = Path(self._last_checkpoint_saved)
        return self._last_global_step_saved == step and latest.resolve() == path.resolve()

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self._is_sound(trainer, monitor_candidates):
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_last_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self._is_sound(trainer, monitor_candidates):
            super()._save_last_checkpoint(trainer, monitor_candidates)

    def _is_sound(self, trainer: Trainer, metrics: dict[str, Tensor]) -> bool:
        watched = metrics.get(self.monitor) if self.monitor else None
        return is_sound(trainer, watched is None or bool(torch.isfinite(watched)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far, and the files it belongs to.

        Args:
            state_dict: names files beside the checkpoint that is continued; see
                :func:`state_beside`.
        """
        lost = state_dict["lost"]
        state = {key: value for key, value in state_dict.items() if key != "lost"}
        if lost:
            log.warning(
                "The best checkpoint so far, %s, is gone; the best of the epochs to come is kept.",
                lost,
            )
        if state["dirpath"] != self.dirpath:
            best = {self._fetch(path): score for path, score in state["best_k_models"].items()}
            state |= {
                "dirpath": self.dirpath,
                "best_k_models": best,
                "best_model_path": self._fetch(state["best_model_path"]),
                "kth_best_model_path": self._fetch(state["kth_best_model_path"]),
                "last_model_path": "",
            }
        super().load_state_dict(state)
        self.current_score = state["current_score"]

    def _fetch(self, path: str) -> str:
        """Copy a checkpoint of the continued run here, if there is one."""
        assert self.dirpath is not None
        if not path:
            return ""
        target = Path(self.dirpath) / Path(path).name
        if not target.exists():
            with Path(path).open("rb") as old, write_whole(target, "wb") as new:
                shutil.copyfileobj(old, new)
        return str(target)


def is_sound(trainer: Trainer, finite_metric: bool = True) -> bool:
    """Whether a model may take a checkpoint's place; all processes write one, or none does."""
    if divergence(trainer) is not None:
        return False
    sound = finite_metric and finite_weights(trainer.lightning_module)
    return bool(trainer.strategy.reduce_boolean_decision(sound, all=True))


class CheckpointsWithinEpochs(BetweenBatches):
    """Renews the last checkpoint also within epochs, every so many optimizer steps or minutes.

    Args:
        path: that of the last checkpoint.
        every_n_steps: optimizer steps of the run from one to the next; None to count none.
        every_minutes: minutes from one to the next; None for no clock.

    Attributes:
        has_saved: whether this fit has renewed it so.
    """

    def __init__(self, path: Path, every_n_steps: int | None, every_minutes: float | None) -> None:
        self.path, self.every_n_steps = path, every_n_steps
        self._seconds = math.inf if every_minutes is None else 60 * every_minutes
        self._clock = 0.0
        self.has_saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def between_batches(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if a checkpoint is due."""
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if not due and self._seconds < math.inf:
            # The first process's clock decides.
            due = trainer.strategy.broadcast(time.monotonic() - self._clock >= self._seconds)
        if due and not trainer.fast_dev_run and is_sound(trainer):  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)
            self.has_saved = True
            self._clock = time.monotonic()


def within_epochs(
    dirpath: str, every_n_steps: int | None, every_minutes: float | None
) -> CheckpointsWithinEpochs | None:
    """The callback that renews ``last`` in a folder; None where neither setting asks for it."""
    if every_n_steps is None and every_minutes is None:
        return None
    path = Path(dirpath) / f"last{RunCheckpoint.FILE_EXTENSION}"
    return CheckpointsWithinEpochs(path, every_n_steps, every_minutes)


def state_beside(saved: State, callback: ModelCheckpoint, folder: Path, place: str) -> State:
    """A ``ModelCheckpoint``'s state, restricted to files that still exist.

    The paths in it are a stranger's: of each the name counts, and the file of that name in the
    folder of the checkpoint that is continued, wherever that has been moved to.

    Args:
        saved: what the checkpoint says.
        callback: that it is for.
        folder: that of the checkpoint that is continued.
        place: its name, for the message.

    Returns:
        Lightning's state with the files that there are. ``lost`` names the best one where it, or
        another of the best, is not there, and what was best so far is then not known.

    Raises:
        ValueError: it has another form.
    """
    check_schema(_CheckpointState, saved, place)
    before = saved["dirpath"] or ""
    moved = callback.dirpath is None or Path(callback.dirpath).resolve() != folder.resolve()
    if not moved:
        # In the callback's own words, since Lightning compares paths as texts: of one file by two
        # names it would remove the second as the one before.
        folder = Path(str(callback.dirpath))

    def found(path: str) -> str:
        return _beside(path, before, folder, callback.FILE_EXTENSION)

    best = {found(path): score for path, score in saved["best_k_models"].items()}
    best.pop("", None)
    lost = saved["best_model_path"] if len(best) < len(saved["best_k_models"]) else ""
    # The last and the best of them follow from the scores, whatever the file says.
    order = sorted(best, key=lambda path: float(best[path]), reverse=callback.mode == "max")
    alone = found(saved["best_model_path"]) if callback.monitor is None else ""
    full = len(order) == callback.save_top_k  # from then on the last of them has to be beaten
    return {
        **saved,
        "dirpath": str(folder) if moved else callback.dirpath,
        "best_k_models": best,
        "best_model_path": order[0] if order else alone,
        "best_model_score": best[order[0]] if order else None,
        "kth_best_model_path": order[-1] if full else "",
        "kth_value": best[order[-1]] if full else callback.kth_value,
        "last_model_path": found(saved["last_model_path"]),
        "lost": lost,
    }


def _beside(path: str, before: str, folder: Path, suffix: str) -> str:
    """The file in ``folder`` for a path that was in the folder ``before``.

    An empty text where there is none, or one that is damaged.
    """
    within = path.removeprefix(before) if path.startswith((f"{before}/", f"{before}\\")) else ""
    parts = re.split(r"[/\\]", within.strip("/\\")) if within else re.split(r"[/\\]", path)[-1:]
    if {"", ".", ".."} & {*parts} or not parts[-1].endswith(suffix):
        return ""
    file = folder.joinpath(*parts)
    try:
        inside = file.resolve(strict=True).is_relative_to(folder.resolve()) and file.is_file()
        inside = inside and flaw(file) is None
    except (OSError, ValueError, RuntimeError):  # none, a name of NULs or of thousands, a loop
        return ""
    return str(file) if inside else ""


def _check_score(value: object) -> object:
    if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
        raise ValueError("it is not the value of a metric")
    return value


_Path = Annotated[str, Field(max_length=10_000)]
_Score = Annotated[object, AfterValidator(_check_score)]


class _CheckpointState(Strict):
    monitor: _Path | None
    best_model_score: _Score | None
    best_model_path: _Path
    current_score: _Score | None
    dirpath: _Path | None
    best_k_models: Annotated[dict[_Path, _Score], Field(max_length=10_000)]
    kth_best_model_path: _Path
    kth_value: _Score
    last_model_path: _Path
