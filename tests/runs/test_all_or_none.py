from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from discern.errors import DiscernError
from discern.runs.all_or_none import all_or_none
from discern.runs.claim import claim_folder
from discern.runs.holding import held

FORK = multiprocessing.get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_come_together(tmp_path):
    with all_or_none(tmp_path / "new") as begun:
        (begun / "a").touch()
        (begun / "b").touch()
        assert not {"a", "b"} & {*names(tmp_path / "new")}
    assert names(tmp_path / "new") == ["a", "b"]


def test_nothing_comes_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), all_or_none(tmp_path) as begun:
        (begun / "a").write_text(str(1 / 0))
    assert not names(tmp_path)


def test_what_a_killed_process_has_left_is_removed_and_makes_no_folder_a_used_one(tmp_path):
    def dies() -> None:
        with all_or_none(tmp_path) as begun:
            (begun / "half").touch()
            os._exit(9)

    process = FORK.Process(target=dies)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert names(tmp_path)
    assert claim_folder(tmp_path, "out") == tmp_path
    with all_or_none(tmp_path) as begun:
        (begun / "whole").touch()
    assert names(tmp_path) == ["whole"]


def test_one_process_at_a_time(tmp_path):
    def second() -> None:
        try:
            with all_or_none(tmp_path):
                pass
        except DiscernError:
            os._exit(3)

    with held(tmp_path):
        process = FORK.Process(target=second)
        process.start()
        process.join()
    assert process.exitcode == 3
