"""The fastest engine on this machine, measured once and stored."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from discern.files.derived import folder
from discern.files.writing import write_whole
from discern.runs.summary import cpu_name

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when stored choices are to be measured again."""

ROUNDS, SECONDS = 3, 4.0
"""Number of measurements, and the time after which they end."""


def fastest(
    engines: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor
) -> tuple[str, dict[str, float]]:
    """The engine that computes the most images a second, and the speed of each.

    They take turns, so that a slow moment of the machine affects them all; the medians without the
    first turn count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    begun = time.perf_counter()
    for number in range(ROUNDS + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(images)
            if number:
                seconds[name].append(time.perf_counter() - start)
        if number and time.perf_counter() - begun > SECONDS:
            break
    speeds = {name: len(images) / statistics.median(taken) for name, taken in seconds.items()}
    return max(speeds, key=lambda name: speeds[name]), speeds


def memory(backbone: str, threads: int, packages: tuple[str, ...]) -> Path:
    """The file for the choice between ``packages`` for a backbone on this machine."""
    versions = [(name, _version(name)) for name in packages]
    facts = [FORMAT, backbone, threads, torch.get_num_threads(), cpu_name(), versions]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return folder() / f"choice-{digest}.json"


def recall(path: Path) -> str | None:
    """The stored choice, if any."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    chosen = content.get("engine") if isinstance(content, dict) else None
    return chosen if isinstance(chosen, str) else None


def remember(path: Path, engine: str, speeds: Mapping[str, float]) -> None:
    """Store the choice, if the cache folder can be written."""
    try:
        with write_whole(path) as file:
            json.dump({"engine": engine, "images_per_second": dict(speeds)}, file, indent=1)
    except OSError as error:
        log.debug("%s is not kept: %s.", path, error)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
