"""Finding runs and their checkpoints, and reading their folders."""

from __future__ import annotations

import csv
import functools
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from discern.console import for_terminal
from discern.errors import DiscernError, about, shortened
from discern.files.places import is_file, is_folder, is_there, placed
from discern.files.reading import check_format, read_json, read_text
from discern.runs.state import ENDINGS, Ended, State
from discern.text import decoded

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs")
"""The folder of all runs, in the working directory."""

SWEEP = "sweep.json"
"""The file that lists a sweep's jobs, in its folder."""

BEST = "best"
"""The folder of the best job, in the sweep's folder."""

WORDS = ("last", "best")
"""Words that stand for a run's folder: see :func:`run_meant`."""

FORMAT = 1
"""The format version of summary.json; raised when its contents change."""

SUMMARY, CONFIG, OVERRIDES = "summary.json", "config.yaml", "overrides.yaml"
"""A run's results, written when it ends; its settings and the typed ones, when it starts."""

HYDRA = "hydra.yaml"
"""Hydra's own settings beside config.yaml: choices, launcher, folders."""

REPORT = "report.html"

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in its own."""

LAST_SAVED, BEFORE_LAST, BEST_SAVED = (
    f"{name}.safetensors" for name in ("last", "previous", "best")
)
"""The checkpoints in it: the last one, the one before it, and the best one."""

FOLD = "data.fold"
"""The setting that selects the held-out part of the training images, of ``data.folds`` parts."""

MAX_FACTS = 1 << 22
"""Bytes of a summary, which fits some numbers for each of 20,000 classes."""

MAX_CSV, MAX_CELLS = 1 << 26, 2_000_000
"""Bytes and cells of a table, which fit 100,000 epochs with twenty columns."""

MAX_PICTURE = 1 << 25
"""Bytes of a picture."""

MAX_DEPTH = 64
"""Levels of folders in which runs are looked for."""


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder.

    Attributes:
        folder: the run's folder.
        facts: summary.json; empty for a run that has not ended.
        trouble: why this version of discern cannot read its summary; else empty.
    """

    folder: Path
    facts: dict[str, object]
    trouble: str = ""

    @functools.cached_property
    def config(self) -> dict[str, object]:
        """config.yaml, read on first use; empty if there is none."""
        return mapping(_settings(self.folder / CONFIG))

    @functools.cached_property
    def overrides(self) -> list[str]:
        """The settings that were typed."""
        typed = _settings(self.folder / OVERRIDES)
        return [str(item) for item in typed] if isinstance(typed, list) else []

    @property
    def state(self) -> State:
        """The run's state."""
        if self.trouble:
            return State.UNKNOWN
        state = self.facts.get("state")
        return State(str(state)) if state in ENDINGS else State.UNFINISHED

    @property
    def reason(self) -> str:
        """Why it ended, for people; empty while it has not."""
        reason = self.facts.get("reason")
        return reason if isinstance(reason, str) else self.trouble

    @property
    def ended(self) -> Ended:
        """How and why it ended."""
        return Ended(self.state, self.reason)

    @property
    def title(self) -> str:
        """The model and its data."""
        return str(self.facts.get("title") or self.facts.get("name") or self.folder.name)

    @property
    def model(self) -> str:
        """The name of the experiment or the model in the settings."""
        return str(self.facts.get("name") or _class_name(self.config.get("model")))

    @property
    def data(self) -> str:
        """The name of its data set."""
        return str(self.part("data").get("title") or _class_name(self.config.get("data")))

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        tags = self.facts.get("tags") if self.facts else self.config.get("tags")
        return [str(tag) for tag in tags] if isinstance(tags, list) else []

    @functools.cached_property
    def began(self) -> datetime | None:
        """When it began, in local time; None if unknown."""
        began = self.facts.get("began")
        try:
            if isinstance(began, str):
                return datetime.fromisoformat(began).astimezone()
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
        """Whether it is a fold of a cross-validation."""
        return isinstance(mapping(self.config.get("data")).get("folds"), int)

    @property
    def is_partly_validated(self) -> bool:
        """Whether its validation left images out."""
        trainer = mapping(self.config.get("trainer"))
        few = any(trainer.get(name) for name in ("overfit_batches", "fast_dev_run"))
        return few or leaves_out(trainer.get("limit_val_batches"))

    @property
    def seconds(self) -> float | None:
        """How long it took; None if unknown."""
        return finite(self.part("seconds").get("total"))

    def metric(self, split: str, name: str) -> float | None:
        """A metric of the checkpoint that was kept; None if unknown."""
        return self.metrics().get(f"{split}/{name}")

    def metrics(self) -> dict[str, float]:
        """All known metrics, as ``split/name``."""
        return dict(self._metrics)

    @functools.cached_property
    def _metrics(self) -> dict[str, float]:
        parts = self.part("metrics")
        if "test" not in parts and parts:
            # The best job of a sweep is tested last, in a folder of its own.
            parts = parts | {"test": glance(self.folder / "test").part("metrics").get("test")}
        return {
            f"{split}/{name}": value
            for split, part in parts.items()
            for name, value in numbers(part).items()
        }

    def part(self, name: str) -> dict[str, object]:
        """A mapping in the summary; empty if there is none of that name."""
        return mapping(self.facts.get(name))

    def epochs(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one per epoch, without empty cells."""
        try:
            return _epochs(table(self.folder, "metrics.csv"))
        except (OSError, ValueError):
            return []


def table(folder: Path, name: str) -> Iterator[list[str]]:
    """The rows of a table in a run's folder, with their cells.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no table, or one of too many cells.
    """
    text = read_text(folder / name, MAX_CSV, home(folder))
    if text.count(",") + text.count("\n") > MAX_CELLS:  # before they take memory
        raise ValueError("a table of too many cells")
    try:
        yield from csv.reader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise ValueError("no table") from error


def _epochs(lines: Iterator[list[str]]) -> list[dict[str, float]]:
    rows, header = [], next(lines, [])
    for cells in lines:
        named = {name: _number(cell) for name, cell in zip(header, cells, strict=False) if name}
        row = {name: value for name, value in named.items() if value is not None}
        if math.isfinite(row.get("epoch", math.nan)):
            rows.append(row)
    return rows


def is_run(folder: Path) -> bool:
    """Whether a run of ``train`` has begun in this folder."""
    return is_file(folder / SUMMARY) or is_file(folder / OVERRIDES)


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has begun in this folder."""
    return is_file(folder / SWEEP)


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        DiscernError: it is not the folder of a run, or one of another version of discern.
    """
    if not is_run(folder):
        raise DiscernError(
            f"{folder} is not the folder of a run: it has neither {SUMMARY} nor {OVERRIDES}."
        )
    return Run(folder, read_facts(folder) or {})


def glance(folder: Path) -> Run:
    """The run in a folder, even if another version of discern wrote it: for lists."""
    try:
        return Run(folder, read_facts(folder) or {})
    except DiscernError as error:
        return Run(folder, {}, str(error))


def read_facts(folder: Path) -> dict[str, object] | None:
    """A run's summary; None if it has none (yet) or it cannot be read.

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
    """The folder that a run's files must be inside: its own.

    ``best`` of a sweep links to another job's files, so for it that is the sweep's folder.
    """
    return folder.parent if folder.name == BEST and is_sweep(folder.parent) else folder


def _settings(path: Path) -> object:
    """A file of settings; None if it is missing or cannot be read."""
    from discern.files.yaml_file import read_settings  # start-up time: yaml

    try:
        return read_settings(path, home(path.parent))
    except (OSError, ValueError):
        return None


def runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs in a folder, including a sweep's jobs, or that folder itself.

    Links are not followed, nor ``best`` of a sweep, which is one of its jobs.
    """

    def enter(path: Path) -> list[Path]:
        if is_run(path):
            return []
        return [each for each in _folders(path) if each.name != BEST or not is_sweep(path)]

    return filter(is_run, _walk(folder, enter))


def sweeps_below(folder: Path) -> Iterator[Path]:
    """The folders of sweeps in a folder, or that folder itself."""

    def enter(path: Path) -> list[Path]:
        return [] if is_sweep(path) else [each for each in _folders(path) if not is_run(each)]

    return filter(is_sweep, _walk(folder, enter))


def folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all folders in it; no links, nothing hidden."""
    return _walk(folder, _folders)


def _walk(folder: Path, enter: Callable[[Path], list[Path]]) -> Iterator[Path]:
    """A folder and the folders that are entered from it, in the order of their names."""
    left = [(folder, 0)]
    while left:
        path, depth = left.pop()
        yield path
        if depth < MAX_DEPTH:
            left += [(each, depth + 1) for each in reversed(enter(path))]


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder; no links, nothing hidden."""
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
    """The folder of the run in ``outputs`` that a word stands for; a sweep's jobs count as runs.

    Args:
        word: ``last``, the newest run; ``best``, the one with the lowest validation loss. A fold is
            part of an estimate and never the best; a run that was validated on a part of its
            images is the best only if there is no other. If the runs are on several data sets, a
            warning says so.
        outputs: a folder with runs somewhere in it.
        with_checkpoint: whether only runs with a checkpoint count.

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
    runs.sort(key=lambda run: run.metrics()["val/loss"])
    whole = (run for run in runs if not run.is_fold and not run.is_partly_validated)
    best = next(whole, None) or next((run for run in runs if not run.is_fold), None)
    if best is not None:
        others = sorted({run.data for run in runs} - {best.data})
        if others:
            log.warning(
                "best is the run on %s, by its val/loss, which says nothing of runs on %s; where "
                "one of these is meant, name its folder.",
                *map(for_terminal, (best.data, shortened(others))),
            )
        return best.folder
    raise DiscernError(
        f"best needs a run in {outputs} that is not a fold (data.folds), and there is none: folds "
        "are parts of one estimate, of which the sweep's report has the mean."
    )


def leaves_out(limit: object) -> bool:
    """Whether a ``trainer.limit_…_batches`` leaves batches out: 1 is one batch, 1.0 all of them."""
    everything = isinstance(limit, float) and limit == 1
    return not everything and limit not in (0, None)


def order_of_beginning(run: Run) -> tuple[float, str]:
    """A sort key: the oldest run first."""
    return (0.0 if run.began is None else run.began.timestamp(), os.fspath(run.folder))


def numbers(values: object) -> dict[str, float]:
    """The values of a mapping that are numbers; empty for anything but a mapping."""
    found = {str(name): finite(value) for name, value in mapping(values).items()}
    return {name: value for name, value in found.items() if value is not None}


def finite(value: object) -> float | None:
    """A value from a file if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _class_name(part: object) -> str:
    return str(mapping(part).get("_target_") or "").rpartition(".")[2].lower()


def mapping(value: object) -> dict[str, object]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def find_sweep(wanted: str) -> Path:
    """The folder for a value of ``sweep.resume``.

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
    if not is_file(folder / SWEEP):
        raise DiscernError(
            f"sweep.resume={wanted} is not the folder of a sweep: it has no {SWEEP}."
        )
    return folder


def find_checkpoint(wanted: str, setting: str = "ckpt_path", *, goes_on: bool = False) -> Path:
    """The checkpoint file for the value of a setting.

    Args:
        wanted: a checkpoint's path; a run's folder; ``last`` or ``best``, for the newest or best
            run in ``outputs`` that has a checkpoint.
        setting: the setting's name.
        goes_on: whether training continues from it. Then a run's last checkpoint is taken, else its
            best, or the last if there is no best.

    Raises:
        DiscernError: there is none.
    """
    path = placed(wanted)
    if is_file(path):
        return path
    if not is_there(path) and wanted in WORDS:
        with about(setting):
            path = run_meant(wanted, placed(OUTPUTS), with_checkpoint=True)
    if is_folder(path):
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
    """The checkpoint in a run's folder that :func:`find_checkpoint` takes, if there is one."""
    return next(iter(checkpoints_in(folder, goes_on)), None)


def checkpoints_in(folder: Path, goes_on: bool = False) -> list[Path]:
    """The checkpoints in a run's folder, the one that is wanted first.

    Args:
        folder: the run's folder.
        goes_on: whether training continues from it, which the best alone does not allow.
    """
    names = (
        (LAST_SAVED, BEFORE_LAST, BEST_SAVED) if goes_on else (BEST_SAVED, LAST_SAVED, BEFORE_LAST)
    )
    files = [file for name in names if is_file(file := folder / CHECKPOINTS / name)]
    return [] if goes_on and [file.name for file in files] == [BEST_SAVED] else files


def short_names(folders: Iterable[Path]) -> list[str]:
    """Each folder's shortest ending that no other folder has, safe for a terminal."""
    paths = [folder.absolute().parts for folder in folders]

    def ending(parts: tuple[str, ...]) -> str:
        count = 1
        while count < len(parts) and sum(parts[-count:] == each[-count:] for each in paths) > 1:
            count += 1
        return for_terminal(decoded(Path(*parts[-count:])))

    return [ending(parts) for parts in paths]
