"""Finding runs, what their folders tell of them, and the checkpoints in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from discern.errors import DiscernError

OUTPUTS = Path("outputs")
"""Where runs are kept, below the working directory."""

SWEEP = "sweep.json"
"""The list of a sweep's jobs, in its folder."""


SUMMARY, CONFIG, OVERRIDES = "summary.json", "config.yaml", "overrides.yaml"
"""What a run was and gave, written when it ends; its settings, and those typed, when it starts."""


class State(Enum):
    """How a run stands."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNFINISHED = "unfinished"
    """It is still running, or its process died before it could say how it ended."""


@dataclass(frozen=True)
class Run:
    """What a run's folder tells, whatever version of discern has written it.

    Attributes:
        folder: where it is.
        facts: summary.json; empty for a run that has not ended.
        config: config.yaml; empty where there is none.
        overrides: the settings that were typed.
    """

    folder: Path
    facts: dict[str, Any]
    config: dict[str, Any]
    overrides: list[str]

    @property
    def state(self) -> State:
        """How the run stands."""
        stopped = self.stopped
        if stopped is None:
            return State.UNFINISHED
        if stopped.startswith("failed"):
            return State.FAILED
        return State.INTERRUPTED if stopped in ("interrupted", "terminated") else State.DONE

    @property
    def stopped(self) -> str | None:
        """Why it ended; None while it has not."""
        stopped = self.facts.get("stopped")
        return stopped if isinstance(stopped, str) else None

    @property
    def title(self) -> str:
        """What was trained on what."""
        return str(self.facts.get("title") or self.facts.get("name") or self.folder.name)

    def metric(self, split: str, name: str) -> float | None:
        """A metric of the checkpoint that was kept; None where it is not known."""
        part = _mapping(_mapping(self.facts.get("metrics")).get(split))
        value = part.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def part(self, name: str) -> dict[str, Any]:
        """A mapping among the facts; empty where there is none of that name."""
        return _mapping(self.facts.get(name))

    def epochs(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch, each with what is known of it."""
        rows = []
        try:
            with (self.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
                for cells in csv.DictReader(file):
                    row = {name: _number(cell) for name, cell in cells.items() if name and cell}
                    rows.append({name: value for name, value in row.items() if value is not None})
        except (OSError, ValueError, csv.Error):
            return []
        return [row for row in rows if "epoch" in row]


def is_run(folder: Path) -> bool:
    """Whether a run of ``train`` has begun in this folder."""
    return (folder / SUMMARY).is_file() or (folder / OVERRIDES).is_file()


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has begun in this folder."""
    return (folder / SWEEP).is_file()


def read_run(folder: Path) -> Run:
    """What a folder tells of the run in it.

    Raises:
        DiscernError: it is not the folder of a run.
    """
    if not is_run(folder):
        raise DiscernError(
            f"{folder} is not the folder of a run: it has neither {SUMMARY} nor {OVERRIDES}."
        )
    import yaml  # only for those who read runs: this module is imported at every start

    try:
        facts = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    settings: list[Any] = []
    for name in (CONFIG, OVERRIDES):
        try:
            settings.append(yaml.safe_load((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError):
            settings.append(None)
    config, typed = settings
    overrides = [str(item) for item in typed] if isinstance(typed, list) else []
    return Run(folder, _mapping(facts), _mapping(config), overrides)


def runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs below a folder, jobs of sweeps among them, or that folder itself.

    Links are not followed, nor ``best`` of a sweep, which is one of its jobs.
    """
    if is_run(folder):
        yield folder
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        passed = path.name.startswith(".") or (path.name == "best" and is_sweep(folder))
        if path.is_dir() and not path.is_symlink() and not passed:
            yield from runs_below(path)


def sweeps_below(folder: Path) -> Iterator[Path]:
    """The folders of sweeps below a folder, or that folder itself."""
    if is_sweep(folder):
        yield folder
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        passed = path.name.startswith(".") or path.is_symlink() or is_run(path)
        if path.is_dir() and not passed:
            yield from sweeps_below(path)


def newest(folder: Path) -> Path:
    """The newest run below a folder.

    Raises:
        DiscernError: there is none.
    """
    found = list(runs_below(folder))
    if not found:
        raise DiscernError(f"last needs a run in {folder}, and there is none.")
    return max(found, key=_begun)


def _begun(folder: Path) -> int:
    """When a run began, in nanoseconds: its settings are written first."""
    try:
        return (folder / OVERRIDES).stat().st_mtime_ns
    except OSError:
        return 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def find_sweep(wanted: str) -> Path:
    """The folder that a setting ``sweep.resume`` means.

    Args:
        wanted: a sweep's folder, or ``last`` for the newest in ``outputs``.

    Raises:
        DiscernError: there is none.
    """
    if wanted == "last":
        found = list(OUTPUTS.glob(f"**/{SWEEP}"))
        if not found:
            raise DiscernError(f"sweep.resume=last needs a sweep in {OUTPUTS}, and there is none.")
        return max(found, key=lambda file: file.stat().st_mtime_ns).parent
    folder = Path(wanted).expanduser()
    if not (folder / SWEEP).is_file():
        raise DiscernError(
            f"sweep.resume={wanted} is not the folder of a sweep: it has no {SWEEP}."
        )
    return folder


def find_checkpoint(wanted: str) -> Path:
    """The file that a setting ``ckpt_path`` means.

    Args:
        wanted: a checkpoint's path; a run's folder, for its last checkpoint; ``last`` or ``best``,
            for that checkpoint of the newest run in ``outputs``.

    Raises:
        DiscernError: there is none.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if last.is_file():
            return last
        raise DiscernError(f"ckpt_path={wanted} is a folder without checkpoints/last.ckpt in it.")
    if wanted in ("last", "best"):
        found = list(OUTPUTS.glob(f"**/checkpoints/{wanted}.ckpt"))
        if found:
            return max(found, key=lambda file: file.stat().st_mtime_ns)
        raise DiscernError(f"ckpt_path={wanted} needs a run in {OUTPUTS}, and there is none.")
    raise DiscernError(
        f"ckpt_path={wanted} does not exist; it must be a checkpoint's path, a run's folder, "
        "or last or best for the newest run's."
    )
