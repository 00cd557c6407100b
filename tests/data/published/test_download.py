from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from idx_files import CONTENTS, published
from mirror import Mirror, closed_url, serving

from discern.data.published import download as download_module
from discern.data.published.download import STALE_SECONDS, DownloadError, download
from discern.data.published.publication import TEST_LABELS, TRAIN_IMAGES
from discern.errors import DiscernError

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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fetched(mirror: Mirror) -> list[str]:
    return [name for method, name in mirror.requests if method == "GET"]


def test_the_files_arrive_uncompressed_in_a_new_folder(tmp_path, mirror):
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
        ("wrong content", "SHA-256 [0-9a-f]{12} instead of [0-9a-f]{12}"),
        ("cut", "is not a complete gzip file"),
        ("not gzip", "is not an IDX file of images"),
        ("missing", "HTTP status 404"),
    ],
)
def test_a_file_that_is_not_right_gets_no_name(tmp_path, mirror, fault, reason):
    spoil(mirror, fault)
    with pytest.raises(DownloadError, match=reason):
        download(published((mirror.url,)), [TEST_LABELS, TRAIN_IMAGES], tmp_path)
    assert TRAIN_IMAGES not in contents_of(tmp_path)
    assert list(tmp_path.glob(".*")) == []


def spoil(mirror: Mirror, fault: str) -> None:
    """Make the mirror give the training images wrong."""
    name = f"{TRAIN_IMAGES}.gz"
    right = CONTENTS[TRAIN_IMAGES]
    if fault == "wrong content":
        mirror.bodies[name] = gzip.compress(right[:-1] + bytes([right[-1] ^ 1]))
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


def test_a_body_without_end_is_cut_off(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(download_module, "_MAX_DOWNLOAD_BYTES", 1000)
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 100)
    mirror.bodies[f"{TRAIN_IMAGES}.gz"] = os.urandom(100_000)
    sizes = []
    monkeypatch.setattr(
        download_module, "parse_idx", lambda file, size, *_: sizes.append(size) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        download(published((mirror.url,)), [TRAIN_IMAGES], tmp_path)
    assert sizes == [1000]


def test_without_any_mirror_each_is_named_with_its_reason(tmp_path):
    mirrors = (closed_url(), closed_url())
    with pytest.raises(DownloadError) as caught:
        download(published(mirrors), NAMES, tmp_path)
    assert all(f"{mirror}: Connection refused" in str(caught.value) for mirror in mirrors)
    assert contents_of(tmp_path) == {}


def test_a_mirror_that_never_answers_is_given_up(tmp_path, monkeypatch, second):
    # As when looking up a host's name blocks, which no timeout of a socket ends.
    urlopen = download_module.urllib.request.urlopen
    blocked = []

    def block(request, timeout):
        url = request if isinstance(request, str) else request.full_url
        if url.startswith("http://blocked.invalid/"):
            blocked.append(url)
            time.sleep(3600)
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(download_module.urllib.request, "urlopen", block)
    monkeypatch.setattr(download_module, "PROBE_SECONDS", 1.0)
    download(published(("http://blocked.invalid/", second.url)), NAMES, tmp_path)
    assert contents_of(tmp_path) == CONTENTS
    with pytest.raises(DownloadError, match=r"http://blocked\.invalid/: no answer"):
        download(published(("http://blocked.invalid/",)), NAMES, tmp_path)
    assert len(blocked) == 2


def test_a_download_killed_half_way_leaves_nothing_and_the_next_succeeds(tmp_path, mirror):
    script = (
        "import sys; from pathlib import Path\n"
        "from discern.data.published.download import download\n"
        "from idx_files import CONTENTS, published\n"
        "download(published((sys.argv[1],)), tuple(CONTENTS), Path(sys.argv[2]))\n"
    )
    mirror.stall = True
    process = subprocess.Popen(
        [sys.executable, "-c", script, mirror.url, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        assert mirror.stalled.wait(60)
    finally:
        process.kill()
        process.wait()
    assert contents_of(tmp_path) == {}
    mirror.stall = False
    mirror.released.set()
    download(published((mirror.url,)), NAMES, tmp_path)
    assert contents_of(tmp_path) == CONTENTS


def test_a_write_killed_half_way_leaves_no_file_of_that_name(tmp_path, mirror, monkeypatch):
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        download(published((mirror.url,)), NAMES, tmp_path)
    assert contents_of(tmp_path) == {}


def test_temporary_files_of_killed_runs_are_removed_and_those_of_others_are_not(tmp_path, mirror):
    stale = tmp_path / f".{TRAIN_IMAGES}.killed.part"
    fresh = tmp_path / f".{TRAIN_IMAGES}.running.part"
    stale.write_bytes(b"half")
    fresh.write_bytes(b"half")
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(stale, (long_ago, long_ago))
    download(published((mirror.url,)), NAMES, tmp_path)
    assert set(contents_of(tmp_path)) == {*NAMES, fresh.name}


def test_a_folder_that_cannot_be_made_is_an_error_of_the_setting(tmp_path, mirror):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"cannot be written: Not a directory; set data\.dir"):
        download(published((mirror.url,)), NAMES, tmp_path / "file" / "raw")
