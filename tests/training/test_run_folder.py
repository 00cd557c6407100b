from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import Callback

from discern.errors import DiscernError


class Moves(Callback):
    """Renames the run's folder in the second epoch, as somebody might who tidies up."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            folder = Path(trainer.default_root_dir)
            folder.rename(folder.with_name("moved"))


def test_a_run_whose_folder_is_moved_ends_with_a_sentence(tiny_run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with pytest.raises(DiscernError, match="the run's folder, was moved, removed or replaced"):
        tiny_run("trainer.callbacks=[{_target_: training.test_run_folder.Moves}]")
    assert (tmp_path / "moved" / "checkpoints" / "last.safetensors").exists()
    assert not (tmp_path / "run").exists()
