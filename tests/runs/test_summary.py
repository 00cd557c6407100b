from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta

import pytest

from discern.runs.folder import FORMAT
from discern.runs.state import Ended, State
from discern.runs.summary import Summary, git_state, versions

DONE = Ended(State.DONE, "all batches seen")


def written(summary: Summary, ended: Ended = DONE) -> dict:
    summary.write(ended)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(summary.path.read_text(), parse_constant=refuse)


def test_facts_known_from_the_start_and_later_are_written(tmp_path):
    summary = Summary(tmp_path / "new" / "summary.json", name="mlp", tags=["a"])
    summary.facts["metrics"]["val"] = {"loss": 0.5}
    facts = written(summary)
    assert abs(
        datetime.fromisoformat(facts.pop("began")) - datetime.now().astimezone()
    ) < timedelta(hours=1)
    assert facts == {
        "format": FORMAT,
        "state": "done",
        "reason": "all batches seen",
        "name": "mlp",
        "tags": ["a"],
        "metrics": {"val": {"loss": 0.5}},
        "seconds": {"total": summary.facts["seconds"]["total"]},
    } | {"seconds": json.loads(summary.path.read_text())["seconds"]}


def test_what_json_cannot_hold_is_null_and_digits_are_few(tmp_path):
    summary = Summary(tmp_path / "summary.json")
    summary.facts["metrics"] = {"a": float("nan"), "b": [float("inf")], "c": 1 / 3, "d": (1, "é")}
    assert written(summary)["metrics"] == {"a": None, "b": [None], "c": 0.333333, "d": [1, "é"]}
    assert "é" in summary.path.read_text(encoding="utf-8")


def test_phases_are_timed_even_if_they_fail(tmp_path):
    summary = Summary(tmp_path / "summary.json", seconds={"import": 2.0})
    with summary.phase("data"):
        pass
    with pytest.raises(ValueError, match="no"), summary.phase("fit"):
        raise ValueError("no")
    seconds = written(summary)["seconds"]
    assert seconds.keys() == {"import", "data", "fit", "total"}
    assert seconds["total"] >= 2


def test_it_may_be_written_again(tmp_path):
    summary = Summary(tmp_path / "summary.json")
    written(summary, Ended(State.INTERRUPTED, "by Ctrl-C"))
    assert written(summary)["state"] == "done"
    assert len(list(tmp_path.iterdir())) == 1


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--no-verify", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new").write_text("not of the repository")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_versions_of_what_a_result_depends_on():
    import lightning
    import torch

    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["lightning"] == lightning.__version__
    assert {"python", "discern", "torchvision", "torchmetrics", "numpy"} <= found.keys()
