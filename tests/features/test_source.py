from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import (
    FORK,
    Counted,
    child,
    expected,
    features_of,
    holding,
    images,
    in_child,
    kill,
    kind,
    rows,
    source,
    told_when_waiting,
)
from torch import Tensor
from tqdm import tqdm

from discern.data.augment import Augmentation, View
from discern.data.image_files import ImageFiles
from discern.data.images import Shown
from discern.data.in_memory import InMemoryImages
from discern.data.preprocessing import Preprocessing
from discern.data.served import ServedFeatures
from discern.data.views import PHOTO_AUGMENTATIONS, PhotoAugmentation
from discern.errors import DiscernError
from discern.features.source import CacheFullError, CacheMissError, FeatureSource
from discern.features.stores import in_use, stores
from photos import photo_folder

FLIP = Augmentation(flip=True, shift=1)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def count(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "computed.txt")


def chunks(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.safetensors"))


# Computed once


def test_features_are_computed_once_for_all_runs(cache, count):
    shown = images(range(10))
    first = source(cache, count)
    assert torch.equal(rows(first, shown), expected(shown))
    assert torch.equal(rows(first, shown), expected(shown))
    assert (first.account.computed, first.account.reused, first.account.bytes) == (10, 0, 240)
    second = source(cache, count)
    assert torch.equal(rows(second, shown), expected(shown))
    assert (second.account.computed, second.account.reused, second.account.bytes) == (0, 10, 240)
    assert count.numbers == list(range(10))
    assert second.seconds_saved == pytest.approx(first.account.seconds)


def test_images_in_another_order_subset_or_data_set_are_the_same(cache, count):
    rows(source(cache, count), images(range(10)))
    made = source(cache, count)
    mixed = images([7, 2, 12, 0, 7, 12, 11])
    assert torch.equal(rows(made, mixed), expected(mixed))
    assert count.numbers[10:] == [12, 11], "of two equal ones one is computed"
    assert (made.account.computed, made.account.reused) == (2, 5)
    part = mixed.subset(torch.tensor([6, 0]))
    assert torch.equal(rows(made, part), expected(part))
    assert made.account.computed == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_change_nothing(cache, workers):
    shown = images(range(11))
    made = source(cache, num_workers=workers, batch_size=3)
    assert torch.equal(rows(made, shown), expected(shown))
    assert torch.equal(rows(made, shown, FLIP, seed=4, view=2), expected(shown, FLIP, 4, 2))


def test_a_lone_image_and_a_batch_of_one(cache):
    made = source(cache, batch_size=1)
    for shown in (images([5]), images(range(3))):
        assert torch.equal(rows(made, shown, FLIP, 1, 1), expected(shown, FLIP, 1, 1))


# Views


def test_a_view_is_what_an_uncached_run_shows_in_that_epoch(cache, count):
    shown = images(range(12))
    made = source(cache, count, views=3)
    for view in range(3):
        found = rows(made, shown, FLIP, seed=7, view=view)
        assert torch.equal(found, expected(shown, FLIP, 7, view))
        assert len(count.numbers) == 12 * (view + 1), "each is computed when it is first needed"
    assert not torch.equal(rows(made, shown, FLIP, 7, 0), rows(made, shown, FLIP, 7, 1))
    other = source(cache, count, views=3)
    assert torch.equal(rows(other, shown, FLIP, 7, 2), expected(shown, FLIP, 7, 2))
    assert other.account.computed == 0


def test_epochs_go_round_the_views(cache, count):
    shown = images(range(6))
    served = ServedFeatures(shown, source(cache, count, views=2))
    indices = np.array([5, 0, 3])
    for epoch in range(5):
        features, labels = served.augmented(indices, View(FLIP, 3, epoch))
        assert torch.equal(features, expected(shown, FLIP, 3, epoch % 2)[indices])
        assert labels.tolist() == [1, 0, 1]
    assert len(count.numbers) == 12
    features, labels = served.__getitems__([4, 4])
    assert torch.equal(features, expected(shown)[[4, 4]])
    assert labels.tolist() == [0, 0]


def test_a_source_tells_augmentations_and_seeds_apart(cache):
    made, shown = source(cache), images(range(9))
    flip = Augmentation(flip=True)
    for augmentation, seed in ((FLIP, 1), (FLIP, 2), (flip, 1), (None, 1), (FLIP, 1)):
        found = rows(made, shown, augmentation, seed, 1)
        assert torch.equal(found, expected(shown, augmentation, seed, 1))


# In memory or not, with full or reduced precision


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_any_precision_is_served_as_float32(cache, precision, in_memory, monkeypatch):
    monkeypatch.setattr("discern.features.store.IN_MEMORY", in_memory)
    shown = images(range(20))
    for _ in range(2):
        found = rows(source(cache, precision=precision), shown)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected(shown).to(getattr(torch, precision)).float())


