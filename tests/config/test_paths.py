"""Paths as people have them, through the commands; and ``hydra.job.chdir=true``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from photos import photo_folder
from run_files import summary
from starter import invoke

NAME = "a=b, c [d] 'e' #f"
QUICK = (
    "data=image_folder", "data.image_size=8", "data.num_workers=0", "model.hidden=[4]",
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "callbacks=checkpoints", "logger=csv",
)  # fmt: skip


def works(cwd: Path, *arguments: str, **env: str) -> str:
    done = invoke(*arguments, cwd=cwd, draws=False, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_folder_of_any_name_goes_through_every_command(tmp_path):
    photo_folder(tmp_path / NAME, size=(8, 8))
    works(tmp_path, "train", *QUICK, f"data.dir={NAME}", f"hydra.run.dir=runs/{NAME}")
    run = f"runs/{NAME}"
    assert f"- data.dir={NAME}" not in (tmp_path / run / "overrides.yaml").read_text()
    said = works(tmp_path, "evaluate", f"ckpt_path={run}", f"data.dir={NAME}", "split=val")
    assert "Results: outputs" in said
    works(tmp_path, "predict", f"ckpt_path={run}", f"input={NAME}/*/1.jpg", f"out=out {NAME}")
    assert len((tmp_path / f"out {NAME}" / "predictions.csv").read_text().splitlines()) == 3
    works(tmp_path, "inspect", "data=image_folder", f"data.dir={NAME}")
    assert f"{run}/report.html" in works(tmp_path, "report", run)
    assert NAME in works(tmp_path, "runs", "dir=runs", f"data.dir={NAME}")
    # The command that the report shows is one that a shell hands on, and discern reads.
    page = (tmp_path / run / "report.html").read_text()
    assert "data.dir=a=b, c [d]" in page
    works(tmp_path, "train", *QUICK, f"data.dir={NAME}", f"ckpt_path={run}", "train=false")


def test_a_sweep_s_own_folders_can_be_given_back(tmp_path):
    photo_folder(tmp_path / NAME, size=(8, 8))
    settings = ("optimizer.lr=0.1,0.01", "model.dropout=0,0.2", f"hydra.sweep.dir=s {NAME}")
    works(tmp_path, "train", "-m", *QUICK, "report=false", f"data.dir={NAME}", *settings)
    jobs = [f"s {NAME}/lr={lr},dropout={drop}" for lr in ("0.1", "0.01") for drop in ("0", "0.2")]
    assert all((tmp_path / job / "checkpoints" / "best.safetensors").is_file() for job in jobs)
    works(tmp_path, "evaluate", f"ckpt_path={jobs[0]}", f"data.dir={NAME}")
    said = works(
        tmp_path, "evaluate", "-m", f"ckpt_path={jobs[1]},{jobs[2]}", f"data.dir={NAME}",
        "hydra.sweep.dir=both",
    )  # fmt: skip
    assert "both/1" in said
    paths = [
        json.loads((tmp_path / "both" / n / "metrics.json").read_text())["checkpoint"]["path"]
        for n in "01"
    ]
    assert [str(Path(path).parents[1]) for path in paths] == jobs[1:3]
    works(tmp_path, "train", "-m", f"sweep.resume=s {NAME}")
    best = json.loads((tmp_path / f"s {NAME}" / "results.json").read_text())["best"]
    again = shlex.split(best["command"])[2:]
    assert f"data.dir={NAME}" in again
    works(tmp_path, "train", *again, "hydra.run.dir=one")
    works(tmp_path, "train", f"experiment=s {NAME}/best.yaml", "hydra.run.dir=two")
    one, two = (summary(tmp_path / name)["metrics"] for name in ("one", "two"))
    assert one == two


def test_a_folder_below_home(tmp_path):
    photo_folder(tmp_path / "home" / "photos", size=(8, 8))
    home = str(tmp_path / "home")
    works(tmp_path, "train", *QUICK, "data.dir=~/photos", "hydra.run.dir=~/run", HOME=home)
    works(tmp_path, "predict", "ckpt_path=~/run", "input=~/photos", "out=~/said", HOME=home)
    assert (tmp_path / "home" / "said" / "predictions.csv").is_file()
    assert not (tmp_path / "~").exists()


def test_relative_paths_keep_their_meaning_when_hydra_changes_the_folder(tmp_path):
    photo_folder(tmp_path / "photos", size=(8, 8))
    chdir = "hydra.job.chdir=true"
    said = works(tmp_path, "train", *QUICK, "data.dir=photos", "hydra.run.dir=runs/one", chdir)
    assert "Results: runs/one\n" in said
    works(tmp_path, "train", *QUICK, "data.dir=photos", "ckpt_path=runs/one",
          "trainer.max_epochs=2", "hydra.run.dir=runs/two", chdir)  # fmt: skip
    start = "model.init_from=runs/one/checkpoints/best.safetensors"
    works(tmp_path, "train", *QUICK, "data.dir=photos", start, chdir)  # into outputs
    for model in ("runs/one", "last"):
        said = works(tmp_path, "evaluate", f"ckpt_path={model}", "data.dir=photos", chdir)
        assert "Results: outputs/" in said
    works(tmp_path, "predict", "ckpt_path=last", "input=photos/*/1.jpg", "out=said", chdir)
    assert (tmp_path / "said" / "predictions.csv").is_file()
    works(tmp_path, "inspect", "data=image_folder", "data.dir=photos", chdir)
    said = works(tmp_path, "train", "-m", *QUICK, "data.dir=photos", "seed=1,2",
                 "hydra.sweep.dir=sweep", chdir)  # fmt: skip
    assert "Results: sweep\n" in said
    assert (tmp_path / "sweep" / "seed=1" / "summary.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "outputs", "photos", "runs", "said", "sweep",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("tags=[a=b]", "'tags=\"[a=b]\"'"),
        ("model.backbone=it's", "'model.backbone=\"it'\"'\"'s\"'"),
        ("photos", "'data.dir=my photos'"),
    ],
)
def test_the_way_out_survives_the_shell(tmp_path, override, way_out):
    done = invoke("train", override, cwd=tmp_path)
    assert done.returncode == 1
    assert way_out in done.stderr
    if "=" in override:
        (again,) = shlex.split(way_out)
        assert "cannot be read" not in invoke("train", again, cwd=tmp_path).stderr


def test_a_name_that_is_no_text_is_refused_in_a_sentence(tmp_path):
    for setting in ("data.dir", "hydra.run.dir", "ckpt_path"):
        done = invoke("train", f"{setting}=bad\udcff", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {setting}=bad\\xff is not UTF-8")
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
