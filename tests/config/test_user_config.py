"""Models and data sets of a user's own: files in ./conf, and what checkpoints may name of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import discern
from discern.errors import DiscernError
from discern.models.card import CARD
from discern.models.checkpoint import write
from discern.models.saved import read
from run_files import DISCERN, NOT_DRAWN, command
from starter import invoke

MODEL = """
from torch import nn

class Own(nn.Module):
    def __init__(self, input_shape, num_classes, width):
        super().__init__()
        channels, height, rows = input_shape
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * rows, width), nn.Linear(width, num_classes)
        )

    def forward(self, images):
        return self.layers(images)
"""
DATA = """
import torch
from discern.data.module import InMemoryDataModule, LoadedImages

class Halves(InMemoryDataModule):
    class_names = ["left", "right"]
    input_shape = (1, 6, 6)

    def load_images(self):
        images = torch.arange(0, 120 * 36).remainder(7).reshape(120, 1, 6, 6).to(torch.uint8)
        labels = torch.arange(120) % 2
        images[labels == 0, :, :, :3] += 200
        images[labels == 1, :, :, 3:] += 200
        return LoadedImages("Halves", images[:100], labels[:100], images[100:], labels[100:])
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a data set and their choices."""
    for folder in ("conf/model", "conf/data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "our_networks.py").write_text(MODEL)
    (tmp_path / "our_pictures.py").write_text(DATA)
    model = "# Ours.\n_target_: our_networks.Own\nwidth: 5\n"
    (tmp_path / "conf/model/own.yaml").write_text(model)
    data = "# Ours.\n_target_: our_pictures.Halves\nbatch_size: 10\nseed: ${seed}\n"
    (tmp_path / "conf/data/halves.yaml").write_text(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("our_networks", "our_pictures"):
        sys.modules.pop(name, None)


OWN = [
    "model=own", "data=halves", "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv",
    NOT_DRAWN,
]  # fmt: skip


def test_every_command_finds_them(project):
    # A new interpreter, which has nothing of these tests on its path.
    done = command(DISCERN, "train", *OWN, "hydra.run.dir=run", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "own on Halves" in done.stdout
    done = invoke("evaluate", "ckpt_path=run", "hydra.run.dir=eval", cwd=project, draws=False)
    assert done.returncode == 0, done.stderr
    assert "own on Halves, test: 20 images" in done.stdout
    done = invoke("inspect", "data=halves", cwd=project)
    assert (done.returncode, "Halves" in done.stdout) == (0, True)
    done = invoke("train", "--help", cwd=project, draws=False)
    assert "halves" in done.stdout
    done = invoke("train", "-m", *OWN, "model.width=2,3", cwd=project, draws=False)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_names_the_choice_and_not_the_class(project):
    result = discern.train(discern.compose(OWN))
    path = result.folder / "checkpoints" / "best.safetensors"
    content = read(path)
    assert content[CARD]["model"] == {"name": "own", "settings": {"width": 5}}
    assert type(discern.load(path)).__name__ == "Own"
    # Whoever has the checkpoint without the file is told so; no class is looked for otherwise.
    (project / "conf/model/own.yaml").unlink()
    with pytest.raises(DiscernError, match="own is not a registered model, nor one of your own"):
        discern.load(path)


@pytest.mark.parametrize("name", ["our_networks.Own", "../model/own", "conf/model/own", "os.path"])
def test_a_strangers_checkpoint_cannot_choose_a_class(project, name, tmp_path):
    result = discern.train(discern.compose(OWN))
    path = result.folder / "checkpoints" / "best.safetensors"
    content = read(path)
    content[CARD]["model"]["name"] = name
    write(content, tmp_path / "stranger.safetensors")
    with pytest.raises(DiscernError, match="is not a registered model"):
        discern.load(tmp_path / "stranger.safetensors")


def test_a_strangers_checkpoint_cannot_choose_a_data_set(project):
    discern.train(discern.compose(OWN, folder="run"))
    path = project / "run" / "checkpoints" / "best.safetensors"
    content = read(path)
    content[CARD]["config"]["data"]["_target_"] = "our_pictures.Other"
    write(content, path)
    done = invoke("evaluate", "ckpt_path=run", cwd=project, draws=False)
    assert done.returncode == 1
    assert "does not name a data set that discern has; say which one" in done.stderr
    assert "data=halves" in done.stderr


def test_a_file_with_the_name_of_discerns_own_choice_is_not_used_and_said_to_be(project):
    (project / "conf/model/mlp.yaml").write_text("_target_: our_networks.Own\nwidth: 3\n")
    done = invoke("train", "data=halves", "trainer.max_epochs=1", cwd=project, draws=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == (
        "conf/model/mlp.yaml is not used: model=mlp is a choice of discern's own; give the file "
        "another name."
    )
    assert "mlp on Halves" in done.stdout


def test_the_folder_is_only_put_on_the_path_when_it_is_needed(project):
    before = list(sys.path)
    discern.compose(["model=own"])
    assert sys.path == before
    discern.train(discern.compose(["data.source=sample", "trainer.fast_dev_run=true"]))
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("_target_: our_networks.Onw\n", "model: "),
        ("_target_: no_such_module.Own\n", "model: "),
        ("_target_: our_networks.Own\nwidht: 3\n", "model: "),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(project, text, sentence):
    (project / "conf/model/own.yaml").write_text(text)
    done = invoke("train", *OWN, cwd=project, draws=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Error: {sentence}"), done.stderr


def test_folders_of_other_programs_do_no_harm(project):
    (project / "conf/model/list.yaml").write_text("[1, 2]\n")
    (project / "conf/data/other.yaml").write_text("defaults:\n  - base: x\npath: ${oc.env:X}\n")
    (project / "conf/model/broken.yaml").write_text("a: [\n")
    (project / "conf/config.yaml").write_text("defaults: [model: list]\n")
    discern.train(discern.compose(OWN, folder="run"))
    done = invoke("evaluate", "ckpt_path=run", cwd=project, draws=False)
    assert done.returncode == 0, done.stderr


def test_of_a_data_set_of_ones_own_a_file_says_words_and_numbers_only(project):
    choice = project / "conf/data/halves.yaml"
    choice.write_text(choice.read_text() + "kind: plain\npart: {_target_: builtins.dict, x: 1}\n")
    source = project / "our_pictures.py"
    source.write_text(source.read_text().replace(
        "    def load_images",
        "    def __init__(self, kind, part, **others):\n"
        "        super().__init__(**others)\n"
        "        print(f'made of {kind} and {part}')\n\n    def load_images",
    ))  # fmt: skip
    done = invoke("train", *OWN, "data.kind=fancy", "hydra.run.dir=run", cwd=project, draws=False)
    assert done.returncode == 0, done.stderr
    done = invoke("evaluate", "ckpt_path=run", cwd=project, draws=False)
    assert (done.returncode, "made of fancy and {'x': 1}" in done.stdout) == (0, True), done.stderr

    path = project / "run/checkpoints/best.safetensors"
    content = read(path)
    for kind in ("/etc/passwd", "../x", "https://localhost:1", "C:\\x", "${oc.env:HOME}"):
        content[CARD]["config"]["data"]["kind"] = kind
        write(content, path)
        done = invoke("evaluate", "ckpt_path=run", cwd=project, draws=False)
        assert done.returncode == 1
        assert "data.kind that is not a plain value" in done.stderr
        assert "made of" not in done.stdout
        assert "Traceback" not in done.stderr
