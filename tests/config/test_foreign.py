"""What files given by path, and overrides in a sweep's folder, may say."""

from __future__ import annotations

import io
import itertools
import re
import string
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from discern.config.check import check
from discern.config.compose import compose
from discern.config.foreign import check_overrides
from discern.errors import DiscernError
from starter import invoke

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
import folders

QUICK = ("data.source=sample", "trainer.accelerator=cpu", "debug=limit")
MINE = """
from lightning.pytorch import Callback
from torch import nn

class Hello(Callback):
    pass

class Plain:
    pass

def make():
    return Hello()
"""


def pixel(value: int) -> bytes:
    """A PNG of a colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a module, a script that must not be run, and bait."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAIT", folders.SECRET)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_of_tests.py").write_text(MINE)
    (tmp_path / "setup.py").write_text("raise SystemExit('this script was run')\n")
    (tmp_path / "bait").mkdir()
    (tmp_path / "bait" / "secret.yaml").write_text("_target_: os.system\n")
    return tmp_path


def test_a_hostile_file_is_refused_in_a_sentence(here):
    for text in folders.settings(here / "bait"):
        (here / "x.yaml").write_text(text)
        with pytest.raises(DiscernError, match=r"\A[^\n\x1b]{20,400}\Z"):
            compose(["experiment=x.yaml"])
        assert [path.name for path in (here / "bait").iterdir()] == ["secret.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "callbacks: {x: {_target_: mine_of_tests.Hello}}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.LearningRateMonitor}}",
        "callbacks: {x: {_target_: torchmetrics.Accuracy, task: binary}}",
        "optimizer: {_target_: torch.optim.RMSprop, lr: '${base}'}\nbase: 0.5",
        "scheduler: {_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.9}",
        "logger: {x: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: '${folder}/csv'}}",
        "trainer: {strategy: {_target_: lightning.pytorch.strategies.DDPStrategy}}",
        "callbacks: {x: {_target_: torchvision.transforms.ToTensor}}",
        "tags: ['${now:%Y}']",
        "defaults: [{override /model: dropout}]",
        "callbacks: {best_checkpoint: {dirpath: '${folder}/best'}}",
        "logger: {csv: {path: '${folder}/x.csv'}, tensorboard: {name: a/b, version: v1}}",
        "logger: {tensorboard: {log_graph: '${train}', tags: '${tags}'}}",
        "callbacks: {x: {_target_: torch.nn.Sequential, _args_: [{_target_: torch.nn.ReLU}, 3]}}",
        "trainer: {max_epochs: '${seed}', profiler: simple}",
    ],
)
def test_an_honest_file_is_taken(here, text):
    (here / "x.yaml").write_text(text)
    compose(["experiment=x.yaml"])


@pytest.mark.parametrize(
    "text",
    [
        "1: {a: 1}", "true: {a: 1}", "tags: ['${tags}']", "model: {hidden: ['${model.hidden}']}",
        "tags: ['${oc.select:tags}']", "logger: x", "callbacks: 3", "callbacks: {1: 2}",
    ],
)  # fmt: skip
def test_a_file_of_settings_of_no_form_is_told_in_a_sentence(here, text):
    (here / "x.yaml").write_text(text)
    with pytest.raises(DiscernError, match=r"\A[^\n\x1b]{20,2000}"):
        check(compose(["experiment=x.yaml"]))


EVIL = """
from pathlib import Path
from torch import nn

Path("RAN").touch()

class Net(nn.Module):
    pass