def test_a_feature_that_a_precision_cannot_hold_is_refused(cache):
    with pytest.raises(DiscernError, match=r"cache\.precision=float16 cannot hold .* 7e\+04"):
        rows(source(cache, lambda batch: torch.full((len(batch), 6), 7e4), precision="float16"),
             images(range(3)))  # fmt: skip
    infinite = source(cache, lambda batch: torch.full((len(batch), 6), float("inf")))
    assert rows(infinite, images(range(3))).isinf().all(), "no fault of the precision"


# The key


CHANGES = {
    "backbone": st.fixed_dictionaries({"name": st.text(), "digest": st.text(max_size=64)}),
    "shape": st.tuples(st.integers(1, 4), st.integers(1, 999), st.integers(1, 999)),
    "preprocessing": st.dictionaries(
        st.sampled_from(["mean", "std", "resize", "interpolation"]),
        st.floats(allow_nan=False) | st.lists(st.floats(allow_nan=False)) | st.text(),
    ),
    "readers": st.dictionaries(st.sampled_from(["pillow", "simplejpeg"]), st.text()),
    "engine": st.text(),
    "precision": st.sampled_from(["float32", "float16", "bfloat16"]),
}


@given(st.fixed_dictionaries({}, optional=CHANGES), st.fixed_dictionaries({}, optional=CHANGES))
def test_kinds_have_one_store_if_they_are_equal_and_only_then(one, other):
    one, other = kind(**one), kind(**other)
    assert (one.digest() == other.digest()) == (one.about() == other.about())
    assert kind(**dataclasses.asdict(one)).digest() == one.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"library": "none", "name": "sums", "digest": "1"}},
        {"backbone": {"library": "none", "name": "sum", "digest": "0"}},
        {"backbone": {"library": "timm", "name": "sums", "digest": "0"}},
        {"shape": (1, 3, 2)},
        {"preprocessing": {"mean": 0.1, "std": 1 / 255}},
        {"preprocessing": {"mean": 0.0, "std": np.nextafter(1 / 255, 1).item()}},
        {"readers": {"pillow": "12.1"}},
        {"engine": "torch-2.1-1"},
        {"precision": "float16"},
    ],
    ids=str,
)
def test_what_matters_is_another_store_and_what_does_not_is_not(cache, count, change):
    shown = images(range(4))
    rows(source(cache, count), shown)
    rows(source(cache, count, batch_size=2, views=9, num_workers=0, stop_if_full=False), shown)
    assert (len(count.numbers), len(stores(cache))) == (4, 1)
    rows(source(cache, count, **change), shown)
    assert (len(count.numbers), len(stores(cache))) == (8, 2)


AUGMENTATIONS = st.none() | st.builds(Augmentation, flip=st.booleans(), shift=st.integers(0, 3))
PHOTO = st.none() | st.builds(
    PhotoAugmentation,
    degrees=st.sampled_from([0.0, 1.0, 30.0]),
    scale=st.sampled_from([(0.08, 1.0), (0.5, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0)]),
    colour=st.sampled_from([a.colour for a in PHOTO_AUGMENTATIONS.values() if a]),
)
VIEWS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def image_files(digests: list[bytes]) -> ImageFiles:
    return ImageFiles(
        [Path(f"{place}.jpg") for place in range(len(digests))],
        torch.zeros(len(digests), dtype=torch.int64),
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        Preprocessing(8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3),
    )


DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(4)]


@given(AUGMENTATIONS | PHOTO, AUGMENTATIONS | PHOTO, VIEWS, VIEWS)
def test_views_have_one_id_if_they_are_equal_and_only_then(one, other, views, other_views):
    files = image_files(DIGESTS)
    same = one == other and (one is None or views == other_views)
    found, others = (
        files.identify(View.of(one, *views)),
        files.identify(View.of(other, *other_views)),
    )
    assert found.dtype == np.uint64
    assert found.shape == (4, 2)
    assert len({row.tobytes() for row in found}) == 4
    if same:
        assert (found == others).all()
    else:
        assert not (found[:, None] == others[None]).all(axis=2).any()


@given(st.permutations(range(4)), PHOTO, VIEWS)
def test_the_id_of_a_photo_is_its_contents_wherever_it_is(order, augmentation, views):
    plain = image_files(DIGESTS).identify(View.of(augmentation, *views))
    mixed = image_files([DIGESTS[place] for place in order])
    assert (mixed.identify(View.of(augmentation, *views)) == plain[order]).all()
    part = mixed.subset(torch.tensor([3, 1]))
    assert (part.identify(View.of(augmentation, *views)) == plain[[order[3], order[1]]]).all()


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=6),
    AUGMENTATIONS,
    VIEWS,
)
def test_images_in_memory_have_one_id_if_their_pixels_are_equal(pixels, augmentation, views):
    values = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 2, 3)
    labels = torch.zeros(len(values), dtype=torch.int64)
    found = InMemoryImages(values, labels).identify(View.of(augmentation, *views)).tolist()
    for place, ids in enumerate(found):
        for other, other_ids in enumerate(found):
            # What is drawn for one depends on its place.
            alike = pixels[place] == pixels[other] and (place == other or augmentation is None)
            assert (ids == other_ids) == alike


# Photographs that change, come and go


def photos_in(folder: Path) -> ImageFiles:
    files = sorted(folder.rglob("*.jpg"))
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return ImageFiles(
        files,
        torch.zeros(len(files), dtype=torch.int64),
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        Preprocessing(8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3),
    )


@pytest.mark.parametrize("augment", ["none", "light"])
def test_only_what_changed_is_computed(tmp_path, cache, augment):
    augmentation = PHOTO_AUGMENTATIONS[augment]
    folder = photo_folder(tmp_path / "photos")

    def means(batch: Tensor) -> Tensor:
        return batch.mean(dim=(2, 3))

    def computed() -> int:
        made, shown = source(cache, means, shape=(3, 8, 8), width=3), photos_in(folder)
        found = rows(made, shown, augmentation, 1, 2)
        everything = np.arange(len(shown))
        assert torch.equal(
            found, means(shown.augmented(everything, View.of(augmentation, 1, 2))[0])
        )
        return made.account.computed

    assert computed() == 12
    assert computed() == 0
    for file in folder.rglob("*.jpg"):
        os.utime(file, (1e9, 1e9))
    (folder / "cat").rename(folder / "wolf")
    (folder / "dog" / "0.jpg").rename(folder / "wolf" / "dog.jpg")
    assert computed() == 0, "names and times do not matter"
    (folder / "dog" / "1.jpg").unlink()
    assert computed() == 0
    shutil.copy(folder / "dog" / "2.jpg", folder / "dog" / "again.jpg")
    assert computed() == 0, "a copy is the same image"
    (folder / "dog" / "3.jpg").write_bytes((folder / "dog" / "3.jpg").read_bytes() + b"\0")
    assert computed() == 1
    photo_folder(folder / "more", per_class=50, size=(44, 30))
    assert computed() == 100


def means(batch: Tensor) -> Tensor:
    return batch.mean(dim=(2, 3))


