"""What is added to discern is a file and, where people choose it, a YAML: tried in a copy of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.metrics import jaccard_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from discern.config.user_config import conf_dir
from discern.runs.tested import read_tested

ROOT = Path(__file__).parents[1]

NEW = {
    "model": {
        "src/discern/models/linear.py": """
            from math import prod
            from torch import nn

            class Linear(nn.Sequential):
                def __init__(self, input_shape, num_classes):
                    super().__init__(nn.Flatten(), nn.Linear(prod(input_shape), num_classes))
        """,
        "conf/model/linear.yaml": """
            # One linear layer from pixels to classes.
            _target_: discern.models.linear.Linear
        """,
    },
    "data set": {
        "src/discern/data/published/stripes.py": """
            import torch
            from discern.data.module import InMemoryDataModule, LoadedImages

            class Stripes(InMemoryDataModule):
                class_names = ["across", "down"]
                input_shape = (1, 6, 6)

                def load_images(self):
                    labels = torch.arange(80) % 2
                    across = torch.zeros(6, 6, dtype=torch.uint8)
                    across[::2] = 200
                    images = torch.stack([across, across.T])[labels][:, None]
                    images += torch.arange(80, dtype=torch.uint8)[:, None, None, None] // 2
                    return LoadedImages(
                        "Stripes", images[:60], labels[:60], images[60:], labels[60:]
                    )
        """,
        "conf/data/stripes.yaml": """
            # Stripes across or down.
            _target_: discern.data.published.stripes.Stripes
            mean: 0.5
            std: 0.5
            val_size: 0.2
            batch_size: 16
            seed: ${seed}
        """,
    },
    "optimizer": {
        "conf/optimizer/rprop.yaml": """
            # Rprop.
            _target_: torch.optim.Rprop
            lr: 1e-3
        """,
    },
    "callback": {
        "src/discern/training/bell.py": """
            from pathlib import Path
            from lightning.pytorch import Callback

            class Bell(Callback):
                def __init__(self, rings):
                    self.rings = rings

                def on_fit_end(self, trainer, module):
                    Path("rung").write_text(str(self.rings))
        """,
        "conf/callbacks/bell.yaml": """
            # Ring at the end.
            bell:
              _target_: discern.training.bell.Bell
              rings: 3
        """,
    },
    "section": {
        "src/discern/reports/pages/run/hello.html.j2": """
            <h2>Greeting</h2>
            <p>{{ this.words }}</p>
        """,
    },
    "metric": {},
}
"""What is added -> file -> its lines."""

CHANGED = {
    "section": (
        "src/discern/reports/run_page.py",
        '    "environment": ',
        '    "hello": lambda shown: {"words": f"This was {shown.run.title}."},\n',
    ),
    "metric": (
        "src/discern/runs/metric_table.py",
        '    Metric("top5_error", ',
        '    Metric("jaccard", "Jaccard index", "max", average="macro", of_class=lambda of:\n'
        "           (of.correct, of.support + of.predicted - of.correct)),\n",
    ),
}
"""What is added -> a file that is there, a line of it, and what comes before that line."""

FILES = {"model": 2, "data set": 2, "optimizer": 1, "callback": 2, "section": 2, "metric": 1}
"""So many files are written or changed."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """discern with all of them."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(conf_dir(), folder / "conf")
    for files in NEW.values():
        for name, lines in files.items():
            path = folder / name
            assert not path.exists()
            first, *others = lines.strip("\n").splitlines()
            indent = len(first) - len(first.lstrip())
            path.write_text("\n".join(line[indent:] for line in (first, *others)) + "\n")
    for name, line, addition in CHANGED.values():
        path = folder / name
        text = path.read_text()
        assert text.count(line) == 1
        path.write_text(text.replace(line, addition + line))
    return folder


@pytest.fixture(scope="module")
def run(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of theirs."""
    here = tmp_path_factory.mktemp("here")
    discern(
        copy, here, "train", "model=linear", "data=stripes", "optimizer=rprop",
        "callbacks=[default,bell]", "trainer.max_epochs=2", "trainer.accelerator=cpu",
        "hydra.run.dir=run",
    )  # fmt: skip
    return here / "run"


@pytest.fixture(scope="module")
def sweep(copy: Path, run: Path) -> Path:
    """A sweep of two, ranked by the metric."""
    discern(
        copy, run.parent, "train", "-m", "optimizer.lr=1e-3,0.1", "objective=val/jaccard",
        "model=linear", "data=stripes", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        "hydra/launcher=basic", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    return run.parent / "sweep"


def discern(copy: Path, cwd: Path, *words: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "discern", *words], cwd=cwd, text=True, capture_output=True,
        check=False, env={**os.environ, "PYTHONPATH": str(copy / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", NEW)
def test_few_files_are_touched(what):
    assert len(NEW[what]) + (what in CHANGED) == FILES[what]


def test_a_model_and_a_data_set(copy, run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["title"] == "linear on Stripes"
    accuracy = summary["metrics"]["test"]["accuracy"]
    discern(copy, run.parent, "evaluate", "ckpt_path=run", "hydra.run.dir=evaluated")
    metrics = json.loads((run.parent / "evaluated" / "metrics.json").read_text())
    assert metrics["metrics"]["accuracy"]["value"] == accuracy


def test_an_optimizer(run):
    assert "_target_: torch.optim.Rprop" in (run / "config.yaml").read_text()


def test_a_callback(run):
    assert (run.parent / "rung").read_text() == "3"


def test_a_section_of_the_report(run):
    page = (run / "report.html").read_text()
    assert "<h2>Greeting</h2>\n<p>This was linear on Stripes.</p>" in page
    assert page.index("Greeting") < page.index("<h2>Environment</h2>")


def test_a_metric_of_a_run(run):
    summary = json.loads((run / "summary.json").read_text())
    test = summary["metrics"]["test"]["jaccard"]
    tested = read_tested(run)
    assert tested is not None
    said = tested.predictions
    assert test == pytest.approx(jaccard_score(said.labels, said.predicted, average="macro"))
    # Where precision and recall are measured, and not in training.
    assert "jaccard" in summary["metrics"]["val"]
    assert "jaccard" not in summary["metrics"]["train"]
    assert "Jaccard index" in (run / "train.log").read_text()  # as in the terminal
    assert "val/jaccard" in (run / "metrics.csv").read_text().splitlines()[0].split(",")
    page = (run / "report.html").read_text()
    assert page.count(">Jaccard index<") == 2  # with the other metrics, and class by class
    assert re.search(rf"Jaccard index</t.>.*{test:.4f}.*\d to \d", page)
    events = [EventAccumulator(str(file)).Reload() for file in run.rglob("events.out.tfevents*")]
    tags = {tag for each in events for tag in each.Tags()["scalars"]}
    assert {"val/jaccard", "train-result/test/jaccard", "train-result/val/jaccard"} <= tags


def test_a_metric_of_several_runs(copy, sweep):
    here = sweep.parent
    assert "val/jaccard" in discern(copy, here, "runs", "dir=sweep", "sort=val/jaccard")
    jobs = [f"sweep/{path.parent.name}" for path in sorted(sweep.glob("*/summary.json"))]
    assert "val/jaccard" in discern(copy, here, "compare", *jobs)
    assert "val/jaccard" in (sweep / "results.csv").read_text().splitlines()[0].split(",")
    best = json.loads((sweep / "results.json").read_text())["best"]
    assert "jaccard" in best["test"]
    assert "Best val/jaccard" in (sweep / "report.html").read_text()
