"""What writes the files that a fault must not damage, and what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from discern.features.store import FeatureStore
from discern.files import writing
from discern.files.writing import write_whole
from discern.files.yaml_file import write_config
from discern.models.checkpoint import flaw
from discern.runs.predictions import Predictions
from discern.runs.state import Ended, State
from discern.runs.summary import Summary
from discern.runs.tested import Tested, write_tested
from discern.runs.thumbnails import Thumbnails
from discern.sweeps.results import write_results
from discern.sweeps.rows import Objective
from discern.training.checkpointing import WholeFileCheckpointIO
from discern.training.history import MetricsCSV

States = dict[str, str]
"""Path of a file in the folder -> what it holds, equal for what is meant to be equal."""


class Writer(NamedTuple):
    """Something that writes files.

    Attributes:
        write: writes its files to a folder, of a generation: 0, 1, or 2.
        states: reads them; raises an AssertionError where one is not whole.
        settled: those that are the same whether a generation is written once or twice.
        does_without: whether it goes on, with a warning, where it cannot write.
    """

    write: Callable[[Path, int], None]
    states: Callable[[Path], States]
    settled: tuple[str, ...] = ("",)
    does_without: bool = False


def digests(folder: Path) -> States:
    """The content of all files with a name of their own, as digests."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def _config(folder: Path, generation: int) -> None:
    values = {f"setting {number}": generation * number for number in range(200)}
    write_config(OmegaConf.create(values), folder / "config.yaml")


def _summary(folder: Path, generation: int) -> None:
    facts = {f"fact {number}": generation + number for number in range(200)}
    Summary(folder / "summary.json", **facts).write(Ended(State.DONE, f"{generation}"))


def _facts(folder: Path) -> States:
    found = {}
    for path in folder.glob("summary.json"):
        facts = json.loads(path.read_text())
        found[path.name] = repr([facts[f"fact {number}"] for number in range(200)])
    return found


def _csv(folder: Path, generation: int) -> None:
    rows = [{"epoch": n, "step": n, "train/loss": 1.5 / n} for n in range(1, 50 + generation)]
    MetricsCSV(folder / "metrics.csv").write(rows)


def _results(folder: Path, generation: int) -> None:
    extra = {"generation": generation, "more": list(range(3000))}
    write_results(folder, [], [Objective("val/loss", "minimize")], extra)


def _tested(folder: Path, generation: int) -> None:
    logits = torch.linspace(0, generation + 1, 300).reshape(100, 3)
    predictions = Predictions.of(logits, torch.arange(100) % 3, torch.arange(100), list("abc"))
    thumbnails = Thumbnails(np.zeros(0, np.int64), b"", 1)
    write_tested(Tested(predictions, "", thumbnails), folder)


def _cache(folder: Path, generation: int) -> None:
    ids = np.arange(2 * 50 * (generation + 1), dtype=np.uint64).reshape(-1, 2)
    store = FeatureStore(folder / "cache", 16, "float32", {"generation": 1})
    store.hold()
    missing = store.find(ids)[:, 0] < 0
    if missing.any():
        store.add(ids[missing], torch.from_numpy(ids[missing].astype(np.float32)).repeat(1, 8))


def _features(folder: Path) -> States:
    if not (folder / "cache").is_dir():
        return {}
    ids = np.arange(300, dtype=np.uint64).reshape(-1, 2)
    store = FeatureStore(folder / "cache", 16, "float32", {"generation": 1})
    assert not store.drop_damaged(list(store.chunks)), "a chunk is damaged"
    assert not store.damaged, "a chunk is damaged"
    stored = int((store.find(ids)[:, 0] >= 0).sum())
    return {"cache": f"{stored} images"} if stored else {}


def _saved(name: str, numbers: int) -> Callable[[Path, int], None]:
    def write(folder: Path, generation: int) -> None:
        weights = torch.full((numbers,), float(generation + 1))
        content = {"state_dict": {"weight": weights}, "epoch": generation}
        path = folder / "checkpoints" / f"{name}.safetensors"
        WholeFileCheckpointIO().save_checkpoint(content, path)

    return write


