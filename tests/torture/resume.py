"""A run that is stopped after a step and goes on is the undisturbed run, to the bit."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from discern.reports.tensorboard.logger import RESULT
from disk import hidden
from photos import photo_folder
from run_files import checkpoint, composed, metrics_csv
from starter import invoke
from torture.case import Case

STEPS = 60
"""Optimizer steps of each run, in four epochs."""

DIGITS = (
    "data.source=sample", "data.fraction=0.1", "data.val_size=30", "data.batch_size=12",
    "data.augment=flip_shift", "model.hidden=[8]", "callbacks.early_stopping.patience=3",
)  # fmt: skip
PHOTOS = (
    "model=densenet_transfer", "model.backbone=squeezenet1_1", "model.weights=null",
    "model.head=[8]", "model.dropout=0.3", "data=image_folder", "data.image_size=32",
    "data.batch_size=2", "data.val_size=6", "data.test_size=6", "data.augment=notes",
    "cache.views=2", "engine=torch",
)  # fmt: skip
SHARED = (
    "trainer.accelerator=cpu", "threads=1", "test=false", "report=false", "optimizer.lr=3e-3",
    "callbacks.dashboard.sparing=true", "trainer.max_epochs=4", "trainer.limit_train_batches=15",
    "trainer.log_every_n_steps=2",
)  # fmt: skip

MODELS = {
    "mlp": DIGITS,
    "dropout": (*DIGITS, "model.dropout=0.3", "model.norm=batch"),
    "mixup": (*DIGITS, "model.mixup=0.2", "model.cutmix=1.0", "trainer.gradient_clip_val=0.5"),
    "ema": (*DIGITS, "model.dropout=0.2", "callbacks.ema.decay=0.9"),
    "cached": PHOTOS,
    "not cached": (*PHOTOS, "cache.mode=off"),
}
SCHEDULES = {
    "none": (),
    "onecycle": ("scheduler=onecycle", "trainer.val_check_interval=4"),
    "cosine": ("scheduler=cosine", "trainer.val_check_interval=0.5"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "trainer.val_check_interval=7"),
    "step": ("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.7"),
}
WORKERS = ((0, 0), (2, 2), (0, 2), (2, 0))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL)


HOME = "TORTURE_RESUME_HOME"
"""Names the folder that all cases share to the processes that this one starts."""


class Stop(NamedTuple):
    """Where and how a run is stopped, and how it goes on.

    Attributes:
        model, schedule: keys of ``MODELS`` and ``SCHEDULES``.
        steps: those after which it is stopped, in rising order; it goes on after each.
        number: the signal; after SIGKILL it goes on from a checkpoint made every n steps.
        workers: the worker processes of its parts, in turn.
        same: whether it goes on in its own folder.
        accumulate: batches of an optimizer step.
    """

    model: str
    schedule: str
    steps: tuple[int, ...]
    number: int
    workers: tuple[int, ...]
    same: bool = True
    accumulate: int = 1

    def __str__(self) -> str:
        places = " and ".join(map(str, self.steps))
        return (
            f"{self.model}, {self.schedule}, {signal.Signals(self.number).name} after {places}, "
            f"workers {self.workers}, {'same' if self.same else 'new'} folder, "
            f"accumulate {self.accumulate}"
        )


class Seen(Callback):
    """Writes down each batch that training sees, and sends its process a signal in a step."""

    def __init__(self, path: str, step: int, number: int) -> None:
        self.path, self.step, self.number = Path(path), step, number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        digest = zlib.crc32(b"".join(part.numpy().tobytes() for part in batch))
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step} {trainer.current_epoch} {batch_idx} {digest}\n")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def cases() -> Iterator[Case]:
    """Each step of each model three times, with all else in turn; and stopped twice."""
    turns = product(range(3), MODELS, range(1, STEPS))
    for number, (turn, model, step) in enumerate(turns):
        yield _case(number, model, (step,), turn)
    for number, (model, step) in enumerate(product(MODELS, range(2, STEPS - 4, 6))):
        yield _case(number, model, (step, step + 4), 0)


def _case(number: int, model: str, steps: tuple[int, ...], turn: int) -> Case:
    schedules = [*SCHEDULES]
    stop = Stop(
        model,
        schedules[(number + turn) % len(schedules)],
        steps,
        SIGNALS[(number // 2 + turn) % len(SIGNALS)],
        WORKERS[(number // 3 + turn) % len(WORKERS)],
        same=number % 3 > 0,
        accumulate=(1, 1, 2, 4)[(number // 5 + turn) % 4],
    )
    return Case(str(stop), functools.partial(check, stop=stop))


def check(folder: Path, stop: Stop) -> None:
    """Stop a run and go on, as often as asked, and compare it with the undisturbed run."""
    whole, seen_by_whole = _undisturbed(stop.model, stop.schedule, stop.accumulate)
    longest = _steps_of(whole)
    seen: list[str] = []
    events: list[tuple[str, int, float]] = []
    run, start, before = folder / "part0", "null", 0
    # Of a run in which batches are accumulated, at the same part of its length.
    steps = sorted({max(1, step * longest // STEPS) for step in stop.steps})
    for place, step in enumerate(steps):
        _stop(stop, run, start, step, stop.workers[place % 2], folder / f"seen{place}")
        assert int(checkpoint(run)["global_step"]) == step, "it stopped elsewhere"
        seen += _seen(folder / f"seen{place}", before, step)
        start, before = str(run / "checkpoints" / "last.safetensors"), step
        if not stop.same:
            events += [p for p in _points(run) if p[1] < step and not p[0].startswith(RESULT)]
            run = folder / f"part{place + 1}"
    workers = stop.workers[len(steps) % 2]
    _train(stop, run, start, workers, folder / "seen", 0, 0)
    seen += _seen(folder / "seen", before, STEPS)

    assert seen == seen_by_whole, "it saw other batches"
    assert_same(_content(run), _content(whole), "last.safetensors")
    assert_same(_rows(run), _rows(whole), "metrics.csv")
    points = sorted(events + _points(run))
    assert points == _points(whole), _differing(points, _points(whole))
    for part in folder.glob("part*"):
        assert not hidden(part), "a temporary file is left"


def _undisturbed(model: str, schedule: str, accumulate: int) -> tuple[Path, list[str]]:
    """The folder of a run that nobody stopped, and the batches that it saw."""
    return _run_whole(model, schedule, accumulate)


@functools.cache
def _run_whole(model: str, schedule: str, accumulate: int) -> tuple[Path, list[str]]:
    folder = _home() / f"{model} {schedule} {accumulate}"
    stop = Stop(model, schedule, (), 0, (0,), accumulate=accumulate)
    _train(stop, folder, "null", 0, folder.with_suffix(".seen"), 0, 0)
    return folder, _seen(folder.with_suffix(".seen"), 0, STEPS)


@functools.cache
def _home() -> Path:
    """A folder for what all cases share: the cache, the photographs, the undisturbed runs."""
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="torture-resume-")
        atexit.register(shutil.rmtree, os.environ[HOME], ignore_errors=True)
    return Path(os.environ[HOME])


@functools.cache
def _photos() -> Path:
    folder = _home() / "photos"
    return folder if folder.is_dir() else photo_folder(folder, per_class=21)


def _steps_of(whole: Path) -> int:
    return int(checkpoint(whole)["global_step"])


def _stop(stop: Stop, run: Path, start: str, step: int, workers: int, seen: Path) -> None:
    """Run until the signal has come in a step, and assert that it was the signal that ended it."""
    if stop.number != signal.SIGKILL:
        ended = _train(stop, run, start, workers, seen, step, stop.number)
        assert ended == 128 + stop.number, f"it ended with status {ended}"
        return
    # A process of its own dies in the step after the one whose checkpoint is there. No fork of this
    # one, which may have begun threads that a fork does not have.
    told = json.dumps([stop, str(run), start, step, workers, str(seen)])
    done = invoke("-c", KILLED, told, cwd=_home(), draws=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


KILLED = """
import json, sys
from torture.resume import train_until_killed
train_until_killed(*json.loads(sys.argv[1]))
"""


def train_until_killed(
    stop: Sequence[Any], run: str, start: str, step: int, workers: int, seen: str
) -> None:
    """Train, with a checkpoint after a step, until the process is killed in the next one."""
    every = f"callbacks.checkpoints.every_n_steps={step}"
    stopped = Stop(*stop)
    _train(stopped, Path(run), start, workers, Path(seen), step + 1, stopped.number, every)


def _train(
    stop: Stop, run: Path, start: str, workers: int, seen: Path, step: int, number: int, *more: str
) -> int:
    """Train in this process; the exit status that the command would have."""
    from discern.run import train
    from discern.runs.sweep_job import DRAWS

    watch = (
        f"{{_target_: torture.resume.Seen, path: '{seen}', step: {step}, number: {int(number)}}}"
    )
    photos = (f"data.dir={_photos()}",) if MODELS[stop.model][0] == PHOTOS[0] else ()
    cfg = composed(
        *MODELS[stop.model], *photos, *SHARED, *SCHEDULES[stop.schedule],
        f"data.num_workers={workers}", f"trainer.accumulate_grad_batches={stop.accumulate}",
        f"trainer.callbacks=[{watch}]", *more,
    )  # fmt: skip
    cfg.folder, cfg.ckpt_path = str(run), None if start == "null" else start
    # Nobody looks at a picture.
    with patch.dict(os.environ, {DRAWS: "1", "DISCERN_CACHE_DIR": str(_home() / "cache")}):
        return train(cfg).ended.status


def _seen(path: Path, first: int, last: int) -> list[str]:
    """The batches of the steps from ``first`` (0-based) up to ``last``."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if first <= int(line.split()[0]) < last]


