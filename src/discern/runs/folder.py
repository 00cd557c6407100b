"""Finding runs, what their folders tell of them, and the checkpoints in them."""

from __future__ import annotations

import csv
import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from discern.console import for_terminal
from discern.errors import DiscernError, about
from discern.files.places import placed
from discern.files.reading import check_format, read_json, read_text
from discern.runs.state import ENDINGS, Ended, State
from discern.text import decoded

OUTPUTS = Path("outputs")
"""Where runs are kept, below the working directory."""

SWEEP = "sweep.json"
"""The list of a sweep's jobs, in its folder."""

BEST = "best"
"""The folder of the best job, in that of the sweep."""

WORDS = ("last", "best")
"""What stands for a run in the place of its folder: see :func:`run_meant`."""

FORMAT = 1
"""Of summary.json; raised where a summary says something else, or says it in another way."""

SUMMARY, CONFIG, OVERRIDES = "summary.json", "config.yaml", "overrides.yaml"
"""What a run was and gave, written when it ends; its settings, and those typed, when it starts."""

REPORT = "report.html"

FOLD = "data.fold"
"""The setting that says which part of the training images is held out, of ``data.folds`` parts."""

MAX_FACTS = 1 << 22
"""Bytes of a summary: it has some numbers for each of 20,000 classes."""

MAX_CSV, MOST_CELLS = 1 << 26, 2_000_000
"""Bytes and cells of a table of epochs: those of 100,000 epochs with twenty columns."""

MAX_PICTURE = 1 << 25
"""Bytes of a picture."""

DEEPEST = 64
"""Folders in folders in which runs are looked for."""


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        folder: where it is.
        facts: summary.json; empty for a run that has not ended.
        trouble: why its summary means nothing to this version of discern; empty for others.
    """

    folder: Path
    facts: dict[str, Any]
    trouble: str = ""

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml, read when it is first asked for; empty where there is none."""
        return mapping(_settings(self.folder / CONFIG))

    @functools.cached_property
    def overrides(self) -> list[str]:
        """The settings that were typed."""
        typed = _settings(self.folder / OVERRIDES)
        return [str(item) for item in typed] if isinstance(typed, list) else []

    @property
    def state(self) -> State:
        """How the run stands."""
        if self.trouble:
            return State.UNKNOWN
        told = self.facts.get("state")
        return State(told) if told in ENDINGS else State.UNFINISHED

    @property
    def reason(self) -> str:
        """Why it ended, in words; empty while it has not."""
        reason = self.facts.get("reason")
        return reason if isinstance(reason, str) else self.trouble

    @property
    def ended(self) -> Ended:
        """How and why it ended."""
        return Ended(self.state, self.reason)

    @property
    def title(self) -> str:
        """What was trained on what."""
        return str(self.facts.get("title") or self.facts.get("name") or self.folder.name)

    @property
    def model(self) -> str:
        """The experiment or the model, by the name that it has in the settings."""
        return str(self.facts.get("name") or _class_name(self.config.get("model")))

    @property
    def data(self) -> str:
        """What it was trained on."""
        return str(self.part("data").get("title") or _class_name(self.config.get("data")))

    @property
    def tags(self) -> list[str]:
        """Words to find it by."""
        tags = self.facts.get("tags") if self.facts else self.config.get("tags")
        return [str(tag) for tag in tags] if isinstance(tags, list) else []

    @functools.cached_property
    def began(self) -> datetime | None:
        """When it began, in local time; None where nothing tells."""
        told = self.facts.get("began")
        try:
            if isinstance(told, str):
                return datetime.fromisoformat(told).astimezone()
        except (ValueError, OverflowError):
            pass
        # The settings are written first.
        for name in (OVERRIDES, SUMMARY):
            try:
                return datetime.fromtimestamp((self.folder / name).stat().st_mtime).astimezone()
            except (OSError, ValueError, OverflowError):
                continue
        return None

    @property
    def is_fold(self) -> bool:
        """Whether it is one of the parts of an estimate by cross-validation."""
        return isinstance(mapping(self.config.get("data")).get("folds"), int)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while that is not known."""
        return finite(self.part("seconds").get("total"))

    def metric(self, split: str, name: str) -> float | None:
        """A metric of the checkpoint that was kept; None where it is not known."""
        return self.metrics().get(f"{split}/{name}")

    def metrics(self) -> dict[str, float]:
        """All of them that are known, each as ``split/name``."""
        return dict(self._metrics)

    @functools.cached_property
    def _metrics(self) -> dict[str, float]:
        parts = self.part("metrics")
        if "test" not in parts and parts:
            # The best job of a sweep is tested after the others, in a folder of its own.
            parts = {
                **parts,
                "test": glance(self.folder / "test").part("metrics").get("test"),
            }
        return {
            f"{split}/{name}": value
            for split, part in parts.items()
            for name, value in numbers(part).items()
        }

    def part(self, name: str) -> dict[str, Any]:
        """A mapping among the facts; empty where there is none of that name."""
        return mapping(self.facts.get(name))

    def epochs(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch, each with what is known of it."""
        try:
            text = read_text(self.folder / "metrics.csv", MAX_CSV, home(self.folder))
            return _epochs(csv.reader(io.StringIO(text, newline="")))
        except (OSError, ValueError, csv.Error):
            return []