def _checkpoints(folder: Path) -> States:
    for path in folder.glob("checkpoints/*"):
        if not path.name.startswith("."):
            assert flaw(path) is None, f"{path.name}: {flaw(path)}"
    return digests(folder)


LAST = ("checkpoints/last.safetensors",)

WRITERS = {
    "config": Writer(_config, digests),
    "summary": Writer(_summary, _facts),
    "csv": Writer(_csv, digests, does_without=True),
    "results": Writer(_results, digests),
    "predictions": Writer(_tested, digests),
    "cache": Writer(_cache, _features),
    "best": Writer(_saved("best", 1000), _checkpoints),
    "last": Writer(_saved("last", 1000), _checkpoints, LAST),
    "large": Writer(_saved("last", 2_500_000), _checkpoints, LAST),
}


# Writers that lose files, which must be found out.


def _in_place(folder: Path, generation: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(f"{generation}" * 10_000)


def _unsynced(kind: Callable[[int], bool]) -> Callable[[Path, int], None]:
    def write(folder: Path, generation: int) -> None:
        fsync = os.fsync

        def some(file: int) -> None:
            if not kind(os.fstat(file).st_mode):
                fsync(file)

        os.fsync = some
        writing._sync_parents.cache_clear()
        try:
            with write_whole(folder / "file") as file:
                file.write(f"{generation}" * 10_000)
        finally:
            os.fsync = fsync

    return write


def _plain(folder: Path) -> States:
    found = digests(folder)
    for name in found:
        text = (folder / name).read_bytes()
        assert len(text) == 10_000, f"{name} is cut"
        assert len(set(text)) == 1, f"{name} is a mixture"
    return found


CARELESS = {
    "writes in place": Writer(_in_place, _plain),
    "does not sync the file": Writer(_unsynced(stat.S_ISREG), _plain),
    "does not sync the folder": Writer(_unsynced(stat.S_ISDIR), _plain),
}


class Situation(NamedTuple):
    """A writer, and what it finds.

    Attributes:
        writer: name of one of :data:`WRITERS` or :data:`CARELESS`.
        before: generations that have been written before.
        left: whether a killed process has left an unfinished file.
    """

    writer: str
    before: int
    left: bool = False

    def __str__(self) -> str:
        return f"{self.writer}, {self.before} before{', one unfinished' if self.left else ''}"

    @property
    def of(self) -> Writer:
        """The writer itself."""
        return {**WRITERS, **CARELESS}[self.writer]

    def prepare(self, folder: Path) -> None:
        """Write what was before."""
        for generation in range(self.before):
            self.of.write(folder, generation)
        if self.left:
            for each in {path.parent for path in folder.rglob("*") if path.is_file()}:
                (each / f".left.{'0' * 16}{writing.UNFINISHED}").write_text("half")


SITUATIONS = [
    situation
    for writer in WRITERS
    for situation in (
        Situation(writer, 0), Situation(writer, 1), Situation(writer, 2), Situation(writer, 1, True)
    )
]  # fmt: skip


def check_old_or_new(situation: Situation, folder: Path, old: States, new: States) -> None:
    """Assert that each file is the old or the new one."""
    for name, state in situation.of.states(folder).items():
        assert state in (old.get(name), new.get(name)), f"{name} is neither the old nor the new one"
    for name in old:
        assert name in situation.of.states(folder), f"{name} is gone"


def check_again(situation: Situation, folder: Path, new: States) -> None:
    """Assert that what was disturbed ends undisturbed when it is done again, and leaves nothing."""
    situation.of.write(folder, situation.before)
    found = situation.of.states(folder)
    for name, state in new.items():
        if name.startswith(situation.of.settled):
            assert found.get(name) == state, f"{name} is another than undisturbed"
    unfinished = [path for path in folder.rglob("*") if path.name.endswith(writing.UNFINISHED)]
    assert not unfinished, f"{unfinished} are left"