TIMED = ("seconds", "images_per_second")


def _rows(run: Path) -> list[dict[str, float]]:
    rows = metrics_csv(run, complete=False)
    return [{k: v for k, v in row.items() if not k.endswith(TIMED)} for row in rows]


def _points(run: Path) -> list[tuple[str, int, float]]:
    """All scalars in the events of a run."""
    points = []
    for file in run.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                scalar = value.metadata.plugin_data.plugin_name == "scalars"
                if scalar and not value.tag.endswith(TIMED):
                    points.append((value.tag, event.step, value.tensor.float_val[0]))
    return sorted(points)


def _differing(one: list[Any], other: list[Any]) -> str:
    lacks, extra = [p for p in other if p not in one], [p for p in one if p not in other]
    doubled = [p for p in {*one} if one.count(p) > other.count(p)]
    return f"TensorBoard lacks {lacks[:5]}, has besides {extra[:5]}, twice {doubled[:5]}"


LEFT_OUT = ("num_workers", "features_read", "features_computed", "computed")
"""Of a checkpoint, besides times: settings that differ, and where features came from."""


def _content(run: Path) -> object:
    return _plain(checkpoint(run))


def _plain(value: object) -> object:
    """A checkpoint's content without times, and with names in the place of paths."""
    if isinstance(value, dict):
        return {
            _plain(key): _plain(part)
            for key, part in value.items()
            if not str(key).endswith((*TIMED, *LEFT_OUT))
        }
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        return Path(value).name if "/part" in value or str(_home()) in value else value
    return value


def assert_same(one: object, other: object, place: str) -> None:
    """Assert that two values, of mappings, lists and tensors, are the same to the bit."""
    if isinstance(other, dict):
        assert isinstance(one, dict), place
        assert one.keys() == other.keys(), place
        for key, part in other.items():
            assert_same(one[key], part, f"{place}.{key}")
    elif isinstance(other, list):
        assert isinstance(one, list), place
        assert len(one) == len(other), f"{place}: {one} and {other}"
        for number, part in enumerate(other):
            assert_same(one[number], part, f"{place}.{number}")
    elif isinstance(other, Tensor):
        assert isinstance(one, Tensor), place
        assert one.dtype == other.dtype, place
        assert torch.equal(one, other), f"{place}: {one} and {other}"
    else:
        same = one == other or (other != other and one != one)
        assert same, f"{place}: {one} and not {other}"