def of_photos(cache: Path, **changes: Any) -> FeatureSource:
    return source(cache, changes.pop("compute", means), shape=(3, 8, 8), width=3, **changes)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_a_photo_that_is_edited_meanwhile_gives_no_other_its_features(
    tmp_path, cache, augment, workers, caplog
):
    """Two equal photographs are to be computed once, and the one that is read becomes another."""
    augmentation = PHOTO_AUGMENTATIONS[augment]
    folder = photo_folder(tmp_path / "photos")
    edited, equal = folder / "cat" / "1.jpg", folder / "cat" / "4.jpg"
    before, after = edited.read_bytes(), (folder / "dog" / "5.jpg").read_bytes() + b"\0"
    equal.write_bytes(before)
    shown = photos_in(folder)
    edited.write_bytes(after)
    now = photos_in(folder)

    def right(of: ImageFiles) -> Tensor:
        return means(of.augmented(np.arange(len(of)), View.of(augmentation, 1, 2))[0])

    first = of_photos(cache, num_workers=workers)
    assert torch.equal(rows(first, shown, augmentation, 1, 2), right(now))
    assert first.account.computed == 12
    assert f"{edited} changed after this run had looked at the data" in caplog.text
    required = of_photos(cache, mode="require")
    assert torch.equal(rows(required, now, augmentation, 1, 2), right(now))
    edited.write_bytes(before)
    assert torch.equal(rows(required, photos_in(folder), augmentation, 1, 2), right(shown))


@pytest.mark.parametrize("gone", [[0], [11], [8, 9, 10, 11], list(range(12))])
@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_a_photo_that_can_no_longer_be_read_never_gets_anothers_features(
    tmp_path, cache, gone, batch_size
):
    light, shown = PHOTO_AUGMENTATIONS["light"], photos_in(photo_folder(tmp_path / "photos"))
    files = sorted((tmp_path / "photos").rglob("*.jpg"))
    for number in gone:
        files[number].rename(files[number].with_suffix(".away"))
    made = source(cache, lambda batch: batch.mean(dim=(2, 3)), shape=(3, 8, 8), width=3,
                  batch_size=batch_size)  # fmt: skip
    for augmentation in (light, None):
        with pytest.raises(DiscernError, match="can no longer be read") as caught:
            rows(made, shown, augmentation)
        assert "\n" not in str(caught.value)
    for number in gone:
        files[number].with_suffix(".away").rename(files[number])
    found = rows(made, shown, light)
    assert torch.equal(
        found, shown.augmented(np.arange(12), View.of(light, 0, 0))[0].mean(dim=(2, 3))
    )


# The modes


def test_require_computes_nothing(cache, count):
    with pytest.raises(CacheMissError, match=r"cache\.mode=require, .* 3 of 3 images"):
        rows(source(cache, count, mode="require"), images(range(3)))
    assert not cache.exists()
    rows(source(cache, count), images(range(3)))
    found = rows(source(cache, count, mode="require"), images([2, 1]))
    assert torch.equal(found, expected(images([2, 1])))
    with pytest.raises(CacheMissError, match="the features of 2 of 4 images"):
        rows(source(cache, count, mode="require"), images(range(1, 5)))
    with pytest.raises(CacheMissError):
        source(cache, count, mode="require", share=(1, 1)).compute_share(Shown(images([9])))
    assert count.numbers == [0, 1, 2]


def test_refresh_computes_each_anew_once(cache, count):
    shown = images([0, 1, 2, 1])
    rows(source(cache, lambda batch: features_of(batch) + 1), shown)
    made = source(cache, count, mode="refresh")
    for _ in range(2):
        assert torch.equal(rows(made, shown), expected(shown))
        assert torch.equal(rows(made, images([2, 0])), expected(images([2, 0])))
    assert sorted(count.numbers) == [0, 1, 2]
    assert torch.equal(rows(source(cache), shown), expected(shown))


