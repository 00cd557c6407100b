"""What a checkpoint's file costs: writing and reading it, against torch.save and torch.load.

    python benchmarks/saving.py [--million 10] [--repeats 15]

The content is a network of so many million parameters with the state of Adam. Both files are
written whole or not at all, and synced; reading is from the page cache. The SHA-256 alone, which
torch has none of, is timed beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from discern.files.writing import write_whole
from discern.models import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
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
