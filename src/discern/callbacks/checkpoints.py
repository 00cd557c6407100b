"""Writing checkpoints, and going on from them, also in another folder."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from discern.callbacks.divergence import StopOnDivergence, finite_weights
from discern.checkpoints import read
from discern.errors import about
from discern.files import write_whole
from discern.models.checkpoint import SUFFIX, write

log = logging.getLogger(__name__)


class WholeFileCheckpointIO(CheckpointIO):
    """Writes a checkpoint as safetensors, whole or not at all, and reads plain values only.

    Lightning writes to the system's temporary folder and moves: killed in the middle across file
    systems it leaves an empty file, into a folder without write permission it returns as if all
    were well. Here the new file is complete and on disk before it takes the name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            DiscernError: it holds what has no place in its file, such as a callback's object.
            OSError: it cannot be written.
        """
        write({"state_dict": {}, **checkpoint}, Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU; nothing in it is executed, whatever the caller asks for.

        Raises:
            DiscernError: it is not one.
        """
        with about("ckpt_path"):
            return read(path)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which knows what was best also after a change of folder.

    Lightning forgets the best score when a run is continued in a new folder, and the continued run
    would call its first epoch the best. Here the checkpoints kept so far are copied along. And a
    model of weights that are not finite, or that the watched metric is not finite of, takes the
    place of none that is.
    """

    FILE_EXTENSION = SUFFIX

    _continued_from: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the folder of the checkpoint that is continued."""
        super().setup(trainer, pl_module, stage)
        if trainer.ckpt_path:
            self._continued_from = Path(trainer.ckpt_path).parent

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if one is due by steps or by time, which Lightning asks last of all."""
        if self._every_n_train_steps >= 1 or self._train_time_interval is not None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

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
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, StopOnDivergence) and c.found is not None for c in callbacks):
            return False
        watched = metrics.get(self.monitor) if self.monitor else None
        sound = watched is None or bool(torch.isfinite(watched))
        sound = sound and finite_weights(trainer.lightning_module)
        # All processes write a checkpoint, or none does.
        return bool(trainer.strategy.reduce_boolean_decision(sound, all=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far, and the files it belongs to."""
        if state_dict["dirpath"] != self.dirpath:
            state_dict = self._moved(state_dict)
        super().load_state_dict(state_dict)

    def _moved(self, state: dict[str, Any]) -> dict[str, Any]:
        best = {self._fetch(path): score for path, score in state["best_k_models"].items()}
        kept: dict[str, Any] = {path: score for path, score in best.items() if path}
        if len(kept) < len(best):
            log.warning(
                "The best checkpoint so far, %s, is gone; the best of the epochs to come is kept.",
                state["best_model_path"],
            )
            state = {**state, "best_model_score": None, "best_model_path": ""}
        return {
            **state,
            "dirpath": self.dirpath,
            "best_k_models": kept,
            "best_model_path": self._fetch(state["best_model_path"]) or "",
            "kth_best_model_path": self._fetch(state["kth_best_model_path"]) or "",
            "last_model_path": "",
        }

    def _fetch(self, path: str) -> str | None:
        """Copy a checkpoint of the continued run here; None where it is not to be found."""
        assert self.dirpath is not None
        name = Path(path).name
        target = Path(self.dirpath) / name
        # Beside the checkpoint that is continued first: a run's folder may have been moved.
        folders = [self._continued_from, Path(path).parent] if path else []
        places = [folder / name for folder in folders if folder]
        source = next((place for place in places if place.is_file()), None)
        if source is None:
            return None
        if not target.exists():
            with source.open("rb") as old, write_whole(target, "wb") as new:
                shutil.copyfileobj(old, new)
        return str(target)