def test_refresh_leaves_nothing_superseded(cache):
    """Of what was before, that of images which are not computed anew stays."""
    rows(source(cache), images(range(20)))
    rows(source(cache), images(range(20, 24)))
    rows(source(cache), images(range(24, 28)))
    before = chunks(cache)
    made = source(cache, lambda batch: features_of(batch) + 1, mode="refresh")
    rows(made, images(range(22)))
    assert sum(path in before for path in chunks(cache)) == 2
    assert torch.equal(rows(made, images(range(22))), expected(images(range(22))) + 1)
    rows(made, images(range(22, 24)))
    assert sum(path in before for path in chunks(cache)) == 1
    required = source(cache, mode="require")
    assert torch.equal(rows(required, images(range(24))), expected(images(range(24))) + 1)
    assert torch.equal(rows(required, images(range(24, 28))), expected(images(range(24, 28))))


def test_refresh_removes_nothing_that_another_process_reads(cache):
    rows(source(cache), images(range(8)))
    before = chunks(cache)
    with holding(cache, range(8)):
        rows(source(cache, mode="refresh"), images(range(8)))
        assert set(before) < set(chunks(cache))
        (store,) = stores(cache)
        assert in_use(store), "this one holds it as before"
    rows(source(cache, mode="refresh"), images(range(8)))
    assert len(chunks(cache)) == 1, "the next one removes what that one had to leave"


def test_a_refresh_that_is_killed_loses_nothing(tmp_path, cache):
    shown, generator = images(range(60)), random.Random(0)
    rows(source(cache), shown)
    alive, longest, kills = True, 0.05, 0
    while alive:
        slow = Counted(tmp_path / "slow.txt", 0.002)
        process = child(lambda: rows(source(cache, slow, mode="refresh"), shown))  # noqa: B023
        process.join(generator.uniform(0, longest))
        longest *= 1.1
        alive = process.is_alive()
        kill(process)
        kills += alive
        required = source(cache, mode="require")
        assert torch.equal(rows(required, shown), expected(shown))
        assert not required.store.damaged
        del required  # it holds the features
    assert kills
    rows(source(cache, mode="refresh"), shown)
    assert len(chunks(cache)) == 1


def test_a_refresh_that_the_disk_loses_removes_nothing(cache, monkeypatch):
    from discern.features import arrays

    rows(source(cache), images(range(8)))
    before, honest = chunks(cache), arrays._checksum
    monkeypatch.setattr(arrays, "_checksum", lambda body: honest(body) ^ 1)
    with pytest.raises(CacheFullError, match="loses what is written to it"):
        rows(source(cache, mode="refresh"), images(range(8)))
    assert chunks(cache) == before


def test_what_another_process_refreshed_is_no_miss(cache):
    """It has removed the files that this one had seen before it began to read."""
    rows(source(cache), images(range(8)))
    required = source(cache, mode="require")
    rows(source(cache, mode="refresh"), images(range(8)))
    assert torch.equal(rows(required, images(range(8))), expected(images(range(8))))


