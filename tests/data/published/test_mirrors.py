from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from discern.data.published import fetch as fetching
from discern.data.published.fetch import DownloadError
from discern.data.published.mnist import download
from discern.data.published.publication import TEST_LABELS, TRAIN_IMAGES
from discern.errors import DiscernError
from idx_files import CONTENTS, published
from mirror import Mirror, closed_url, serving

NAMES = tuple(CONTENTS)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror():
    with serving() as mirror:
        yield mirror


@pytest.fixture
def second():
    with serving() as mirror:
        yield mirror


def contents_of(folder: Path) -> dict[str, bytes]:
    """What there is under the published names, uncompressed."""
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def fetched(mirror: Mirror) -> list[str]:
    return [name for method, name in mirror.requests if method == "GET"]


def test_the_files_arrive_in_a_new_folder(tmp_path, mirror):
    folder = tmp_path / "not" / "yet" / "there"
    download(published((mirror.url,)), NAMES, folder)
    assert contents_of(folder) == CONTENTS


def test_only_the_files_asked_for_are_fetched(tmp_path, mirror):
    download(published((mirror.url,)), [TEST_LABELS], tmp_path)
    assert contents_of(tmp_path) == {TEST_LABELS: CONTENTS[TEST_LABELS]}
    assert fetched(mirror) == [f"{TEST_LABELS}.gz"]


def test_the_first_mirror_is_used_where_both_answer(tmp_path, mirror, second):
    download(published((mirror.url, second.url)), NAMES, tmp_path)
    assert len(fetched(mirror)) == 4
    assert fetched(second) == []


def test_the_second_mirror_is_used_where_the_first_is_down(tmp_path, second):
    download(published((closed_url(), second.url)), NAMES, tmp_path)
    assert contents_of(tmp_path) == CONTENTS


@pytest.mark.parametrize("fault", ["wrong content", "cut", "not gzip", "missing"])
def test_the_second_mirror_is_used_for_a_file_that_the_first_gives_wrong(
    tmp_path, mirror, second, fault
):
    spoil(mirror, fault)
    download(published((mirror.url, second.url)), NAMES, tmp_path)
    assert contents_of(tmp_path) == CONTENTS
    assert f"{TRAIN_IMAGES}.gz" in fetched(second)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong content", "MD5 starts with [0-9a-f]{12} instead of [0-9a-f]{12}"),
        ("cut", "MD5 starts with"),
        ("not gzip", "MD5 starts with"),
        ("missing", "HTTP status 404"),
    ],
)
def test_a_file_that_is_not_right_gets_no_name(tmp_path, mirror, fault, reason):
    spoil(mirror, fault)
    with pytest.raises(DownloadError, match=reason):
        download(published((mirror.url,)), [TEST_LABELS, TRAIN_IMAGES], tmp_path)
    assert contents_of(tmp_path) == {TEST_LABELS: CONTENTS[TEST_LABELS]}
    assert not list(tmp_path.glob("*.part"))


def spoil(mirror: Mirror, fault: str) -> None:
    """Make the mirror give the training images wrong."""
    name = f"{TRAIN_IMAGES}.gz"
    right = CONTENTS[TRAIN_IMAGES]
    if fault == "wrong content":
        mirror.bodies[name] = gzip.compress(right[:-1] + bytes([right[-1] ^ 1]), mtime=0)
    elif fault == "cut":
        mirror.bodies[name] = mirror.bodies[name][:-100]
    elif fault == "not gzip":
        mirror.bodies[name] = b"<html>log in to this network</html>"
    else:
        del mirror.bodies[name]


def test_a_body_shorter_than_announced_is_refused(tmp_path, mirror):
    mirror.cut = True
    with pytest.raises(DownloadError):
        download(published((mirror.url,)), NAMES, tmp_path)
    assert contents_of(tmp_path) == {}


def test_without_any_mirror_each_is_named_with_its_reason(tmp_path):
    mirrors = (closed_url(), closed_url())
    with pytest.raises(DownloadError) as caught:
        download(published(mirrors), NAMES, tmp_path)
    assert all(f"{mirror}: Connection refused" in str(caught.value) for mirror in mirrors)
    assert contents_of(tmp_path) == {}


def test_a_mirror_that_never_answers_is_given_up(tmp_path, monkeypatch, second):
    # As when looking up a host's name blocks, which no timeout of a socket ends.
    urlopen = fetching.urllib.request.urlopen
    blocked = []

    def block(request, timeout):
        url = request if isinstance(request, str) else request.full_url
        if url.startswith("http://blocked.invalid/"):
            blocked.append(url)
            time.sleep(3600)
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(fetching.urllib.request, "urlopen", block)
    monkeypatch.setattr(fetching, "PROBE_SECONDS", 1.0)
    download(published(("http://blocked.invalid/", second.url)), NAMES, tmp_path)
    assert contents_of(tmp_path) == CONTENTS
    with pytest.raises(DownloadError, match=r"http://blocked\.invalid/: no answer"):
        download(published(("http://blocked.invalid/",)), NAMES, tmp_path)
    assert len(blocked) == 2


def test_a_write_killed_half_way_leaves_no_file_of_that_name(tmp_path, mirror, monkeypatch):
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        download(published((mirror.url,)), NAMES, tmp_path)
    assert contents_of(tmp_path) == {}


def test_a_folder_that_cannot_be_made_is_named(tmp_path, mirror):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"cannot be written: Not a directory"):
        download(published((mirror.url,)), NAMES, tmp_path / "file" / "raw")
