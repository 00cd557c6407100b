"""What a sweep over folds or splits ends in: real jobs, in processes as a user's are."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from sweeping import results

from discern.errors import DiscernError
from discern.runs.folder import run_meant
from discern.sweeps.select import selected
from run_files import TINY, summary
from starter import invoke

QUICK = ("data.source=sample", "data.fraction=0.2", "data.folds=3", *TINY[3:4],
         "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv",
         "report=false")  # fmt: skip
FOLDS = "data.fold=range(3)"


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sweep over folds alone, ``one``, and one over two settings besides, ``two``, are."""
    cwd = tmp_path_factory.mktemp("folds")
    for name, more in (("one", ()), ("two", ("optimizer.lr=0.01,1e-05",))):
        words = ("-m", *QUICK, FOLDS, *more, f"hydra.sweep.dir={name}")
        done = invoke("train", *words, cwd=cwd, draws=False)
        assert done.returncode == 0, done.stderr
        (cwd / f"{name}.txt").write_text(done.stdout)
    return cwd


def losses(folder: Path) -> list[float]:
    with (folder / "results.csv").open(newline="") as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file)]


def test_folds_alone_end_in_mean_and_deviation_and_no_best(cwd):
    said, told = (cwd / "one.txt").read_text(), results(cwd / "one")
    values = losses(cwd / "one")
    (group,) = told["groups"]
    assert group["values"]["val/loss"]["n"] == 3
    assert group["values"]["val/loss"]["mean"] == pytest.approx(sum(values) / 3, abs=1e-6)
    assert "(mean ± sd over 3 folds)" in said
    assert "best" not in said.replace("best.yaml", "")
    assert "Train it again: python train.py " in said
    assert [row["rank"] for row in told["rows"]] == [None] * 3
    assert [row["folds"] for row in told["rows"]] == [3] * 3


def test_of_several_settings_the_best_mean_is_the_best(cwd):
    said, told = (cwd / "two.txt").read_text(), results(cwd / "two")
    assert "Best setting: optimizer.lr=0.01, val/loss " in said
    assert " over 3 folds" in said
    assert told["best"]["setting"] == {"optimizer.lr": "0.01"}
    assert "fold" not in told["best"]["command"]
    assert "optimizer.lr=0.01" in told["best"]["command"]
    assert (
        told["best"]["values"]["val/loss"]["mean"]
        == told["groups"][0]["values"]["val/loss"]["mean"]
    )


@pytest.mark.parametrize("name", ["one", "two"])
def test_no_fold_is_kept_as_the_best(cwd, name):
    assert not (cwd / name / "best").exists()
    assert not any((job / "test").exists() for job in (cwd / name).iterdir())
    text = (cwd / name / "best.yaml").read_text()
    assert "fold" not in text
    assert yaml.safe_load(text)["model"] == {"hidden": [8]}


def test_best_yaml_trains_without_a_fold(cwd):
    done = invoke(
        "train", "experiment=two/best.yaml", "hydra.run.dir=again", "trainer.limit_train_batches=1",
        "test=false", cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    changed = summary(cwd / "again")["changed"]
    assert "optimizer.lr" in changed
    assert not [name for name in changed if name.startswith("data.fold")]


def test_splits_end_in_mean_and_deviation_and_no_best(tmp_path):
    quick = (word for word in QUICK if not word.startswith("data.folds"))
    done = invoke("train", "-m", *quick, "data.seed=1,2", "hydra.sweep.dir=splits", cwd=tmp_path,
                  draws=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(mean ± sd over 2 splits)" in done.stdout
    assert "data.seed" not in results(tmp_path / "splits")["best"]["command"]
    assert "seed" not in (tmp_path / "splits" / "best.yaml").read_text()
    assert not (tmp_path / "splits" / "best").exists()


def test_commands_that_rank_runs_call_no_fold_the_best(cwd):
    with pytest.raises(DiscernError, match=r"^best needs a run in .* that is not a fold"):
        run_meant("best", cwd / "two")
    names = [run.folder.name for run in selected([str(cwd / "two")], cwd)]
    assert names == [f"fold={n},lr={lr}" for lr in ("0.01", "1e-05") for n in range(3)]
    listed = invoke("runs", "dir=two", "sort=val/loss", cwd=cwd)
    assert "Some are folds (data.folds) of one estimate" in listed.stdout
    compared = invoke("compare", "one", "out=compared", cwd=cwd)
    assert "A, B and C are folds" in " ".join(compared.stdout.split())
    mean = results(cwd / "two")["best"]["values"]["val/loss"]["mean"]
    (cwd / "few").mkdir()
    (cwd / "two").rename(cwd / "few" / "two")
    try:
        pruned = invoke("runs", "prune", "keep=0", "by=val/loss", "dir=few", cwd=cwd)
    finally:
        (cwd / "few" / "two").rename(cwd / "two")
    assert f"{mean:.4f}" in pruned.stdout
