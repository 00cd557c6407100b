"""Images that tell their own number, features that are easy to know, and children to kill."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discern.data.augment import View
from discern.data.images import Shown
from discern.data.in_memory import InMemoryImages
from discern.features import source as extraction
from discern.features.source import FeatureSource, Kind, Settings

WIDTH = 6
FORK = multiprocessing.get_context("fork")


@contextmanager
def told_when_waiting(event: Any) -> Iterator[None]:
    """Set the event as soon as this process says that it waits for another's features."""
    logger = logging.getLogger("discern.files.locks")

    def look(record: logging.LogRecord) -> bool:
        if "Waiting for" in record.getMessage():
            event.set()
        return True

    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(look)
    try:
        yield
    finally:
        logger.removeFilter(look)
        logger.setLevel(before)


def images(numbers: range | list[int]) -> InMemoryImages:
    """Images of 1 x 2 x 3 pixels, which hold their number and nothing else."""
    pixels = torch.zeros((len(numbers), 1, 2, 3), dtype=torch.uint8)
    for place, number in enumerate(numbers):
        pixels[place, 0, 0, 0], pixels[place, 0, 0, 1] = number // 200, number % 200 + 1
    labels = torch.arange(len(numbers)) % 2
    return InMemoryImages(pixels, labels, mean=0.0, std=1 / 255)


def features_of(pixels: Tensor) -> Tensor:
    """Sums of the pixels with weights, which tell any images and any order of pixels apart."""
    weights = torch.arange(1, 6 * WIDTH + 1, dtype=torch.float32).view(6, WIDTH) / 7
    return pixels.flatten(1) @ weights


def expected(shown: InMemoryImages, augmentation: Any = None, seed: int = 0, epoch: int = 0):
    """The features that an uncached run would compute."""
    indices = np.arange(len(shown))
    if augmentation is None:
        return features_of(shown.__getitems__(indices.tolist())[0])
    return features_of(shown.augmented(indices, View.of(augmentation, seed, epoch))[0])


class Counted:
    """Computes features, and writes the number of each image into a file before.

    Args:
        seconds: that a batch takes.
        hangs_after: images that it computes before it never ends; whoever calls it is killed.
    """

    def __init__(self, path: Path, seconds: float = 0.0, hangs_after: float = math.inf) -> None:
        self.path, self.seconds, self.hangs_after = path, seconds, hangs_after

    def __call__(self, batch: Tensor) -> Tensor:
        numbers = (batch.flatten(1)[:, 0] * 200 + batch.flatten(1)[:, 1] - 1).round().int()
        with self.path.open("a") as file:
            file.write("".join(f"{number}\n" for number in numbers.tolist()))
        if len(self.numbers) > self.hangs_after:
            signal.pause()
        time.sleep(self.seconds)
        return features_of(batch)

    @property
    def numbers(self) -> list[int]:
        """Of all images computed so far, by any process."""
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


def kind(**changes: Any) -> Kind:
    facts: dict[str, Any] = {
        "backbone": {"library": "none", "name": "sums", "digest": "0"},
        "shape": (1, 2, 3),
        "preprocessing": {"mean": 0.0, "std": 1 / 255},
        "readers": {"pillow": "12.0"},
        "engine": "torch-2.0-1",
        "precision": "float32",
    }
    return Kind(**{**facts, **changes})


def source(
    folder: Path, compute: Callable[[Tensor], Tensor] = features_of, **changes: Any
) -> FeatureSource:
    """A feature source in a cache folder; changes of ``Settings`` or ``Kind``."""
    settings: dict[str, Any] = {
        "mode": "auto",
        "folder": folder,
        "max_bytes": 1 << 40,
        "views": 4,
        "stop_if_full": True,
        "batch_size": 4,
        "num_workers": 0,
    }
    of_kind = {name: changes.pop(name) for name in list(changes) if hasattr(kind(), name)}
    width = changes.pop("width", WIDTH)
    settings |= changes
    return FeatureSource(compute, width, kind(**of_kind), Settings(**settings))


def rows(made: FeatureSource, shown: Any, augmentation: Any = None, seed: int = 0, view: int = 0):
    """The features of all images, in their order."""
    return made.rows(Shown(shown, View.of(augmentation, seed, view)), np.arange(len(shown)))


# Other processes


def child(work: Callable[..., object], *arguments: object) -> ForkProcess:
    """A process that does the work in which what is written is flushed after every batch."""

    def run() -> None:
        torch.set_num_threads(1)
        extraction.FLUSH_SECONDS = 0.004
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    return process


def kill(process: ForkProcess) -> None:
    """End it at once."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


@contextmanager
def holding(folder: Path, numbers: range, **changes: Any) -> Iterator[None]:
    """Another process uses the features of images as long as the block runs."""
    ready, end = FORK.Event(), FORK.Event()

    def use() -> None:
        made = source(folder, **changes)
        rows(made, images(numbers))
        ready.set()
        end.wait(30)

    process = child(use)
    assert ready.wait(30)
    try:
        yield
    finally:
        end.set()
        process.join()
        assert process.exitcode == 0


def in_child(work: Callable[[], object]) -> Any:
    """What the work returns in a process of its own, or the exception's text."""
    mine, other = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            other.send(work())
        except Exception as error:
            other.send(f"{type(error).__name__}: {error}")

    process = child(run)
    assert mine.poll(30)
    answer = mine.recv()
    process.join()
    return answer