def test_parts_of_a_division_join_to_the_whole(cache, count):
    shown = images(range(40))

    def compute(part: int) -> None:
        made = source(cache, count, share=(part, 3))
        made.compute_share(Shown(shown))
        made.compute_share(Shown(shown, View(FLIP, 0, 1)))

    processes = [child(compute, part) for part in (1, 2, 3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(count.numbers) == 80, "nothing is computed twice"
    made = source(cache, mode="require")
    assert torch.equal(rows(made, shown), expected(shown))
    assert torch.equal(rows(made, shown, FLIP, 0, 1), expected(shown, FLIP, 0, 1))


# Killed, raced for


@pytest.mark.parametrize("enough", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path, enough):
    """So many kills, over as many caches as they take."""
    shown, generator, kills, caches = images(range(120)), random.Random(0), 0, 0
    while kills < enough:
        caches += 1
        cache, count = tmp_path / str(caches), Counted(tmp_path / f"{caches}.txt", 0.002)
        kept, before, alive, longest = np.empty(0, np.int64), 0, True, 0.08
        while alive:
            process = child(lambda: rows(source(cache, count), shown))  # noqa: B023
            process.join(generator.uniform(0.0, longest))
            longest *= 1.1  # on a machine that is busy a child may take longer to begin
            alive = process.is_alive()
            kill(process)
            kills += alive
            assert not set(count.numbers[before:]) & set(kept.tolist()), "computed though kept"
            reader = source(cache, mode="require")
            assert not reader.store.damaged
            kept = np.flatnonzero((reader.store.find(shown.identify()) >= 0).all(axis=1))
            before = len(count.numbers)
            if len(kept):
                part = shown.subset(torch.from_numpy(kept))
                assert torch.equal(rows(reader, part), expected(part))
        assert len(kept) == len(shown)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_want_the_same_compute_it_once(cache, tmp_path, processes):
    count, shown = Counted(tmp_path / "computed.txt", 0.003), images(range(40))
    begin = FORK.Event()

    def run() -> None:
        begin.wait(30)
        assert torch.equal(rows(source(cache, count), shown), expected(shown))
        assert torch.equal(rows(source(cache, count), shown, FLIP), expected(shown, FLIP))

    racing = [child(run) for _ in range(processes)]
    begin.set()
    for process in racing:
        process.join()
        assert process.exitcode == 0
    assert len(count.numbers) == 80


def test_a_waiting_process_goes_on_where_a_killed_one_was(cache, tmp_path):
    slow, shown = Counted(tmp_path / "slow.txt", 0.01, hangs_after=20), images(range(200))
    process = child(lambda: rows(source(cache, slow), shown))
    while not chunks(cache):
        time.sleep(0.005)
    awaited = FORK.Event()

    def wait() -> None:
        with told_when_waiting(awaited):
            rows(source(cache, Counted(tmp_path / "fast.txt")), shown)

    waiting = child(wait)
    assert awaited.wait(30)
    assert not (tmp_path / "fast.txt").exists()
    kill(process)
    waiting.join()
    assert waiting.exitcode == 0
    computed = Counted(tmp_path / "fast.txt").numbers
    assert 0 < len(computed) < 200
    assert len(set(computed)) == len(computed)


def test_a_process_that_is_killed_as_it_makes_a_bar_blocks_no_other(cache):
    """All of them come from one that has made a bar before, as the jobs of a sweep do."""
    rows(source(cache), images(range(3)))

    def die() -> None:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    child(die).join()
    found = in_child(lambda: rows(source(cache), images(range(8))).tolist())
    assert found == expected(images(range(8))).tolist()


# Damaged


def test_any_flipped_bit_in_any_file_changes_no_number(tmp_path, cache, caplog):
    shown = images(range(7))
    original = tmp_path / "original"
    made = source(original)
    rows(made, shown)
    files = [path.name for path in made.store.folder.iterdir() if path.suffix != ".lock"]
    assert len(files) == 3, "a chunk, what it is about, and the rate"
    generator = random.Random(0)
    for name in files:
        size = (made.store.folder / name).stat().st_size
        for bit in generator.sample(range(8 * size), 60):
            shutil.rmtree(cache, ignore_errors=True)
            shutil.copytree(original, cache)
            path = cache / made.store.folder.name / name
            content = bytearray(path.read_bytes())
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            caplog.clear()
            again = source(cache)
            assert torch.equal(rows(again, shown), expected(shown))
            said = "computed again" in caplog.text
            assert said == bool(again.account.computed) == bool(again.store.damaged)
            assert name.endswith(".safetensors") or not said
            assert torch.equal(rows(source(cache, mode="require"), shown), expected(shown))


def test_a_flipped_bit_of_a_feature_or_an_id_is_computed_again_and_said(cache, caplog):
    shown = images(range(7))
    for offset in (-1, -7 * 24, -7 * 24 - 1, -7 * 24 - 7 * 16):
        rows(source(cache), shown)
        (chunk,) = chunks(cache)
        content = bytearray(chunk.read_bytes())
        content[offset] ^= 16
        chunk.write_bytes(content)
        caplog.clear()
        made = source(cache)
        assert torch.equal(rows(made, shown), expected(shown))
        assert made.account.computed >= 7
        assert "its checksum is wrong" in caplog.text
        shutil.rmtree(cache)


def test_a_damaged_chunk_is_a_miss_where_nothing_may_be_computed(cache):
    rows(source(cache), images(range(7)))
    (chunk,) = chunks(cache)
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CacheMissError):
        rows(source(cache, mode="require"), images(range(7)))


def test_a_disk_that_gives_back_other_bytes_ends_it(cache, monkeypatch):
    from discern.features import arrays

    honest = arrays._checksum
    monkeypatch.setattr(arrays, "_checksum", lambda body: honest(body) ^ 1)
    with pytest.raises(CacheFullError, match="loses what is written to it"):
        rows(source(cache), images(range(3)))
    uncached = source(cache, stop_if_full=False)
    assert torch.equal(rows(uncached, images(range(3))), expected(images(range(3))))


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_a_store_that_is_removed_while_in_use(cache, count, in_memory, monkeypatch):
    monkeypatch.setattr("discern.features.store.IN_MEMORY", in_memory)
    shown, made = images(range(8)), source(cache, count)
    rows(made, shown)
    shutil.rmtree(cache)
    assert torch.equal(rows(made, shown), expected(shown)), "what is open stays readable"
    assert torch.equal(rows(made, shown, FLIP), expected(shown, FLIP))
    part = images([3, 9])
    assert torch.equal(rows(made, part), expected(part))
    assert torch.equal(rows(source(cache, mode="require"), part), expected(part))
    assert in_use(made.store.folder)


def test_a_chunk_that_vanishes_under_a_reader_is_computed_again(cache, count, monkeypatch, caplog):
    from discern.features import arrays

    monkeypatch.setattr("discern.features.store.IN_MEMORY", 0)
    monkeypatch.setattr(arrays, "MAX_OPEN", 1)
    rows(source(cache, count), images(range(4)))
    shown, made = images(range(8)), source(cache, count)
    rows(made, shown)
    shutil.rmtree(cache)
    assert torch.equal(rows(made, shown), expected(shown))
    assert len(count.numbers) == 16
    assert "cannot be read (No such file or directory)" in caplog.text


# No room


def wide(batch: Tensor) -> Tensor:
    return features_of(batch).repeat(1, 200)


WIDE = {"width": 1200}


def test_a_full_disk_keeps_what_was_done(small_disk, monkeypatch):
    from discern.features import source as extraction

    monkeypatch.setattr(extraction, "FLUSH_BYTES", 1)
    shown = images(range(40))
    with pytest.raises(CacheFullError) as caught:
        rows(source(small_disk / "cache", wide, **WIDE), shown)
    sentence = str(caught.value)
    assert "the disk is full; what was computed before is kept" in sentence
    assert sentence.startswith(f"cache.dir={small_disk / 'cache'} ")
    assert "\n" not in sentence
    kept = len(chunks(small_disk / "cache"))
    assert kept > 0
    assert not list(small_disk.rglob(".*.safetensors.*")), "nothing half written"
    part = images(range(4 * kept))
    required = source(small_disk / "cache", wide, mode="require", **WIDE)
    assert torch.equal(rows(required, part), expected(part).repeat(1, 200))


def test_a_full_disk_and_training_goes_on(small_disk, caplog):
    shown = images(range(40))
    made = source(small_disk / "cache", wide, stop_if_full=False, **WIDE)
    for _ in range(2):
        assert torch.equal(rows(made, shown), expected(shown).repeat(1, 200))
        assert torch.equal(
            rows(made, shown, FLIP, 0, 1), expected(shown, FLIP, 0, 1).repeat(1, 200)
        )
    assert caplog.text.count("Training goes on without the cache") == 1


def test_a_limit_on_the_size_of_files(cache):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        rows(source(cache, wide, **WIDE), images(range(10)))

    answer = in_child(work)
    assert answer.startswith("CacheFullError: cache.dir=")
    assert "File too large; what was computed before is kept." in answer


def test_what_trains_on_goes_on_uncached_features(cache):
    """What a backbone computes in inference mode is no input of a head's training."""
    cache.write_text("a file where the folder should be")

    def compute(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return features_of(batch)

    made = source(cache, compute, stop_if_full=False)
    head = torch.nn.Linear(6, 2)
    head(rows(made, images(range(3)), FLIP)).sum().backward()
    assert head.weight.grad is not None


def test_an_error_in_the_computation_is_not_laid_to_the_cache(cache):
    def fail(batch: Tensor) -> Tensor:
        raise OSError(28, "of the computation")

    with pytest.raises(OSError, match="of the computation"):
        rows(source(cache, fail, stop_if_full=False), images(range(3)))


@pytest.fixture
def nobodys(tmp_path: Path) -> Iterator[Path]:
    """A cache that may be read and not written, by whoever is not root."""
    folder = Path(tempfile.mkdtemp()) / "cache"
    yield folder
    for path in [folder.parent, *folder.parent.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder.parent)


def test_a_cache_that_is_only_to_be_read(nobodys, tmp_path):
    shown = images(range(5))
    rows(source(nobodys), shown)
    for path in [*nobodys.rglob("*"), nobodys, nobodys.parent]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def work() -> str:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        assert torch.equal(rows(source(nobodys), shown), expected(shown))
        assert torch.equal(rows(source(nobodys, mode="require"), shown), expected(shown))
        more = images(range(8))
        uncached = source(nobodys, stop_if_full=False)
        assert torch.equal(rows(uncached, more), expected(more))
        try:
            rows(source(nobodys), more)
        except CacheFullError as error:
            return str(error)
        return "written"

    answer = in_child(work)
    assert "cannot be written: Permission denied" in answer


def test_a_cache_that_is_smaller_than_a_set_is_refused_before_computing(cache, count):
    with pytest.raises(DiscernError, match=r"cache\.max_gb=1e-07 is too small .* 10 images") as no:
        rows(source(cache, count, max_bytes=100, stop_if_full=False), images(range(10)))
    assert not isinstance(no.value, CacheFullError), "it is not passed over"
    assert count.numbers == []


def test_room_is_made_by_what_was_not_used_for_the_longest(cache, caplog):
    caplog.set_level(logging.INFO)
    shown = images(range(100))  # 4,000 bytes and a little
    made = [source(cache, engine=str(number)) for number in range(3)]
    names = []
    for number, each in enumerate(made):
        rows(each, shown)
        names.append(each.store.folder)
        os.utime(each.store.folder / ".use.lock", (1e9 + number, 1e9 + number))
    del made, each
    with holding(cache, range(100), engine="0"):
        os.utime(names[0] / ".use.lock", (1e9, 1e9))
        rows(source(cache, engine="3", max_bytes=15_500), shown)
        assert names[0] in stores(cache), "another process uses it"
        assert names[1] not in stores(cache)
        assert names[2] in stores(cache)
    assert f"Features not used for the longest were removed: {names[1].name}." in caplog.text


def test_a_store_that_is_still_being_computed_is_in_use(cache, tmp_path):
    slow = Counted(tmp_path / "slow.txt", 0.01, hangs_after=20)
    process = child(lambda: rows(source(cache, slow), images(range(60))))
    while not chunks(cache):
        time.sleep(0.005)
    with pytest.raises(CacheFullError, match=r"no room for 4e-06 GB .* in use"):
        rows(source(cache, engine="other", max_bytes=4_100), images(range(100)))
    assert len(chunks(cache)) >= 1
    assert process.is_alive()
    kill(process)


def test_later_views_that_find_no_room_are_not_kept(cache, count):
    shown = images(range(100))
    made = source(cache, count, max_bytes=6_000, stop_if_full=False)
    for view in (0, 1, 1):
        assert torch.equal(rows(made, shown, FLIP, 0, view), expected(shown, FLIP, 0, view))
    assert sum(path.stat().st_size for path in chunks(cache)) < 6_000
    stopped = source(cache, count, max_bytes=6_000)
    rows(stopped, shown, FLIP, 0, 0)
    with pytest.raises(CacheFullError, match="no room"):
        rows(stopped, shown, FLIP, 0, 1)


def test_what_is_about_the_features_is_for_people(cache):
    rows(source(cache), images(range(3)))
    (store,) = stores(cache)
    about = json.loads((store / "about.json").read_text())
    assert about["backbone"]["name"] == "sums"
    assert about["precision"] == "float32"
