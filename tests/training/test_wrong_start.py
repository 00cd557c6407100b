"""Continuing with something else than was begun with: it goes on, or one sentence says why not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from discern.errors import DiscernError
from photos import photos_in_turn
from run_files import TINY, checkpoint, metrics_csv
from starter import invoke


def refused(tiny_run, *overrides: str) -> str:
    with pytest.raises(DiscernError) as error:
        tiny_run(*overrides, name="after")
    sentence = str(error.value)
    assert sentence.endswith("."), sentence
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def begun(tiny_run) -> Path:
    """A run of one epoch."""
    return tiny_run("trainer.max_epochs=1", "test=false", name="begun").folder


CHANGES = (
    "model.hidden=[9]", "model.hidden=[8,8]", "model=dropout", "model.activation=tanh",
    "model.label_smoothing=0.1", "model.mixup=0.2", "optimizer=sgd", "optimizer=adamw",
    "optimizer.lr=0.5", "optimizer.weight_decay=0.1", "scheduler=cosine", "scheduler=onecycle",
    "scheduler=plateau", "scheduler=step", "data.batch_size=7", "data.val_size=0",
    "data.val_size=30", "data.sampler=balanced", "data.augment=flip_shift", "data.fraction=0.5",
    "data.seed=3", "data.num_workers=1", "seed=5", "callbacks.ema.decay=0.9",
    "callbacks.early_stopping.patience=1", "callbacks.early_stopping=null", "on_nan=skip",
    "on_nan=rollback", "on_nan=continue", "trainer.max_epochs=1", "trainer.max_steps=9",
    "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1",
    "trainer.precision=bf16-mixed", "trainer.limit_train_batches=3", "trainer.val_check_interval=2",
    "callbacks=none", "data.folds=3", "trainer.overfit_batches=2", "rollback.times=1",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_changed_settings_go_on_or_are_refused_in_one_sentence(tiny_run, begun, seed):
    draw = random.Random(seed)
    changes = draw.sample(CHANGES, draw.randint(1, 3))
    if any(each.startswith("callbacks.") for each in changes):
        changes = [each for each in changes if each != "callbacks=none"]
    changes = [each for each in changes if each.partition("=")[0] not in
               {other.partition("=")[0] for other in changes if other is not each}]  # fmt: skip
    result, refusal = None, ""
    try:
        result = tiny_run(f"ckpt_path='{begun}'", "test=false", *changes, name="after")
    except DiscernError as error:
        refusal = str(error)
    if result is None:
        assert refusal.endswith("."), changes
        assert "\n" not in refusal, changes
        return
    assert result.state == "done", changes
    rows = metrics_csv(result.folder, complete=False)
    assert rows[0]["train/loss"] == metrics_csv(begun)[0]["train/loss"], changes


def test_another_network_is_named(tiny_run, begun):
    assert "hidden.0.weight" in refused(tiny_run, f"ckpt_path='{begun}'", "model.hidden=[9]")


def test_an_empty_file_and_folders_without_checkpoints(tiny_run, tmp_path):
    (tmp_path / "empty.safetensors").touch()
    assert "empty.safetensors" in refused(tiny_run, f"ckpt_path='{tmp_path}/empty.safetensors'")
    (tmp_path / "folder" / "checkpoints").mkdir(parents=True)
    assert "checkpoints" in refused(tiny_run, f"ckpt_path='{tmp_path}/folder'")


def test_a_folder_whose_checkpoints_are_all_damaged(tiny_run, begun):
    for path in (begun / "checkpoints").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    said = refused(tiny_run, f"ckpt_path='{begun}'")
    for name in ("last", "best"):
        assert f"{name}.safetensors: its SHA-256 is not what it says" in said


@pytest.mark.parametrize("loop", ["a", "begun/checkpoints/last.safetensors"])
def test_a_loop_of_links(tiny_run, begun, loop):
    path = begun.parent / loop
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path.name)
    refused(tiny_run, f"ckpt_path='{path}'")


# Of pictures

PICTURES = (
    "data=image_folder", "data.dir=photos", "data.image_size=8", "data.num_workers=0",
    "data.batch_size=4", "model.hidden=[4]", "logger=csv", "report=false", "test=false", TINY[-1],
    "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture
def of_pictures(tmp_path: Path) -> Path:
    photos_in_turn(tmp_path / "photos" / "train", 18)
    photos_in_turn(tmp_path / "photos" / "val", 6)
    done = invoke("train", *PICTURES, "trainer.max_epochs=1", "hydra.run.dir=begun", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def on(place: Path):
    return invoke("train", *PICTURES, "trainer.max_epochs=2", "ckpt_path=begun", "hydra.run.dir=on",
                  cwd=place)  # fmt: skip


def test_changed_pictures_are_said_and_trained_on(of_pictures):
    names = sorted((of_pictures / "photos" / "train").rglob("*.png"))
    shutil.copy(names[0], names[1])
    done = on(of_pictures)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "changed" in said or "new" in said or "gone" in said, said
    assert checkpoint(of_pictures / "on")["epoch"] == 1


def test_fewer_classes_are_refused(of_pictures):
    for part in ("train", "val"):
        shutil.rmtree(of_pictures / "photos" / part / "owl")
    done = on(of_pictures)
    assert done.returncode == 1
    assert "owl" in done.stderr
    assert "Traceback" not in done.stderr
