from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from discern.errors import DiscernError
from discern.runs.claim import claim_folder
from run_files import environment


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = tmp_path / "a" / "b"
    assert claim_folder(folder) == folder
    assert folder.is_dir()


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    names = [claim_folder(tmp_path / "run").name for _ in range(3)]
    assert names == ["run", "run_2", "run_3"]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: claim_folder(tmp_path / "day" / "run"), range(64)))
    assert len(set(folders)) == 64
    assert all(folder.is_dir() for folder in folders)


def test_processes_that_start_together_get_folders_of_their_own(tmp_path):
    program = (
        "from pathlib import Path\n"
        "from discern.runs.claim import claim_folder\n"
        "for _ in range(20): print(claim_folder(Path('run')))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    claimed = [line for process in running for line in process.communicate()[0].split()]
    assert len(claimed) == len(set(claimed)) == 40


# A folder that the user named


def test_a_named_folder_that_is_empty_is_used(tmp_path):
    assert claim_folder(tmp_path, "hydra.run.dir") == tmp_path


def test_a_named_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(DiscernError, match=r"^hydra\.run\.dir=.* is not empty"):
        claim_folder(tmp_path, "hydra.run.dir")


@pytest.mark.parametrize(
    "ranks",
    [{"LOCAL_RANK": "1"}, {"NODE_RANK": "1", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "2"}],
)
def test_the_other_processes_of_a_run_share_its_folder(tmp_path, monkeypatch, ranks):
    (tmp_path / "train.log").touch()
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    assert claim_folder(tmp_path, "hydra.run.dir") == tmp_path


def test_a_rank_that_is_empty_is_that_of_the_first_process(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "")
    assert claim_folder(tmp_path, "hydra.run.dir") == tmp_path
    (tmp_path / "train.log").touch()
    with pytest.raises(DiscernError, match="is not empty"):
        claim_folder(tmp_path, "hydra.run.dir")


def test_a_named_folder_may_be_shared_with_the_run_that_is_continued(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert claim_folder(tmp_path / "run", "hydra.run.dir", str(path)) == tmp_path / "run"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(DiscernError, match="is not empty"):
        claim_folder(tmp_path / "other", "hydra.run.dir", str(path))


def test_a_named_folder_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(DiscernError, match=r"^hydra\.run\.dir=.*file is a file"):
        claim_folder(path, "hydra.run.dir")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / "file" / "day" / "run"):
        with pytest.raises(DiscernError, match=r"cannot be written .*hydra\.run\.dir=FOLDER"):
            claim_folder(folder)
    with pytest.raises(DiscernError, match=r"choose another with out=FOLDER\.$"):
        claim_folder(tmp_path / "file" / "run", "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(DiscernError, match="Permission denied"):
        claim_folder(closed / "run")
    with pytest.raises(DiscernError, match="cannot be written"):
        claim_folder(closed, "hydra.run.dir")
