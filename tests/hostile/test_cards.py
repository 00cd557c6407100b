"""A stranger's checkpoint through every command that reads one: a result, or one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cards import SECRET, changed, named
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import discern
from discern.commands import evaluate as evaluation
from discern.commands import predict as prediction
from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.saved import read
from run_files import composed

ARMED = (
    "model.dropout=0.2", "model.norm=batch", "callbacks.ema.decay=0.9",
    "callbacks.early_stopping.patience=3", "scheduler=step",
)  # fmt: skip

Command = Callable[[Path], Any]


@pytest.fixture
def commands(tiny_run, tiny_mnist, tmp_path, monkeypatch) -> dict[str, Command]:
    """What discern does with a checkpoint, without the pictures that it draws of the results."""
    monkeypatch.setenv(SECRET, "a secret")
    for draws in ("confusion_figure", "save", "draw_reliability"):
        monkeypatch.setattr(evaluation, draws, lambda *_: None)
    monkeypatch.setattr("discern.reports.sheet.Sheet.save", lambda _, path: path.touch())
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("L", (28, 28), 30).save(pictures / "a.png")

    def evaluate(path: Path) -> None:
        cfg = composed(f"ckpt_path={path}", command="evaluate")
        cfg.data.dir, cfg.folder = str(tiny_mnist), str(tmp_path / "evaluation")
        evaluation.evaluate(cfg)

    def predict(path: Path) -> None:
        cfg = composed(f"ckpt_path={path}", f"input={pictures}", command="predict")
        cfg.out = str(tmp_path / "prediction")
        prediction.predict(cfg)

    def go_on(path: Path) -> None:
        tiny_run(*ARMED, f"ckpt_path={path}", "trainer.max_epochs=3", name="rest")

    def start(path: Path) -> None:
        tiny_run(*ARMED, f"model.init_from={path}", "trainer.max_epochs=1", name="rest")

    return {
        "load": discern.load, "evaluate": evaluate, "predict": predict, "go on": go_on,
        "start": start,
    }  # fmt: skip


@pytest.fixture
def real(tiny_run, tmp_path) -> Path:
    """A folder with the checkpoints of a run, of which the last one is to be replaced."""
    folder = tiny_run(*ARMED, name="first").folder / "checkpoints"
    shutil.copytree(folder, tmp_path / "stranger")
    return tmp_path / "stranger"


def tried(command: Command, path: Path) -> str | None:
    """The sentence in which a file was refused, if it was."""
    try:
        command(path)
    except DiscernError as error:
        said = str(error)
        assert "a secret" not in said
        return said
    return None


REFUSED_BY_ALL = (
    "a seed that is a class", "a seed from the environment", "a data set's seed from there",
    "a class among the data's settings", "a large image", "a resize",
)  # fmt: skip
REFUSED_WHEN_BUILT = ("layers", "a wide layer", "classes", "a huge backbone", "ten thousand layers")
REFUSED_WHEN_GOING_ON = (
    "a short average", "an average that is a number", "a short average of squares", "many steps",
    "a generator",
)  # fmt: skip


def check_named(commands: dict[str, Command], real: Path, few: tuple[str, ...]) -> None:
    content, path = read(real / "last.safetensors"), real / "last.safetensors"
    for name, hostile in named(content):
        write(hostile, path)
        for command in commands if name in REFUSED_BY_ALL else few:
            said = tried(commands[command], path)
            if name in REFUSED_BY_ALL or (name in REFUSED_WHEN_BUILT and command == "load"):
                assert said is not None, (name, command)
                assert len(said) < 2000, (name, command)
            elif name in REFUSED_WHEN_GOING_ON:
                assert (said is not None) == (command == "go on"), (name, command)


def test_files_that_did_harm_are_refused_or_harmless(commands, real):
    # Those that are refused when they are read are refused in one place, whatever the command.
    one = {name: commands[name] for name in ("load", "evaluate")}
    check_named(one, real, ("load",))


@pytest.mark.slow
def test_files_that_did_harm_are_refused_or_harmless_in_every_command(commands, real):
    check_named(commands, real, ("load", "predict", "go on"))


def check_seeds(commands: dict[str, Command], real: Path, examples: int) -> None:
    path = real / "last.safetensors"
    content = read(path)

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**32), st.sampled_from(sorted(commands)), st.booleans())
    def check(seed: int, command: str, of_card: bool) -> None:
        _, hostile = changed(content, seed, ("discern",) if of_card else None)
        try:
            write(hostile, path)
        except (DiscernError, ValueError):  # what no file can hold
            return
        tried(commands[command], path)

    check()


def test_any_part_of_a_checkpoint_may_be_anything(commands, real):
    check_seeds(commands, real, 5)


@pytest.mark.slow
def test_any_part_of_a_checkpoint_may_be_anything_of_many(commands, real):
    check_seeds(commands, real, 60)
