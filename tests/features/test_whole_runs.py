"""Runs that are killed, race for the same features, or have no room for them."""

from __future__ import annotations

import random
import time
from itertools import count
from pathlib import Path

import pytest

from discern.features.chunks import open_chunk
from photos import photo_folder
from run_files import same_bits, summary, weights
from starter import begin, end, kill, said

PICTURES = 56

SETTINGS = (
    "model=densenet_transfer",
    "model.backbone=squeezenet1_1",
    "model.weights=null",
    "model.head=[8]",
    "data=image_folder",
    "data.image_size=32",
    "data.num_workers=0",
    "data.batch_size=8",
    "data.val_size=4",
    "data.test_size=4",
    "cache.batch_size=1",
    "cache.views=1",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "engine=torch",
    "threads=1",
    "test=false",
    "logger=csv",
    "hydra.run.dir=run",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, and what all runs may know of them."""
    folder = tmp_path_factory.mktemp("whole")
    photo_folder(folder / "photos", per_class=PICTURES // 2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(shared: Path) -> Path:
    """The folder of a run that nothing happens to."""
    cwd = shared / "undisturbed"
    cwd.mkdir()
    assert end(train(cwd, shared, cwd / "cache")) == 0, said(cwd)
    assert features(cwd) == (PICTURES - 4, 0)
    return cwd / "run"


def train(cwd: Path, shared: Path, cache: Path, *overrides: str) -> int:
    """Start a run that writes what it computes with every image; its number."""
    return begin(
        cwd, "train", *SETTINGS, f"data.dir={shared / 'photos'}", f"cache.dir={cache}", *overrides,
        changes={"discern.features.source": {"FLUSH_SECONDS": 0.0}},
        DISCERN_CACHE_DIR=str(shared / "known"), draws=False,
    )  # fmt: skip


def features(cwd: Path) -> tuple[int, int]:
    """How many a run has computed, and how many it has found."""
    facts = summary(cwd / "run")["features"]
    return facts["computed"], facts["reused"]


def kept(cache: Path) -> int:
    """Images whose features are in a cache."""
    return sum(open_chunk(path).rows for path in cache.glob("*/*.safetensors"))


class Chain:
    """One run after the other on one cache, each killed, until one ends by itself."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self.shared, self.cache = shared, folder / "cache"
        self.folders = (folder / str(number) for number in count())

    def begin(self) -> None:
        self.before = kept(self.cache)
        self.cwd = next(self.folders)
        self.cwd.mkdir(parents=True)
        self.number = train(self.cwd, self.shared, self.cache)

    def wait(self, more: int) -> None:
        """Until it has begun to compute, and has kept so many features, each in a file."""
        begun, enough = self.cwd / "run" / "samples.png", min(self.before + more, PICTURES - 4)
        for _ in range(30_000):
            if begun.exists() and len(list(self.cache.glob("*/*.safetensors"))) >= enough:
                return
            time.sleep(0.002)
        raise AssertionError(said(self.cwd))


@pytest.mark.slow
def test_a_run_after_fifty_kills_is_that_of_an_undisturbed_one(tmp_path, shared, undisturbed):
    generator, kills, within, folders = random.Random(0), 0, 0, count()

    def new() -> Chain:
        return Chain(shared, tmp_path / str(next(folders)))

    def finish(chain: Chain) -> None:
        assert end(chain.number) == 0, said(chain.cwd)
        assert same_bits(weights(chain.cwd / "run"), weights(undisturbed))
        assert features(chain.cwd) == (PICTURES - 4 - chain.before, chain.before)

    chains = [new(), new()]
    while kills < 50:
        for chain in chains:
            chain.begin()
        for chain in chains:
            chain.wait(generator.randrange(12))
        time.sleep(generator.uniform(0, 0.05))
        for place, chain in enumerate(chains):
            if chain.before == PICTURES - 4:
                finish(chain)
                chains[place] = new()
            elif kill(chain.number):
                kills += 1
                within += kept(chain.cache) > chain.before
            else:  # it was quicker
                chains[place] = new()
    assert within > 25, "most were killed while they computed"
    for chain in chains:
        chain.begin()
        finish(chain)


def test_runs_that_begin_at_once_compute_each_image_once(tmp_path, shared, undisturbed):
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    numbers = [train(folder, shared, tmp_path / "cache") for folder in folders]
    for number, folder in zip(numbers, folders, strict=True):
        assert end(number) == 0, said(folder)
        assert same_bits(weights(folder / "run"), weights(undisturbed))
        assert sum(features(folder)) == PICTURES - 4
    assert sum(features(folder)[0] for folder in folders) == PICTURES - 4


def test_a_full_disk_ends_a_run_in_a_sentence_or_lets_it_go_on(tmp_path, small_disk, shared):
    cache = small_disk / "cache"
    stops, goes_on, plain = (tmp_path / name for name in ("stops", "goes on", "plain"))
    for folder in (stops, goes_on, plain):
        folder.mkdir()
    assert end(train(stops, shared, cache, "cache.on_full=stop")) == 1
    assert f"Error: cache.dir={cache} cannot be written: the disk is full" in said(stops)
    assert "Traceback" not in said(stops)
    assert not list((stops / "run").glob("checkpoints/*"))
    before = kept(cache)
    assert before > 0
    assert end(train(goes_on, shared, cache)) == 0, said(goes_on)
    assert "the disk is full; what was computed before is kept. Training goes on" in said(goes_on)
    assert kept(cache) >= before
    assert end(train(plain, shared, cache, "cache.mode=off")) == 0, said(plain)
    assert same_bits(weights(goes_on / "run"), weights(plain / "run"))
