from __future__ import annotations

import errno
import os
import pickle
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from discern.errors import DiscernError
from discern.files import writing
from discern.training import checkpointing
from discern.training.checkpointing import WholeFileCheckpointIO
from disk import visible
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


def test_a_folder_that_cannot_be_written_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "PAUSES", ())
    (tmp_path / "file").write_text("")
    with pytest.raises(DiscernError, match=r"file/x\.safetensors cannot be written.*: File exists"):
        CHECKPOINTS.save_checkpoint({"state_dict": {}}, tmp_path / "file" / "x.safetensors")


def saved(path: Path, epoch: int) -> bytes:
    CHECKPOINTS.save_checkpoint({"state_dict": {"weight": torch.ones(3)}, "epoch": epoch}, path)
    return path.read_bytes()


def test_what_cannot_be_written_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpointing, "PAUSES", (0.0, 0.0))
    failures = [OSError(28, "No space left on device")] * 2
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (_ for _ in ()).throw(failures.pop()) if failures else fsync(file)
    )
    saved(tmp_path / "last.safetensors", 1)
    assert CHECKPOINTS.load_checkpoint(tmp_path / "last.safetensors")["epoch"] == 1
    assert [record.message.partition("safetensors ")[2] for record in caplog.records] == [
        "cannot be written (No space left on device): it is tried again in 0 s."
    ] * 2
    assert visible(tmp_path) == {"last.safetensors"} == {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_before_the_last_is_kept(tmp_path, monkeypatch, links):
    if not links:  # as on exFAT
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no")))
    last, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    first = saved(last, 1)
    assert visible(tmp_path) == {"last.safetensors"}
    second = saved(last, 2)
    assert (last.read_bytes(), previous.read_bytes()) == (second, first)
    third = saved(last, 3)
    assert (last.read_bytes(), previous.read_bytes()) == (third, second)
    assert {path.name for path in tmp_path.iterdir()} == {last.name, previous.name}


def test_a_damaged_last_one_does_not_take_the_place_of_the_one_before(tmp_path):
    last, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    first = saved(last, 1)
    saved(last, 2)
    last.write_bytes(last.read_bytes()[:-1])
    third = saved(last, 3)
    assert (last.read_bytes(), previous.read_bytes()) == (third, first)


def test_what_is_not_read_back_as_it_was_written_replaces_nothing(tmp_path, monkeypatch):
    """As of a disk that loses what it was given."""
    monkeypatch.setattr(checkpointing, "PAUSES", ())
    last = tmp_path / "last.safetensors"
    first = saved(last, 1)
    fsync = os.fsync

    def lose(file: int) -> None:
        fsync(file)
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.pwrite(file, b"\xff", os.fstat(file).st_size - 1)

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(DiscernError, match=r"what was written is not what is read back"):
        saved(last, 2)
    assert last.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


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


def test_a_try_that_fails_after_the_rename_costs_not_the_checkpoint_before(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "PAUSES", (0.0, 0.0))
    last = tmp_path / "last.safetensors"
    CHECKPOINTS.save_checkpoint({"epoch": 1}, last)
    sync, failures = writing.sync_folder, [OSError(errno.ENOSPC, "full")]

    def sometimes(folder: Path) -> None:
        if failures:
            raise failures.pop()
        sync(folder)

    monkeypatch.setattr(writing, "sync_folder", sometimes)
    CHECKPOINTS.save_checkpoint({"epoch": 2}, last)
    found = [
        CHECKPOINTS.load_checkpoint(tmp_path / f"{name}.safetensors")["epoch"]
        for name in ("last", "previous")
    ]
    assert found == [2, 1]
