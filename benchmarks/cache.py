"""What the cache of features costs: an epoch, a check for hits, memory, an index.

    python benchmarks/cache.py [--only epoch hits memory index] [--folder FOLDER] [--repeats 5]

epoch   the head 1024-256-2 on 20,000 cached images, batches of 64, Adam: everything within
        ``Trainer.fit`` of a whole run, its set-up included, beside a bare loop over a tensor
hits    25,000 tiny files that are all known and cached: learning that nothing is to be computed,
        beside listing the folder and asking for the status of each file
memory  the greatest memory of a process that finds, verifies and reads at random four views of the
        images of a split, 20 GB, beside that for 1 GB; the files are made up, and mostly holes
index   1,000,000 images: until the store is open, until all are found, and the memory it takes

Contestants run in turn, so that a slow moment of the machine hits them all; ratios are the medians
of those of each turn.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discern.config.user_config import conf_dir
from discern.data.catalogue import examine
from discern.data.image_files import ImageFiles
from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.preprocessing import Preprocessing
from discern.features.arrays import Ids
from discern.features.chunks import SUFFIX
from discern.features.source import FeatureSource, Kind, Settings
from discern.features.store import FeatureStore, FeatureTable
from discern.run import train

IMAGES, WIDTH, BATCH, RATE = 20_000, 1024, 64, 1e-3
FILES = 25_000
CHUNK = 64 << 20
VIEWS = 4
NAME = "0" * 32


# An epoch


class MadeUp(InMemoryDataModule):
    """Images that have nothing to show, whose features are random numbers."""

    class_names = ["one", "other"]  # noqa: RUF012 - an attribute of the base class
    input_shape = (WIDTH, 1, 1)

    def load_images(self) -> LoadedImages:
        """Images that differ, of no content."""
        images = torch.arange(IMAGES, dtype=torch.int32).view(torch.uint8).view(IMAGES, 1, 2, 2)
        labels = torch.arange(IMAGES) % 2
        return LoadedImages("made up", images, labels, images[:0], labels[:0], digests=("",))


class Epochs:
    """The contestants; each method trains for some epochs and returns the seconds of one."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.epochs = epochs
        self.data = MadeUp(val_size=0, batch_size=BATCH)
        self.data.setup()
        images = self.data.train_dataset
        self.features, self.labels = torch.randn(IMAGES, WIDTH), images.labels
        kind = Kind({"name": "none"}, (1, 2, 2), {}, {}, "none", "float32")
        self.source = FeatureSource(_compute_nothing, WIDTH, kind, _settings(folder))
        self.source.store.add(images.identify(), self.features)

    def bare(self) -> float:
        """Train without any framework on a tensor."""
        net = nn.Sequential(nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 2))
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)  # as discern's
        begun = time.perf_counter()
        for _ in range(self.epochs):
            total = torch.zeros(())
            order = torch.randperm(IMAGES)
            for first in range(0, IMAGES, BATCH):
                chosen = order[first : first + BATCH]
                optimizer.zero_grad()
                loss = cross_entropy(net(self.features[chosen]), self.labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
        return (time.perf_counter() - begun) / self.epochs

    def cached(self) -> float:
        """Train as a run does, with its loggers, metrics, progress and checkpoints."""
        settings = (
            "model.hidden=[256]", "data.val_size=0", f"optimizer.lr={RATE}", "test=false",
            f"trainer.max_epochs={self.epochs}", "trainer.accelerator=cpu", "threads=1",
            "callbacks.early_stopping=null", "callbacks.dashboard.projector=0",
        )  # fmt: skip
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", list(settings))
        self.data.features = self.source
        built = patch("discern.training.parts.build_data", lambda *_: self.data)
        hidden = io.StringIO()  # the bars are drawn, but not shown
        with tempfile.TemporaryDirectory() as cfg.folder, built:
            with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
                train(cfg)
            facts = json.loads((Path(cfg.folder) / "summary.json").read_text())
        return float(facts["seconds"]["fit"]) / self.epochs


def _compute_nothing(images: Tensor) -> Tensor:
    raise AssertionError("all is there")


def _settings(folder: Path) -> Settings:
    return Settings("require", folder, 1 << 50, 1, True, 32, 0)


def measure_epoch(folder: Path, repeats: int) -> None:
    epochs = Epochs(folder, epochs=5)
    epochs.cached()  # warm up
    pairs = alternate(epochs.cached, epochs.bare, repeats)
    tell("an epoch of 20,000 cached images", pairs, "a bare loop", 1.5)
    with patch("discern.features.store.IN_MEMORY", 0):
        epochs.source._tables.clear()
        pairs = alternate(epochs.cached, epochs.bare, repeats)
    tell("  the same, features in files", pairs, "a bare loop")


# A check for hits


def measure_hits(folder: Path, repeats: int) -> None:
    photos = folder / "photos"
    (photos / "class").mkdir(parents=True)
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "JPEG")
    for number in range(FILES):  # what is behind a JPEG's end is no part of the picture
        path = photos / "class" / f"{number}.jpg"
        path.write_bytes(content.getvalue() + number.to_bytes(4, "little"))
    files = [Path(entry.path) for entry in os.scandir(photos / "class")]
    preprocessing = Preprocessing(8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3)
    store = FeatureStore(folder / NAME, WIDTH, "float32", {})

    def check() -> float:
        begun = time.perf_counter()
        facts = examine(photos, files)
        digests = np.frombuffer(b"".join(fact.sha256 for fact in facts), np.uint8).reshape(-1, 32)
        images = ImageFiles(files, torch.zeros(FILES, dtype=torch.long), digests, preprocessing)
        ids = images.identify()
        found = FeatureStore(folder / NAME, WIDTH, "float32", {}).find(ids)
        seconds = time.perf_counter() - begun
        if (found < 0).any():
            store.add(ids, torch.zeros(FILES, WIDTH))
        return seconds

    with patch.dict(os.environ, DISCERN_CACHE_DIR=str(folder / "known")):
        for _ in range(2):  # the first time they are read, the second their features made up
            check()
        pairs = alternate(check, lambda: list_with_status(photos / "class"), max(repeats, 9))
    tell(f"a check of {FILES:,} known files", pairs, "listing them with their status", 3)