def _epochs(lines: Iterator[list[str]]) -> list[dict[str, float]]:
    rows, left, header = [], MOST_CELLS, next(lines, [])
    for cells in lines:
        left -= len(cells)
        if left < 0:
            raise ValueError("a table of too many cells")
        told = {name: _number(cell) for name, cell in zip(header, cells, strict=False) if name}
        row = {name: value for name, value in told.items() if value is not None}
        if math.isfinite(row.get("epoch", math.nan)):
            rows.append(row)
    return rows


def is_run(folder: Path) -> bool:
    """Whether a run of ``train`` has begun in this folder."""
    return (folder / SUMMARY).is_file() or (folder / OVERRIDES).is_file()


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has begun in this folder."""
    return (folder / SWEEP).is_file()


def read_run(folder: Path) -> Run:
    """What a folder tells of the run in it.

    Raises:
        DiscernError: it is not the folder of a run, or one of another version of discern.
    """
    if not is_run(folder):
        raise DiscernError(
            f"{folder} is not the folder of a run: it has neither {SUMMARY} nor {OVERRIDES}."
        )
    return Run(folder, read_facts(folder) or {})


def glance(folder: Path) -> Run:
    """What the folder of a run tells, for lists, in which one of another version has a place."""
    try:
        return Run(folder, read_facts(folder) or {})
    except DiscernError as error:
        return Run(folder, {}, str(error))


def read_facts(folder: Path) -> dict[str, Any] | None:
    """A run's summary; None if it has none (yet), or none that can be read.

    Raises:
        DiscernError: another version of discern has written it.
    """
    try:
        facts = read_json(folder / SUMMARY, home(folder), MAX_FACTS)
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict):
        return None
    check_format(folder / SUMMARY, facts.get("format"), FORMAT)
    return facts


def home(folder: Path) -> Path:
    """The folder in which a run's files have to lie: its own.

    That of a sweep's best job has links to that job's files, so it is the sweep's.
    """
    return folder.parent if folder.name == BEST and is_sweep(folder.parent) else folder


def _settings(path: Path) -> Any:
    """A file of settings; None where there is none that can be read."""
    from discern.files.yaml_file import read_settings  # yaml, which a start need not wait for

    try:
        return read_settings(path, home(path.parent))
    except (OSError, ValueError):
        return None


def runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs below a folder, jobs of sweeps among them, or that folder itself.

    Links are not followed, nor ``best`` of a sweep, which is one of its jobs.
    """

    def inside(path: Path) -> list[Path]:
        return [each for each in _folders(path) if each.name != BEST or not is_sweep(path)]

    return _below(folder, is_run, inside)


def sweeps_below(folder: Path) -> Iterator[Path]:
    """The folders of sweeps below a folder, or that folder itself."""
    return _below(folder, is_sweep, lambda path: [p for p in _folders(path) if not is_run(p)])


def _below(
    folder: Path, is_found: Callable[[Path], bool], inside: Callable[[Path], list[Path]]
) -> Iterator[Path]:
    """Folders of a kind, in the order of their names; none within another."""
    left = [(folder, 0)]
    while left:
        path, depth = left.pop()
        if is_found(path):
            yield path
        elif depth < DEEPEST:
            left += [(each, depth + 1) for each in reversed(inside(path))]


def folders_below(folder: Path) -> Iterator[Path]:
    """A folder and those in it, however deep; no links, nothing hidden."""
    left = [(folder, 0)]
    while left:
        path, depth = left.pop()
        yield path
        if depth < DEEPEST:
            left += [(each, depth + 1) for each in _folders(path)]


