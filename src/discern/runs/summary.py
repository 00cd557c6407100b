"""summary.json: a run's identity, results and time."""

import functools
import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from discern.files.writing import write_whole
from discern.redaction import redacted
from discern.runs.folder import FORMAT
from discern.runs.metric_table import metric_of
from discern.runs.place import Place
from discern.runs.state import Ended
from discern.version import __version__

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


_version = functools.cache(importlib.metadata.version)
"""Looked up once per process."""


class Summary:
    """A run's facts, collected during the run and written when it ends; secrets are left out.

    Args:
        path: the JSON file.
        facts: those known from the start.

    Attributes:
        place: the file's folder as it was found.
    """

    def __init__(self, path: Path, **facts: Any) -> None:
        self.path, self.place = path, Place(path.parent)
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        self.facts: dict[str, Any] = redacted(
            {"began": began, "seconds": {}, **facts, "metrics": {}}
        )
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase of the run."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            seconds = self.facts["seconds"]
            seconds[name] = seconds.get(name, 0.0) + took
            log.debug("%s: %.2f s", name, took)

    def write(self, ended: Ended) -> None:
        """Write the file, with the run's state and reason.

        Raises:
            DiscernError: its folder was moved, removed or replaced.
        """
        self.place.check()
        seconds = self.facts["seconds"]
        seconds["total"] = seconds.get("import", 0.0) + time.perf_counter() - self._began
        outcome = {"format": FORMAT, "state": ended.state, "reason": ended.reason}
        facts = redacted({**outcome, **self.facts})
        with write_whole(self.path) as file:
            json.dump(_plain(facts), file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")


def _plain(value: object) -> object:
    # JSON has no NaN, so it becomes null. Six digits are enough for a metric; a learning rate
    # begins with zeros.
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.6g}") if abs(value) < 1e-3 else round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def metric_cells(
    metrics: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[list[str]]]:
    """The metrics of each split as texts: the names of the columns, and a row a split."""
    names = list(dict.fromkeys(name for part in metrics.values() for name in part))
    rows = [
        [split, *(metric_of(name).text(part[name]) if name in part else "" for name in names)]
        for split, part in metrics.items()
    ]
    return [metric_of(name).title for name in names], rows


def trained_on_sentence(split: str, count: int, images: int) -> str:
    """A sentence on measured images that the model was trained on."""
    are = "is" if count == 1 else "are"
    return (
        f"{count:,} of the {images:,} images of split={split} {are} among those that the model is "
        "trained on"
    )


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """The commit of the repository that ``folder`` is in, and whether files differ from it."""
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )

    commit = git("rev-parse", "HEAD")
    if commit.returncode != 0:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return {"commit": commit.stdout.strip(), "dirty": bool(changed)}


def machine() -> dict[str, str | int | None]:
    """The operating system, the processor, its cores, and bytes of memory; None if unknown."""
    return {
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
    }


@functools.cache
def cpu_name() -> str:
    """The processor's name, or else its architecture."""
    with suppress(OSError):  # Linux, where platform.processor() is the architecture
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Bytes of memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    return {
        "python": platform.python_version(),
        "discern": __version__,
        **{package: _version(package) for package in PACKAGES},
    }
