from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from discern.errors import DiscernError
from discern.training.checkpointing import WholeFileCheckpointIO
from run_files import checkpoint

CHECKPOINTS = WholeFileCheckpointIO()


class Payload:
    """What an attacker would put into a checkpoint: unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_is_saved_is_loaded(tmp_path):
    saved = {"state_dict": {"weight": torch.arange(3.0)}, "epoch": 3, "callbacks": {"a": [1, None]}}
    CHECKPOINTS.save_checkpoint(saved, tmp_path / "folder" / "x.safetensors")
    loaded = CHECKPOINTS.load_checkpoint(tmp_path / "folder" / "x.safetensors")
    assert torch.equal(loaded.pop("state_dict")["weight"], torch.arange(3.0))
    assert loaded == {"epoch": 3, "callbacks": {"a": [1, None]}}


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "x.safetensors"
    CHECKPOINTS.save_checkpoint({"state_dict": {}, "epoch": 1}, path)
    with pytest.raises(DiscernError, match=r"^epoch of the checkpoint is a builtins\.function"):
        CHECKPOINTS.save_checkpoint({"state_dict": {}, "epoch": lambda: 2}, path)
    assert CHECKPOINTS.load_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_not_passed_over(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        CHECKPOINTS.save_checkpoint({"state_dict": {}}, tmp_path / "file" / "x.safetensors")


@pytest.mark.parametrize("weights_only", [True, False, None])
def test_nothing_in_a_checkpoint_is_executed_whoever_asks(tmp_path, weights_only):
    path, trace = tmp_path / "x.safetensors", tmp_path / "executed"
    torch.save({"state_dict": {}, "extra": Payload(trace)}, path)
    with pytest.raises(DiscernError, match=r"^ckpt_path\b.*x\.safetensors "):
        CHECKPOINTS.load_checkpoint(path, weights_only=weights_only)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(DiscernError, match="tensors and plain values"):
        CHECKPOINTS.load_checkpoint(path, weights_only=weights_only)
    assert not trace.exists()


def garbage(path: Path, how: str) -> None:
    if how == "half":
        CHECKPOINTS.save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:1500])
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n", "zip": b"PK\x03\x04" + bytes(99)}[how])


@pytest.mark.parametrize("how", ["empty", "text", "zip", "half"])
def test_garbage_is_no_checkpoint(tmp_path, how):
    path = tmp_path / "x.safetensors"
    garbage(path, how)
    with pytest.raises(DiscernError, match=r"^ckpt_path\b.*x\.safetensors "):
        CHECKPOINTS.load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"weight": 1}, 3])
def test_a_file_of_something_else_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "x.safetensors")
    with pytest.raises(DiscernError, match=r"^ckpt_path\b.*x\.safetensors is not a checkpoint"):
        CHECKPOINTS.load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("train", ["train=false", "train=true"])
def test_a_run_refuses_a_checkpoint_that_it_cannot_read(tiny_run, tmp_path, train):
    path = tmp_path / "x.safetensors"
    garbage(path, "half")
    with pytest.raises(DiscernError, match=r"ckpt_path\b.*x\.safetensors "):
        tiny_run(f"ckpt_path={path}", train)


@pytest.mark.parametrize("train", ["train=false", "train=true"])
def test_a_run_executes_nothing_of_a_checkpoint(tiny_run, tmp_path, train):
    path, trace = tmp_path / "x.safetensors", tmp_path / "executed"
    good = tiny_run(name="good")
    torch.save({**checkpoint(good.folder), "extra": Payload(trace)}, path)
    with pytest.raises(DiscernError, match=r"ckpt_path\b.*x\.safetensors "):
        tiny_run(f"ckpt_path={path}", train)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_runs_checkpoints_hold_tensors_and_plain_values_under_the_networks_names(tiny_run, name):
    folder = tiny_run().folder
    saved = checkpoint(folder, name)
    assert saved["state_dict"].keys() == {
        f"{layer}.{kind}" for layer in ("hidden.0", "output") for kind in ("weight", "bias")
    }
    assert not saved.get("hyper_parameters")


class Stateful(Callback):
    """A user's callback with a state that is not a plain value."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": [1, {"when": datetime(2026, 1, 1, tzinfo=UTC)}]}


def test_a_callback_whose_state_has_no_place_in_a_file_is_told(tiny_run):
    own = "{_target_: test_checkpointing.Stateful}"
    with pytest.raises(
        DiscernError, match=r"seen\.1\.when of the checkpoint is a datetime\.datetime"
    ):
        tiny_run(f"trainer.callbacks=[{own}]")
