"""What a stranger's ``sweep.json`` and ``study.db`` may hold, and what a sweep removes."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.errors import DiscernError
from discern.sweeps.ledger import Ledger
from discern.sweeps.names import job_name
from discern.sweeps.rows import Objective
from discern.sweeps.study_file import check_study
from discern.sweeps.sweep_file import check_name
from starter import invoke

LOSS = Objective("val/loss", "minimize")


def planned(folder: Path) -> Ledger:
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder, ["optimizer.lr=0.1,0.2"], [LOSS])
    ledger.plan([{"optimizer.lr": rate} for rate in ("0.1", "0.2")], ["optimizer.lr"])
    return ledger


def change(folder: Path, **job: object) -> None:
    content = json.loads((folder / "sweep.json").read_text())
    content["jobs"][1] |= job
    (folder / "sweep.json").write_text(json.dumps(content))


@given(st.text() | st.sampled_from(["..", ".", "best", "a/..", "a\\b", "\x00", "a\n", "é" * 200]))
def test_a_name_that_is_taken_is_one_folder_in_the_sweeps(name):
    try:
        check_name(name)
    except ValueError:
        return
    path = Path("/sweep") / name
    assert path.parent == Path("/sweep")
    assert Path(os.path.normpath(path)) == path
    assert name.isprintable()


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_the_names_that_a_sweep_gives_are_taken(overrides):
    check_name(job_name(overrides, list(overrides)))


@pytest.mark.parametrize("name", ["..", ".", "../beside", "/etc", "", "best", "a\nb", "lr=0.1"])
def test_a_job_elsewhere_is_refused_and_nothing_is_removed(tmp_path, name):
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "precious").touch()
    planned(tmp_path / "sweep")
    change(tmp_path / "sweep", name=name)
    done = invoke("train", "-m", "sweep.resume=sweep", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: sweep/sweep.json cannot be read: it is not what discern writes.\n"
    )
    assert (beside / "precious").exists()


def test_a_folder_that_no_job_has_written_stays(tmp_path):
    ledger = planned(tmp_path)
    (tmp_path / "lr=0.1" / "photos").mkdir(parents=True)
    (tmp_path / "lr=0.2").symlink_to(tmp_path.parent)
    for job in ledger.jobs:
        with pytest.raises(DiscernError, match="is not removed: it does not hold what a job"):
            ledger.resumption(job)
    assert (tmp_path / "lr=0.1" / "photos").is_dir()


def test_a_job_that_was_killed_as_it_began_begins_anew(tmp_path):
    ledger = planned(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    for name in ("train.log", ".config.yaml.abc"):
        (tmp_path / "lr=0.1" / name).touch()
    assert ledger.resumption(ledger.jobs[0]) == []
    assert not (tmp_path / "lr=0.1").exists()


@pytest.mark.parametrize("name", ["multirun.yaml", ".sweep.lock", "lr=0.1/train.log", "best"])
def test_a_sweep_does_not_write_through_links(tmp_path, name):
    (tmp_path / "secret").write_text("mine")
    planned(tmp_path / "sweep")
    (tmp_path / "sweep" / "lr=0.1").mkdir()
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "secret")
    done = invoke("train", "-m", "sweep.resume=sweep", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(f"sweep/{name} cannot be used: it leads out of its folder.\n")
    assert (tmp_path / "secret").read_text() == "mine"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database" * 100),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: os.mkfifo(path),
        lambda path: sqlite3.connect(path).execute("CREATE VIEW trials AS SELECT 1"),
        lambda path: sqlite3.connect(path).execute("CREATE TABLE t (a, b AS (a + 1))"),
        lambda path: sqlite3.connect(path).executescript(
            "CREATE TABLE t (a); CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END"
        ),
    ],
)
def test_a_database_that_computes_is_no_study(tmp_path, spoil):
    check_study(tmp_path / "study.db")
    spoil(tmp_path / "study.db")
    with pytest.raises(DiscernError, match=r"study\.db is not a "):
        check_study(tmp_path / "study.db")


def test_a_study_of_optunas_is_one(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db").ask()
    check_study(tmp_path / "study.db")
