from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import FORK, child, in_child, kill, told_when_waiting

from discern.features import stores as folders
from discern.features.arrays import Ids, write_chunk
from discern.features.store import FeatureStore, FeatureTable
from discern.features.stores import MARK, hold, in_use, last_used, make_room, remove, stores
from discern.files.writing import UNFINISHED

NAME = "0123456789abcdef" * 2
WIDTH = 3


def ids(*numbers: int) -> Ids:
    return np.array([[number, number + 1] for number in numbers], dtype=np.uint64)


def values(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None] + torch.tensor([0.0, 0.25, 0.5])


def opened(folder: Path, precision: str = "float32") -> FeatureStore:
    return FeatureStore(folder, WIDTH, precision, {"about": "this"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with the features of images 1 to 5, in two chunks."""
    folder = tmp_path / NAME
    store = opened(folder)
    store.add(ids(3, 1), values(3, 1))
    store.add(ids(2, 5, 4), values(2, 5, 4))
    return folder


def read(store: FeatureStore, *numbers: int) -> torch.Tensor:
    places = store.find(ids(*numbers))
    assert (places >= 0).all()
    return FeatureTable(store, places).rows(np.arange(len(numbers)))


# Finding


def test_what_was_added_is_found_in_any_order_and_nothing_else(folder):
    for store in (opened(folder), opened(folder)):
        assert torch.equal(read(store, 5, 1, 2, 3, 4, 5), values(5, 1, 2, 3, 4, 5))
        assert store.find(ids(0, 6, 3)).tolist()[:2] == [[-1, -1], [-1, -1]]
    # An id is both of its words.
    other = np.array([[3, 99], [99, 4]], dtype=np.uint64)
    assert (store.find(other) == -1).all()


def test_an_empty_store_finds_nothing_and_makes_no_folder(tmp_path):
    store = opened(tmp_path / NAME)
    assert (store.find(ids(1, 2)) == -1).all()
    store.hold()
    assert not (tmp_path / NAME).exists()


PAIRS = st.tuples(st.integers(0, 3) | st.just(2**64 - 1), st.integers(0, 3))


@settings(max_examples=60)
@given(
    st.lists(st.lists(PAIRS, min_size=1, max_size=8, unique=True), min_size=1, max_size=4),
    st.lists(PAIRS, max_size=20),
)
def test_each_id_is_found_at_its_newest_place_whatever_others_there_are(
    tmp_path_factory, chunks, asked
):
    """Ids that share a word, are asked for twice, are in several chunks or in none."""
    folder = tmp_path_factory.mktemp("store") / NAME
    newest: dict[tuple[int, int], int] = {}
    for order, pairs in enumerate(chunks):
        opened(folder).add(np.array(pairs, np.uint64), torch.full((len(pairs), WIDTH), order + 1.0))
        newest |= dict.fromkeys(pairs, order + 1)
    store = opened(folder)
    places = store.find(np.array(asked, np.uint64).reshape(-1, 2))
    assert (places >= 0).all(axis=1).tolist() == [pair in newest for pair in asked]
    there = [pair for pair in asked if pair in newest]
    found = FeatureTable(store, places[places[:, 0] >= 0]).rows(np.arange(len(there)))
    assert found[:, 0].tolist() == [newest[pair] for pair in there]


def test_what_another_has_written_is_found_after_refresh(folder):
    store = opened(folder)
    opened(folder).add(ids(9), values(9))
    assert (store.find(ids(9)) == -1).all()
    store.refresh()
    assert torch.equal(read(store, 9, 1), values(9, 1))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_reduced_precision_is_served_as_float32(tmp_path, precision, monkeypatch):
    features = torch.randn(6, WIDTH)
    kept = features.to(getattr(torch, precision)).float()
    store = opened(tmp_path / NAME, precision)
    store.add(ids(*range(6)), features)
    places = store.find(ids(*range(6)))
    in_memory = FeatureTable(store, places)
    monkeypatch.setattr("discern.features.store.IN_MEMORY", 0)
    in_files = FeatureTable(store, places)
    assert (in_memory.in_memory > 0, in_files.in_memory) == (True, 0)
    for found in (in_memory, in_files):
        rows = found.rows(np.array([5, 0, 0, 3]))
        assert rows.dtype == torch.float32
        assert torch.equal(rows, kept[[5, 0, 0, 3]])


def test_in_memory_and_in_files_give_the_same_rows(folder, monkeypatch):
    store = opened(folder)
    places = store.find(ids(4, 1, 5, 2, 3))
    in_memory = FeatureTable(store, places)
    monkeypatch.setattr("discern.features.store.IN_MEMORY", 0)
    in_files = FeatureTable(store, places)
    generator = np.random.default_rng(0)
    for _ in range(50):
        indices = generator.integers(0, 5, size=generator.integers(1, 9))
        assert torch.equal(in_memory.rows(indices), in_files.rows(indices))


def test_all_tables_of_a_run_together_stay_within_memory(folder, monkeypatch):
    store = opened(folder)
    places = store.find(ids(1, 2))
    monkeypatch.setattr("discern.features.store.IN_MEMORY", 2 * WIDTH * 4 + 10)
    assert FeatureTable(store, places, beside=10).in_memory == 2 * WIDTH * 4
    assert FeatureTable(store, places, beside=11).in_memory == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells of Linux's memory")
def test_features_in_files_take_no_memory(tmp_path, monkeypatch):
    """48 MB read in random batches, some of them many times."""
    monkeypatch.setattr("discern.features.store.IN_MEMORY", 0)
    count, width = 12_000, 1024
    store = FeatureStore(tmp_path / NAME, width, "float32", {})
    everything = ids(*range(count))
    for part in np.split(everything, 4):
        store.add(part, torch.ones(len(part), width))
    served = FeatureTable(store, store.find(everything))
    generator = np.random.default_rng(0)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, most = resident(), 0
    for _ in range(300):
        served.rows(generator.integers(0, count, size=64))
        most = max(most, resident())
    assert most - before < 4 << 20


# What is damaged, or never was a chunk


def test_a_damaged_chunk_is_left_out_removed_and_said(folder, caplog):
    chunk = sorted(folder.glob("*.safetensors"))[0]
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    store = opened(folder)
    assert store.drop_damaged(list(store.chunks))
    assert not store.drop_damaged(list(store.chunks))
    assert (store.find(ids(3, 1)) == -1).all()
    assert torch.equal(read(store, 2, 5, 4), values(2, 5, 4))
    assert store.damaged == [chunk]
    assert not chunk.exists()
    assert f"{chunk} is damaged (its checksum is wrong)" in caplog.text
    assert opened(folder).damaged == []


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["BOMB"]),)


def test_what_is_no_chunk_harms_nobody(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BOMB", str(tmp_path / "executed"))
    outside = tmp_path / "outside"
    outside.mkdir()
    other = write_chunk(outside, ids(7), torch.zeros(1, WIDTH + 1)).path
    (outside / "notes.txt").write_text("keep me")
    (folder / "0-pickle.safetensors").write_bytes(pickle.dumps(Bomb()))
    torch.save({"ids": Bomb()}, folder / "0-saved.safetensors")
    (folder / "0-empty.safetensors").touch()
    (folder / "0-short.safetensors").write_bytes(b"\x10")
    (folder / "0-huge.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    (folder / "0-folder.safetensors").mkdir()
    (folder / "0-folder.safetensors" / "notes.txt").write_text("keep me")
    (folder / "0-link.safetensors").symlink_to(outside / "notes.txt")
    (folder / "0-width.safetensors").symlink_to(other)
    (folder / "0-folders.safetensors").symlink_to(outside)
    (folder / "0-nowhere.safetensors").symlink_to(tmp_path / "nowhere")
    (folder / "0-device.safetensors").symlink_to("/dev/zero")
    os.mkfifo(folder / "0-pipe.safetensors")
    shutil.copy(other, folder / "0-copy.safetensors")
    store = opened(folder)
    assert torch.equal(read(store, 1, 2, 3, 4, 5), values(1, 2, 3, 4, 5))
    assert not (tmp_path / "executed").exists()
    assert (outside / "notes.txt").read_text() == "keep me"
    assert (folder / "0-folder.safetensors" / "notes.txt").exists()
    assert other.exists()
    assert len(caplog.records) == len(store.damaged) == 12
    # All that could be removed is gone.
    assert len(opened(folder).damaged) == 1


def test_a_chunk_whose_ids_can_no_longer_be_read_is_left_out(folder, caplog):
    store = opened(folder)
    gone, short = sorted(folder.glob("*.safetensors"))
    gone.unlink()
    os.truncate(short, short.stat().st_size - 3 * WIDTH * 4 - 5)
    assert (store.find(ids(1, 2, 3, 4, 5)) == -1).all()
    assert f"{gone} cannot be read (No such file or directory)" in caplog.text
    assert f"{short} is damaged (it is cut off)" in caplog.text
    assert len(store.damaged) == 2


def test_a_fault_of_the_system_removes_nothing(folder, monkeypatch, caplog):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert len(opened(folder).damaged) == 2
    assert "cannot be read (Input/output error)" in caplog.text
    assert torch.equal(read(opened(folder), 1, 2), values(1, 2))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"images": 0, "seconds": 0.0}', '{"images": 3, "seconds": NaN}',
     '{"images": 3, "seconds": -1.0}', '{"images": 3, "seconds": 1e999}', '{"images": "3"}',
     '{"images": 3, "seconds": 1' + 5000 * "0" + "}", "[" * 100_000, '{"images": true}'],
)  # fmt: skip
def test_a_rate_that_is_none_is_not_known(folder, content):
    (folder / "rate.json").write_text(content)
    store = opened(folder)
    assert store.seconds_per_image is None
    store.remember_rate(4, 2.0)
    assert store.seconds_per_image == 0.5


def test_a_rate_is_that_of_all_images(folder):
    store = opened(folder)
    assert store.seconds_per_image is None
    store.remember_rate(99, 9.0)
    store.remember_rate(1, 1.0)
    assert opened(folder).seconds_per_image == pytest.approx(0.1)


@pytest.mark.parametrize("content", ["", "nonsense", "[3]", "\xff\xfe", '{"about": "that"}'])
def test_what_a_store_is_about_is_written_anew_where_it_is_wrong(folder, content):
    (folder / "about.json").write_bytes(content.encode("latin-1"))
    store = opened(folder)
    assert torch.equal(read(store, 1), values(1))
    store.add(ids(8), values(8))
    assert json.loads((folder / "about.json").read_text()) == {"about": "this"}


# Who uses it


def test_a_process_that_is_killed_gives_up_its_turn(folder):
    inside = FORK.Event()

    def work() -> None:
        with opened(folder).writing():
            inside.set()
            time.sleep(60)

    process = child(work)
    assert inside.wait(30)
    assert in_use(folder)
    kill(process)
    with opened(folder).writing():
        pass
    assert not in_use(folder)


def test_a_second_writer_waits_says_so_and_sees_what_the_first_wrote(folder, caplog):
    caplog.set_level(logging.INFO)
    inside, awaited = FORK.Event(), FORK.Event()

    def work() -> None:
        store = opened(folder)
        with store.writing():
            inside.set()
            assert awaited.wait(30)
            store.add(ids(9), values(9))

    store = opened(folder)
    process = child(work)
    assert inside.wait(30)
    with store.writing("1of2"):
        assert (store.find(ids(9)) == -1).all(), "another part waits for nobody"
    with told_when_waiting(awaited), store.writing():
        assert (store.find(ids(9)) >= 0).all()
    process.join()
    assert caplog.text.count(", which is computing these features.") == 1


def test_a_turn_ends_with_an_error_too(folder):
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"), opened(folder).writing():
            raise ValueError("mine")


def test_being_held_is_seen_by_others_until_it_ends(folder):
    assert not in_use(folder)
    assert not (folder.parent / "missing").exists()
    store = opened(folder)
    store.hold()
    assert in_use(folder)
    assert in_child(lambda: in_use(folder)) is True
    assert in_child(lambda: remove(folder)) is False
    del store
    assert not in_use(folder)


def test_looking_whether_it_is_in_use_is_no_use(folder):
    (folder / MARK).unlink()
    os.utime(folder / "about.json", (1e9, 1e9))
    assert not in_use(folder)
    assert last_used(folder) == 1e9
    assert not (folder / MARK).exists()


def test_a_store_that_was_removed_and_made_again_is_held_again(folder):
    store = opened(folder)
    store.hold()
    shutil.rmtree(folder)
    assert not in_use(folder)
    store.add(ids(1), values(1))
    assert in_use(folder)


def test_a_mark_that_leads_elsewhere_is_not_followed(folder, tmp_path):
    (folder / MARK).unlink()
    (tmp_path / "mine").write_text("mine")
    os.utime(tmp_path / "mine", (1e9, 1e9))
    (folder / MARK).symlink_to(tmp_path / "mine")
    opened(folder).hold()
    assert (tmp_path / "mine").stat().st_mtime == 1e9
    assert in_use(folder), "it cannot be known"


def test_what_killed_processes_left_is_removed_and_nothing_else(folder):
    left = f".1.safetensors.{'0f' * 8}{UNFINISHED}"
    for name in (left, ".1.safetensors.abc", f"1.safetensors{UNFINISHED}"):
        (folder / name).write_text("half")
    before = {path.name for path in folder.iterdir()}
    os.utime(folder / MARK, (1e9, 1e9))
    with opened(folder).writing():
        pass
    assert before - {path.name for path in folder.iterdir()} == {left}


# What goes when there is no room


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three stores of some 4 kB, the first used last and the third longest ago."""
    paths = []
    for number, used in enumerate((3e8, 2e8, 1e8)):
        path = tmp_path / "cache" / f"{number:032x}"
        FeatureStore(path, 1000, "float32", {}).add(ids(1), torch.zeros(1, 1000))
        os.utime(path / MARK, (used, used))
        paths.append(path)
    return paths


def test_what_was_not_used_for_the_longest_goes_first(three):
    cache = three[0].parent
    assert make_room(cache, needed=0, most=20_000) == []
    assert make_room(cache, needed=4_000, most=14_000) == [three[2]]
    assert make_room(cache, needed=9_000, most=10_000) == [three[1], three[0]]
    assert stores(cache) == []


def test_what_is_in_use_or_to_be_kept_stays(three):
    mark = hold(three[2])
    assert make_room(three[0].parent, needed=0, most=0, keep=three[1]) == [three[0]]
    assert mark is not None
    mark.close()
    assert make_room(three[0].parent, needed=0, most=0) == [three[1], three[2]]


def test_nothing_but_stores_is_ever_removed(three, tmp_path):
    cache = three[0].parent
    photos = cache / "photos"
    photos.mkdir()
    (photos / "about.json").write_text("{}")
    (cache / ("f" * 32)).symlink_to(photos)
    (cache / "notes.txt").write_text("mine")
    (three[0] / "link").symlink_to(photos)
    assert make_room(cache, needed=0, most=0) == [three[2], three[1], three[0]]
    assert (photos / "about.json").exists()
    assert (cache / "notes.txt").exists()
    assert not remove(cache / ("f" * 32))


def test_a_store_that_vanishes_meanwhile_is_no_error(three, monkeypatch):
    sizes = folders.size_of

    def vanish(path: Path) -> int:
        size = sizes(path)
        shutil.rmtree(path, ignore_errors=True)
        return size

    monkeypatch.setattr(folders, "size_of", vanish)
    assert len(make_room(three[0].parent, needed=0, most=0)) == 3


def test_no_cache_is_an_empty_one(tmp_path):
    assert stores(tmp_path / "none") == []
    assert make_room(tmp_path / "none", needed=10, most=1) == []
