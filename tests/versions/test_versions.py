"""What earlier versions have left on disk is read, or a sentence says what to do.

Each folder here is named for the version that wrote it, by ``write.py``.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import discern
from discern.errors import DiscernError
from discern.features import source
from discern.features.arrays import features_of
from discern.features.store import FeatureStore
from discern.models import card
from discern.runs import folder as run_folder
from discern.runs.folder import read_run
from discern.runs.state import State
from discern.sweeps import ledger, results
from discern.sweeps.ledger import Ledger
from discern.sweeps.page import write_sweep_page
from run_files import checkpoint, metrics_csv
from starter import invoke
from versions.write import FEATURES, IDS

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "run").is_dir())

FORMATS = {
    "run/summary.json": run_folder.FORMAT,
    "sweep/sweep.json": ledger.FORMAT,
    "sweep/results.json": results.FORMAT,
    "cache/about.json": source.FORMAT,
}
"""Files that carry a format version, with that of today."""


@pytest.fixture(params=VERSIONS)
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what one version has left, which is the working directory of its commands."""
    return Path(shutil.copytree(HERE / request.param, tmp_path / "left", symlinks=True))


@pytest.mark.parametrize("name", FORMATS)
def test_there_is_a_fixture_of_each_format_of_today(name):
    """Whoever raises a format adds what it leaves on disk: see write.py."""
    found = [json.loads((HERE / version / name).read_text())["format"] for version in VERSIONS]
    assert FORMATS[name] in found


def test_there_is_a_fixture_of_the_checkpoint_of_today():
    assert card.FORMAT in [checkpoint(HERE / version / "run")[card.CARD]["format"]
                           for version in VERSIONS]  # fmt: skip


def test_a_run_is_read_and_listed(left):
    run = read_run(left / "run")
    assert run.state is State.DONE
    assert set(run.metrics()) >= {"train/loss", "val/loss", "test/accuracy"}
    assert [row["epoch"] for row in run.epochs()] == [1, 2]
    listed = invoke("runs", "dir=.", "--json", cwd=left)
    assert {(each["folder"], each["state"]) for each in json.loads(listed.stdout)} >= {
        ("run", "done")
    }
    done = invoke("report", "run", cwd=left, draws=False)
    assert done.returncode == 0, done.stderr


def test_its_model_is_loaded_and_measured(left):
    network = discern.load(left / "run")
    assert network(torch.zeros(1, 3, 4, 4)).shape == (1, 3)
    done = invoke("evaluate", "ckpt_path=run", "hydra.run.dir=measured", cwd=left, draws=False)
    assert done.returncode == 0, done.stderr
    test = json.loads((left / "run" / "summary.json").read_text())["metrics"]["test"]
    again = json.loads((left / "measured" / "metrics.json").read_text())["metrics"]
    assert again["loss"]["value"] == pytest.approx(test["loss"], rel=1e-4)


def test_training_continues_from_it(left):
    (arguments,) = [json.loads((left / "run" / "summary.json").read_text())["overrides"]]
    typed = [each for each in arguments if not each.startswith("trainer.max_epochs")]
    done = invoke(
        "train", *typed, "trainer.max_epochs=3", "ckpt_path=run", "hydra.run.dir=on",
        cwd=left, draws=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in metrics_csv(left / "on")] == [1, 2, 3]
    assert metrics_csv(left / "on")[:2] == metrics_csv(left / "run")


def test_a_sweep_is_resumed_and_ranked(left):
    ledger = Ledger.load(left / "sweep")
    assert len(ledger.jobs) == 2
    before = (left / "sweep" / "results.csv").read_text()
    done = invoke("train", "-m", "sweep.resume=sweep", cwd=left, draws=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((left / "sweep" / "results.csv").open(newline="")))
    assert [row["state"] for row in rows] == ["done", "done"]
    assert [row["rank"] for row in csv.DictReader(before.splitlines())] == ["1", "2"]
    write_sweep_page(left / "sweep")


def test_cached_features_are_found(left):
    store = FeatureStore(left / "cache", FEATURES.shape[1], "float32", {"format": source.FORMAT})
    (chunk,) = store.chunks.values()
    assert (store.find(IDS.numpy())[:, 0] >= 0).all()
    assert torch.equal(features_of(chunk), FEATURES)


# Of a version to come


def newer(path: Path) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "format": facts["format"] + 1}))


def test_a_newer_run_says_what_to_do(left):
    newer(left / "run" / "summary.json")
    with pytest.raises(DiscernError, match=r"of a newer version of discern: .* upgrade discern"):
        read_run(left / "run")
    listed = invoke("runs", "dir=.", cwd=left)
    assert listed.returncode == 0
    assert "newer version of discern" in " ".join(listed.stdout.split())


def test_a_newer_sweep_says_what_to_do(left):
    newer(left / "sweep" / "sweep.json")
    done = invoke("train", "-m", "sweep.resume=sweep", cwd=left)
    assert done.returncode == 1
    assert "sweep.json is of a newer version of discern: it has format" in done.stderr
    assert "upgrade discern (pip install --upgrade discern)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("train", "ckpt_path=new.safetensors"), ("evaluate", "ckpt_path=new.safetensors"),
     ("train", "model.init_from=new.safetensors")],
)  # fmt: skip
def test_a_newer_checkpoint_says_what_to_do(left, arguments):
    from discern.models.checkpoint import write

    content = checkpoint(left / "run")
    content[card.CARD] |= {"format": card.FORMAT + 1, "another": {"part": 1}}
    write(content, left / "new.safetensors")
    done = invoke(*arguments, "data=image_folder", "data.dir=data", cwd=left, draws=False)
    assert done.returncode == 1
    assert "new.safetensors is of a newer version of discern" in done.stderr
    assert "upgrade discern" in done.stderr
    assert "Traceback" not in done.stderr