def list_with_status(folder: Path) -> float:
    begun = time.perf_counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat()
    return time.perf_counter() - begun


# Memory, and an index


def make_up(folder: Path, images: int, width: int) -> None:
    """A store of features that are all 0, in files that are mostly holes."""
    folder.mkdir(parents=True)
    row, done = 4 * width, 0
    zeros, pad = bytes(CHUNK), 8
    while done < images:
        rows = min(CHUNK // row, images - done)
        ids = made_up_ids(done, CHUNK // row)[:rows].tobytes()
        rest = rows * row
        checksum = zlib.crc32(memoryview(zeros)[:rest], zlib.crc32(ids))
        header = json.dumps(
            {
                "ids": {"dtype": "I64", "shape": [rows, 2], "data_offsets": [0, len(ids)]},
                "features": {
                    "dtype": "F32",
                    "shape": [rows, width],
                    "data_offsets": [len(ids), len(ids) + rest],
                },
                "__metadata__": {"crc32": f"{checksum:08x}"},
            }
        ).encode()
        header += b" " * (-len(header) % pad)
        with (folder / f"{done:020d}{SUFFIX}").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + ids)
            file.truncate(file.tell() + rest)
        done += rows


def made_up_ids(first: int, count: int) -> Ids:
    return np.random.default_rng(first).integers(0, 1 << 64, (count, 2), np.uint64)


def all_ids(first: int, images: int, width: int) -> Ids:
    """Of ``images`` images from the ``first`` on, which begins a chunk."""
    ids, step = np.empty((images, 2), np.uint64), CHUNK // (4 * width)
    for at in range(0, images, step):
        count = min(step, images - at)
        ids[at : at + count] = made_up_ids(first + at, step)[:count]
    return ids


def read_at_random(folder: Path, images: int, width: int) -> dict[str, float]:
    """Find, verify and read as a run does; in a process of its own."""
    before = peak()
    store = FeatureStore(folder, width, "float32", {})
    tables: list[FeatureTable] = []
    for view in range(VIEWS):
        places = store.find(all_ids(view * images, images, width))
        if store.drop_damaged(np.unique(places[:, 0]).tolist()) or (places < 0).any():
            raise AssertionError("made up wrongly")
        tables.append(FeatureTable(store, places, sum(table.in_memory for table in tables)))
    found, generator, begun = peak(), np.random.default_rng(0), time.perf_counter()
    for step in range(2_000):
        tables[step % VIEWS].rows(generator.integers(0, images, size=BATCH))
    seconds = (time.perf_counter() - begun) / 2_000
    return {"before": before, "found": found, "peak": peak(), "batch": seconds}


def open_index(folder: Path, images: int, width: int) -> dict[str, float]:
    """Open a store and find all of its images; in a process of its own."""
    ids = all_ids(0, images, width)
    before, begun = resident(), time.perf_counter()
    store = FeatureStore(folder, width, "float32", {})
    opened = time.perf_counter() - begun
    places = store.find(ids)
    found = time.perf_counter() - begun
    if (places < 0).any():
        raise AssertionError("made up wrongly")
    return {"opened": opened, "found": found, "growth": resident() - before}


def resident() -> float:
    """The memory of this process, in MB."""
    return _told("VmRSS")


def peak() -> float:
    """The greatest memory of this process so far, in MB."""
    return _told("VmHWM")


def _told(name: str) -> float:
    """What Linux tells; elsewhere the greatest memory of this process or of its parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most / 1e3
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def alone(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What the work returns in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure_memory(folder: Path, repeats: int) -> None:
    peaks = []
    for gigabytes in (1, 20):
        step = CHUNK // (4 * WIDTH)
        images = round(gigabytes * 1e9 / (4 * WIDTH * VIEWS * step)) * step
        make_up(folder / str(gigabytes), VIEWS * images, WIDTH)
        facts = alone(read_at_random, folder / str(gigabytes), images, WIDTH)
        peaks.append(facts["peak"])
        print(
            f"{4 * VIEWS * images * WIDTH / 1e9:5.1f} GB, {VIEWS} views of {images:,} images: "
            f"{facts['peak']:.0f} MB at most ({facts['before']:.0f} before, {facts['found']:.0f} "
            f"when all were found), {1e6 * facts['batch']:.0f} µs a batch"
        )
    print(f"memory: {peaks[1] / peaks[0]:.3f} times (to reach: 1.1)")


def measure_index(folder: Path, repeats: int) -> None:
    for width, of in ((WIDTH, "in 62 files"), (8 * WIDTH, "in 490 files")):
        store = folder / str(width)
        make_up(store, 1_000_000, width)
        facts = [alone(open_index, store, 1_000_000, width) for _ in range(3)]
        opened, found, growth = (
            statistics.median(fact[name] for fact in facts)
            for name in ("opened", "found", "growth")
        )
        print(
            f"1,000,000 images {of}: open after {opened:.3f} s (to reach: 1), all found after "
            f"{found:.2f} s, {growth:.0f} MB"
        )


# Figures


def alternate(
    ours: Callable[[], float], other: Callable[[], float], repeats: int
) -> list[tuple[float, float]]:
    pairs = []
    for _ in range(repeats):
        gc.collect()
        torch.manual_seed(0)
        pairs.append((ours(), other()))
    return pairs


def tell(
    what: str, pairs: list[tuple[float, float]], other: str, goal: float | None = None
) -> None:
    ours, others = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    ratios = [one / two for one, two in pairs]
    aim = f" (to reach: {goal})" if goal else ""
    print(
        f"{what}: {ours:.3f} s; {other}: {others:.3f} s; "
        f"{statistics.median(ratios):.2f} times{aim}, {min(ratios):.2f} to {max(ratios):.2f}"
    )


PARTS: dict[str, Callable[[Path, int], None]] = {
    "epoch": measure_epoch,
    "hits": measure_hits,
    "memory": measure_memory,
    "index": measure_index,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="where files are made up")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for name in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            PARTS[name](Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
