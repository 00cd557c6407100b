"""A stranger's folder is looked at with every command: nothing runs, hangs or leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hostile.folders import SECRET, hostile
from made_runs import keep_test, made_run, made_sweep
from starter import invoke


def real(folder: Path) -> Path:
    """A sweep of two jobs, one of which was tested."""
    made_sweep(folder, [0.5, 0.4])
    keep_test(folder / "lr=0", [0, 1, 2, 0], [0, 1, 1, 0])
    made_run(folder / "lr=1" / "test")
    return folder


def look(tmp_path: Path, seed: int, count: int) -> None:
    sweep = real(tmp_path / "source" / "sweep")
    for case in hostile(sweep, tmp_path / "cases", seed, count):
        place = case.folder.parent
        shutil.copytree(sweep, place / "good")
        for words in (
            ("report", "sweep"), ("runs", "dir=."), ("runs", "dir=.", "--json"),
            ("compare", "sweep", "good", "out=compared"),
            ("runs", "prune", "keep=0", "yes=true", "dir=."),
        ):  # fmt: skip
            done = invoke(*words, cwd=place, BAIT=SECRET)
            said = f"{case.name}: {words}: {done.stdout}{done.stderr}"
            assert done.returncode in (0, 1), said
            assert "Traceback" not in said
            assert "\x1b" not in done.stdout + done.stderr, said
            assert case.is_intact(), said
            pages = [page for page in place.glob("*/*.html") if not page.is_symlink()]
            assert not any(SECRET in page.read_text(errors="replace") for page in pages), said
            assert SECRET not in said


def test_hostile_folders_do_no_harm(tmp_path):
    look(tmp_path, seed=1, count=3)


@pytest.mark.slow
def test_more_hostile_folders_do_no_harm(tmp_path):
    look(tmp_path, seed=2, count=40)  # each kind once; `make hostile` has the long form
