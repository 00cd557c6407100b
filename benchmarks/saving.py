"""What a checkpoint's file costs: writing and reading it, against torch.save and torch.load.

    python benchmarks/saving.py [--million 10] [--repeats 15] [--runs 3]

The content is a network of so many million parameters with the state of Adam. Both files are
written whole or not at all, and synced; reading is from the page cache. The SHA-256 alone, which
torch has none of, is timed beside them.

And what it costs a default run that its files are whole after a power loss: each checkpoint is
written twice, as it is and without SHA-256, sync, reading back and the one before, in turns; the
syncs of all other files are timed as they are made. The sum is a share of the run's seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import discern
from discern.files.writing import write_whole
from discern.models import checkpoint
from discern.training.checkpointing import WholeFileCheckpointIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    content = trained(options.million)
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours.safetensors", Path(name) / "theirs.pt"
        jobs: dict[str, Callable[[], object]] = {
            "torch.save": lambda: save(content, theirs),
            "write": lambda: checkpoint.write(content, ours),
            "torch.load": lambda: torch.load(theirs, weights_only=True),
            "read": lambda: checkpoint.read(ours),
            "SHA-256": lambda: digest(ours.read_bytes()),
        }
        seconds: dict[str, list[float]] = {title: [] for title in jobs}
        for _ in range(options.repeats):
            for title, job in jobs.items():
                began = time.perf_counter()
                job()
                seconds[title].append(time.perf_counter() - began)
    for title, times in seconds.items():
        print(f"{title}: {statistics.median(times):.3f} s")
    for ours_title, theirs_title in (("write", "torch.save"), ("read", "torch.load")):
        pairs = zip(seconds[ours_title], seconds[theirs_title], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{ours_title}: {ratio:.2f} × {theirs_title}")

    shares = [share_of_a_run() for _ in range(options.runs)]
    print(f"of a default run: {statistics.median(shares):.2%} of {len(shares)} runs, {shares}")


def share_of_a_run() -> float:
    """Seconds that syncs, checksums, reading back and the second copy take of a default run."""
    seconds = {"safe": 0.0, "plain": 0.0, "sync": 0.0}
    saving = False
    save, fsync = WholeFileCheckpointIO.save_checkpoint, os.fsync

    def timed(name: str, job: Callable[[], object]) -> None:
        began = time.perf_counter()
        job()
        seconds[name] += time.perf_counter() - began

    def saved(self: WholeFileCheckpointIO, content: dict[str, Any], path: str, **_: object) -> None:
        nonlocal saving
        saving = True
        jobs = {
            "safe": lambda: save(self, content, path),
            "plain": lambda: plain(content, Path(path)),
        }
        # The first of two finds the state not yet in the caches of the processor.
        for name in sorted(jobs, reverse=bool(content["epoch"] % 2)):
            timed(name, jobs[name])
        saving = False

    def synced(file: int) -> None:
        fsync(file) if saving else timed("sync", lambda: fsync(file))

    with tempfile.TemporaryDirectory() as name:
        cfg = discern.compose()
        cfg.folder = f"{name}/run"
        with (
            patch.object(WholeFileCheckpointIO, "save_checkpoint", saved),
            patch.object(os, "fsync", synced),
        ):
            began = time.perf_counter()
            discern.train(cfg)
            took = time.perf_counter() - began
    return (seconds["safe"] - seconds["plain"] + seconds["sync"]) / (took - seconds["plain"])


def plain(content: dict[str, Any], path: Path) -> None:
    """Write the same bytes to a file beside, and give it a name."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in content["state_dict"].items()}
    others = {key: value for key, value in content.items() if key != "state_dict"}
    encoder = checkpoint._Encoder(tensors)
    tree = json.dumps(encoder.encode(others, ()))
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.plain")
    with beside.open("wb") as file:
        file.write(checkpoint._header(tensors, {checkpoint.TREE: tree}))
        for tensor in tensors.values():
            file.write(checkpoint._bytes_of(tensor))
    beside.replace(path.with_name(f"{path.name}.compared"))


def trained(million: int) -> dict[str, Any]:
    """A checkpoint of layers of a million parameters each, after a step of Adam."""
    network = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(million)))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 1000)).sum().backward()
    optimizer.step()
    return {"state_dict": network.state_dict(), "optimizer_states": [optimizer.state_dict()]}


def save(content: dict[str, Any], path: Path) -> None:
    with write_whole(path, "wb") as file:
        torch.save(content, file)


def digest(data: bytes) -> list[bytes]:
    """As the file's own is made: of chunks, on every core."""
    chunks = [
        data[start : start + checkpoint.CHUNK] for start in range(0, len(data), checkpoint.CHUNK)
    ]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda chunk: hashlib.sha256(chunk).digest(), chunks))


if __name__ == "__main__":
    main()
