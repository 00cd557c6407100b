"""Warnings that say what to look at, where training cannot learn, and none elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from photos import photo, photos_in_turn
from run_files import own_model, summary
from starter import invoke


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


class Dead(nn.Module):
    """A network whose hidden units never fire."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 8)
        self.output = nn.Linear(8, num_classes)
        with torch.no_grad():
            self.hidden.bias.fill_(-1e3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.output(self.hidden(images.flatten(1)).relu())


def warnings(result) -> list[str]:
    return summary(result.folder)["warnings"]


@pytest.mark.parametrize(
    "settings",
    [(), ("optimizer=sgd", "optimizer.lr=0.01"), ("trainer.max_epochs=1",),
     ("model=dropout", "model.hidden=[8]", "model.label_smoothing=0.3", "model.mixup=0.4"),
     ("optimizer.lr=1e-5", "data.sampler=balanced", "model.class_weights=auto"),
     ("trainer.max_epochs=4", "scheduler=onecycle", "callbacks.ema.decay=0.9")],
)  # fmt: skip
def test_healthy_training_has_no_warning(tiny_run, settings):
    assert warnings(tiny_run(*settings)) == []


def test_weights_that_do_not_move(tiny_run, caplog):
    (sentence,) = warnings(tiny_run("optimizer=sgd", "optimizer.lr=1e-12"))
    assert sentence.startswith("12 steps have hardly moved the weights: by ")
    assert sentence.endswith("at a learning rate of 1e-12; look at optimizer.lr and at the "
                             "scheduler.")  # fmt: skip
    assert caplog.messages.count(sentence) == 1


def test_a_loss_that_stays_at_guessing(tiny_run):
    dead = own_model("training.test_diagnosis.Dead")
    (sentence,) = warnings(
        tiny_run(*dead, "optimizer.lr=0.1", "trainer.max_epochs=6", "callbacks.early_stopping=null")
    )
    assert "The training loss has not moved from that of guessing, 2.2" in sentence
    assert "in 6 epochs" in sentence
    assert "dead units" in sentence


# Of pictures

PICTURES = (
    "data=image_folder", "data.dir=photos", "data.image_size=8", "data.num_workers=0",
    "data.batch_size=4", "trainer.accelerator=cpu", "trainer.max_epochs=2", "logger=csv",
    "hydra.run.dir=run", "model.hidden=[4]",
)  # fmt: skip


def train(place: Path, *settings: str) -> tuple[list[str], str, str]:
    done = invoke("train", *PICTURES, *settings, cwd=place, draws=False)
    assert done.returncode == 0, done.stderr
    page = (place / "run" / "report.html").read_text()
    return summary(place / "run")["warnings"], done.stderr, page


def test_a_validation_split_of_one_class_is_said_in_terminal_summary_and_report(tmp_path):
    photos_in_turn(tmp_path / "photos" / "train", 24)
    photos_in_turn(tmp_path / "photos" / "val", 9)
    for name in ("cat", "owl"):
        shutil.rmtree(tmp_path / "photos" / "val" / name)
    (sentence,), said, page = train(tmp_path)
    assert sentence.startswith("All 3 validation images are of the class dog: val/loss and ")
    assert said.count(sentence) == 1
    assert "validation images are of the class dog" in page


def test_pictures_that_are_all_the_same(tmp_path):
    for part, count in {"train": 12, "val": 3}.items():
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                photo(0.5, "x", (12, 12)).save(folder / f"{part}{number}.png")
    found, _, _ = train(tmp_path, "data.augment=none")
    assert any("training images are all the same" in each for each in found)
