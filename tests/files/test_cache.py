from __future__ import annotations

import os
import stat

import pytest

from discern.files.cache import cache_dir
from photos import photo_folder
from starter import invoke


def mode(folder):
    return stat.S_IMODE(folder.stat().st_mode)


def test_the_cache_is_made_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "a" / "cache"))
    assert cache_dir() == tmp_path / "a" / "cache"
    assert mode(tmp_path / "a" / "cache") == 0o700


def test_a_command_that_keeps_something_makes_it_so(tmp_path):
    photo_folder(tmp_path / "photos")
    done = invoke(
        *("inspect", "data=image_folder", "data.dir=photos"),
        cwd=tmp_path,
        HOME=str(tmp_path),
        DISCERN_CACHE_DIR="",
        XDG_CACHE_HOME="",
    )
    assert done.returncode == 0, done.stderr
    assert mode(tmp_path / ".cache" / "discern") == 0o700


def test_one_that_is_there_stays_as_it_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o750)
    cache_dir()
    assert mode(tmp_path) == 0o750
    assert not caplog.records


@pytest.mark.parametrize("of", ["everybody", "user 12345"])
def test_one_that_others_write_to_is_told_of_once(tmp_path, monkeypatch, caplog, of):
    folder = tmp_path / "shared"
    folder.mkdir()
    if of == "everybody":
        folder.chmod(0o777)
    else:
        if os.geteuid() != 0:
            pytest.skip("only an administrator gives files away")
        os.chown(folder, 12345, -1)
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(folder))
    assert cache_dir() == cache_dir() == folder
    (record,) = caplog.records
    assert record.getMessage().startswith(f"The cache {folder} can be written to by {of}")


def test_one_that_cannot_be_made_is_for_whoever_writes_to_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert cache_dir() == tmp_path / "file" / "cache"