def _folders(folder: Path) -> list[Path]:
    """What is in a folder and may have runs in it: no links, nothing hidden."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def run_meant(word: str, outputs: Path, *, with_checkpoint: bool = False) -> Path:
    """The folder of the run below ``outputs`` that a word means, jobs of sweeps among them.

    Args:
        word: ``last``, the newest run; ``best``, that of the lowest loss on the validation images.
            Folds are parts of an estimate, and none of them is the best of anything.
        outputs: a folder with runs somewhere in it.
        with_checkpoint: whether only runs count that have a checkpoint.

    Raises:
        DiscernError: there is none.
    """
    needed = " with a checkpoint" if with_checkpoint else ""
    folders = [f for f in runs_below(outputs) if not with_checkpoint or checkpoint_in(f)]
    runs = list(map(glance, folders))
    if word == "best" and (runs or not with_checkpoint):
        needed = " with a val/loss and a checkpoint" if with_checkpoint else " with a val/loss"
        runs = [run for run in runs if run.metric("val", "loss") is not None]
    if not runs:
        raise DiscernError(f"{word} needs a run{needed} in {outputs}, and there is none.")
    if word == "last":
        return max(runs, key=order_of_beginning).folder
    for run in sorted(runs, key=lambda run: run.metrics()["val/loss"]):
        if not run.is_fold:
            return run.folder
    raise DiscernError(
        f"best needs a run in {outputs} that is no fold (data.folds), and there is none: folds are "
        "parts of one estimate, of which the sweep's report has the mean."
    )


def order_of_beginning(run: Run) -> tuple[float, str]:
    """A key by which runs are sorted, the oldest first."""
    return (0.0 if run.began is None else run.began.timestamp(), os.fspath(run.folder))


def numbers(values: Any) -> dict[str, float]:
    """Those of a mapping's values that are numbers; none of what is no mapping."""
    found = {str(name): finite(value) for name, value in mapping(values).items()}
    return {name: value for name, value in found.items() if value is not None}


def finite(value: Any) -> float | None:
    """A value of a file as a number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _class_name(part: Any) -> str:
    return str(mapping(part).get("_target_") or "").rpartition(".")[2].lower()


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
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
        found = [each / SWEEP for each in sweeps_below(placed(OUTPUTS))]
        if not found:
            raise DiscernError(f"sweep.resume=last needs a sweep in {OUTPUTS}, and there is none.")
        return max(found, key=lambda file: file.stat().st_mtime_ns).parent
    folder = placed(wanted)
    if not (folder / SWEEP).is_file():
        raise DiscernError(
            f"sweep.resume={wanted} is not the folder of a sweep: it has no {SWEEP}."
        )
    return folder


def find_checkpoint(wanted: str, setting: str = "ckpt_path", *, goes_on: bool = False) -> Path:
    """The file that a setting means by a checkpoint.

    Args:
        wanted: a checkpoint's path; a run's folder; ``last`` or ``best``, for the newest run in
            ``outputs`` that has a checkpoint, or the best one.
        setting: its name.
        goes_on: whether training goes on with it. Then a run's last checkpoint is meant, else its
            best, or the last where none was kept as the best.

    Raises:
        DiscernError: there is none.
    """
    path = placed(wanted)
    if path.is_file():
        return path
    if not path.exists() and wanted in WORDS:
        with about(setting):
            path = run_meant(wanted, placed(OUTPUTS), with_checkpoint=True)
    if path.is_dir():
        if (found := checkpoint_in(path, goes_on)) is not None:
            return found
        raise DiscernError(
            f"{setting}={wanted} is a folder without checkpoints/last.safetensors in it."
        )
    raise DiscernError(
        f"{setting}={wanted} does not exist; it must be a checkpoint's path, a run's folder, "
        "last for the newest run, or best for the best one."
    )


def checkpoint_in(folder: Path, goes_on: bool = False) -> Path | None:
    """The checkpoint in a run's folder that :func:`find_checkpoint` describes, if there is one."""
    files = [folder / "checkpoints" / f"{name}.safetensors" for name in ("best", "last")]
    return next((file for file in files[goes_on:] if file.is_file()), None)


def short_names(folders: Iterable[Path]) -> list[str]:
    """Each folder by as many of its last parts as no other ends in, harmless to a terminal."""
    paths = [folder.absolute().parts for folder in folders]

    def ending(parts: tuple[str, ...]) -> str:
        count = 1
        while count < len(parts) and sum(parts[-count:] == each[-count:] for each in paths) > 1:
            count += 1
        return for_terminal(decoded(Path(*parts[-count:])))

    return [ending(parts) for parts in paths]