"""
UNPACKED = """
defaults: [override /data: catdog]
data: {{dir: ., url: 'file://{}'}}
model: {{_target_: Cat_Dog_data.evil.Net}}
"""


def test_nothing_that_a_file_has_downloaded_is_imported(tmp_path):
    with zipfile.ZipFile(tmp_path / "cats.zip", "w") as archive:
        archive.writestr("Cat_Dog_data/evil.py", EVIL)
        for part, kind in itertools.product(("train", "test"), ("cat", "dog")):
            for number in range(4):
                archive.writestr(f"Cat_Dog_data/{part}/{kind}/{number}.png", pixel(number))
    (tmp_path / "x.yaml").write_text(UNPACKED.format(tmp_path / "cats.zip"))
    here = tmp_path / "here"
    here.mkdir()
    words = ("experiment=../x.yaml", "trainer.accelerator=cpu", "debug=limit")
    for allowed, refused in (
        ("data.url", "_target_: Cat_Dog_data.evil.Net"),
        ("Cat_Dog_data", "data.url"),
    ):
        done = invoke("train", *words, f"allow_targets=[{allowed}]", cwd=here)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"says {refused}, which" in done.stderr
    assert not list(here.iterdir())
    with pytest.raises(DiscernError, match=r"x says data\.url, which only you may set"):
        check_overrides([f"data.url=file://{tmp_path}/cats.zip"], [], "x")


@pytest.mark.parametrize("package", ["__init__.py", "evil.py"])
def test_no_module_in_a_folder_that_lies_here_is_imported(here, package):
    (here / "photos").mkdir()
    (here / "photos" / package).write_text(EVIL)
    module = "photos" if package == "__init__.py" else "photos.evil"
    (here / "x.yaml").write_text(f"callbacks: {{x: {{_target_: {module}.Net}}}}")
    with pytest.raises(DiscernError, match=f"_target_: {module}.Net, which is not a class"):
        compose(["experiment=x.yaml"])
    with pytest.raises(DiscernError, match=f"_target_: {module}.Net, which is not a class"):
        check_overrides([f"+callbacks.x._target_={module}.Net"], [], "x")
    assert not (here / "RAN").exists()


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("defaults: [override /data: catdog]\ndata: {url: 'https://a.b/c.zip'}", "data.url"),
        ("callbacks: {x: {_target_: mine_of_tests.make}}", "mine_of_tests"),
        ("callbacks: {x: {_target_: mine_of_tests.Plain}}", "mine_of_tests.Plain"),
        ("tags: ['${oc.env:BAIT}']", "oc.env"),
        ("hydra: {run: {dir: elsewhere}}", "hydra"),
    ],
)
def test_what_is_typed_allows_more_and_so_does_conf(here, text, entry):
    (here / "x.yaml").write_text(text)
    for allowed in ("allow_targets=[]", "allow_targets=[mine]", "allow_targets=[os]"):
        with pytest.raises(DiscernError, match=re.escape("allow_targets=[")):
            compose(["experiment=x.yaml", allowed])
    compose(["experiment=x.yaml", f"allow_targets=[{entry}]"])
    own = here / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "own.yaml").write_text(f"# @package _global_\n{text}")
    compose(["experiment=own"])
    compose(["experiment=conf/experiment/own.yaml"])


@pytest.mark.parametrize(
    "words", [("-cd", "o"), ("--config-dir=o",), ("hydra.searchpath=[o]",)], ids=" ".join
)
def test_a_folder_given_by_path_is_checked_and_one_sentence_says_so(tmp_path, words):
    (tmp_path / "o" / "callbacks").mkdir(parents=True)
    (tmp_path / "o" / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "o" / "callbacks" / "e.yaml").write_text("x: {_target_: os.system, command: ls}")
    (tmp_path / "o" / "hydra" / "launcher" / "e.yaml").write_text("_target_: os.system")
    for choice in ("callbacks=e", "hydra/launcher=e", f"callbacks={tmp_path}/o/callbacks/e"):
        done = invoke("train", *QUICK, choice, *words, cwd=tmp_path)
        assert done.returncode == 1
        assert re.fullmatch(r"Error: .*(e\.yaml says |is not a choice).*\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_hydras_own_refusal_is_passed_on_whole(tmp_path):
    done = invoke("train", *QUICK, "+callbacks.x._target_=os.system", cwd=tmp_path)
    assert done.returncode == 1
    assert "HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE" in done.stderr


def test_overrides_of_a_sweeps_folder_are_refused_unless_they_were_typed_again(here):
    for key, value in folders.overrides(here / "bait"):
        override = f"{key}={value}"
        with pytest.raises(DiscernError, match=r"sweep\.resume=x says"):
            check_overrides([override], [], "sweep.resume=x")
        check_overrides([override], [override], "sweep.resume=x")


NAMES = st.lists(
    st.text(string.ascii_lowercase + "_", min_size=1, max_size=8), min_size=1, max_size=3
).map(".".join)


@given(
    NAMES, st.floats(allow_nan=False) | st.integers() | st.sampled_from(["mlp", "true", "[1,2]"])
)
def test_settings_with_plain_values_are_taken(name, value):
    if name.partition(".")[0] not in ("sweep", "hydra", "folder") and "_target_" not in name:
        check_overrides([f"{name}={value}"], [], "x")


THERE = [target for target in folders.TARGETS if not target.startswith("setup.")]


@given(NAMES, st.sampled_from(["+", "++", ""]), st.sampled_from(THERE))
def test_no_setting_of_whatever_name_has_a_target_that_runs(name, plus, target):
    for override in (
        f"{plus}{name}._target_={target}",
        f"{plus}{name}={{a: {{_target_: {target}}}}}",
    ):
        with pytest.raises(DiscernError):
            check_overrides([override], [], "x")
