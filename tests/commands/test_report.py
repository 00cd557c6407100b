from __future__ import annotations

import subprocess
import sys

import pytest

from discern.version import __version__
from made_runs import made_run
from starter import invoke


def test_reports_are_made_anew_of_all_runs_below(tiny_run, tmp_path):
    one, other = tiny_run(name="day/one"), tiny_run(name="day/other")
    for run in (one, other):
        (run.folder / "report.html").write_text("old")
    done = invoke("report", "day", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["day/one/report.html", "day/other/report.html"]
    assert (one.folder / "report.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(("word", "folder"), [("last", "newest"), ("best", "lowest")])
def test_last_is_the_newest_run_of_outputs_and_best_the_best(tmp_path, word, folder):
    made_run(tmp_path / "outputs" / "a" / "newest", minute=1, metrics={"val": {"loss": 0.9}})
    made_run(tmp_path / "outputs" / "b" / "lowest", minute=0, metrics={"val": {"loss": 0.1}})
    done = invoke("report", word, cwd=tmp_path)
    assert done.stdout.endswith(f"/{folder}/report.html\n"), done.stderr


def test_of_another_version_a_sentence_says_so(tmp_path):
    made_run(tmp_path / "run", format=2)
    done = invoke("report", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: run/summary.json is of a newer version of discern: it has format 2, and this "
        "version reads format 1; upgrade discern (pip install --upgrade discern) to read it; you "
        f"have {__version__}.\n"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nowhere", "nowhere is not a folder"),
        ("x" * 300, "xxx is not a folder"),
        ("empty", "empty has no run in it"),
        ("last", "last needs a run in outputs, and there is none"),
        ("best", "best needs a run with a val/loss in outputs, and there is none"),
    ],
)
def test_what_is_no_run_is_told_in_a_sentence(tmp_path, asked, said):
    (tmp_path / "empty").mkdir()
    done = invoke("report", asked, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_is_given(tmp_path):
    assert "Usage: discern report" in invoke("report", "--help", cwd=tmp_path).stdout


def test_the_command_does_without_torch(tiny_run, tmp_path):
    run = tiny_run("report=false")
    code = (
        "import sys; from discern.commands.cli import main; "
        f"main(['report', {str(run.folder)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
