"""What it costs to show a run in TensorBoard, and how large its files are.

    python benchmarks/dashboard.py [--repeats 5] [--data-dir FOLDER] [--only mlp sgd …]

mlp       the default MLP on MNIST, 30 epochs without early stopping; the bytes of its events
sgd       ``experiment=mnist_sgd``, 5 epochs
transfer  a head on a frozen EfficientNet-Lite0, on FOLDER's cats and dogs, features known: 10
          epochs of tens of milliseconds, the projector and pictures beside
sparing   one epoch of the MLP as a job of a sweep

Each is trained in this process with ``callbacks.dashboard`` and without, in turn; TensorBoard's
scalars are written by both. The time is that of ``discern.run.train``, without imports: by the
clock, and of the processor, which does not count what other programs do. A ratio is the median of
those of each pair.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from discern.config.user_config import conf_dir
from discern.run import train

RUNS: dict[str, list[str]] = {
    "mlp": ["trainer.max_epochs=30", "callbacks.early_stopping=null"],
    "sgd": ["experiment=mnist_sgd"],
    "transfer": ["model=efficientnet_lite_transfer", "data=catdog", "trainer.max_epochs=10"],
    "sparing": ["trainer.max_epochs=1", "callbacks.dashboard.sparing=true", "test=false"],
}
OFF = ["~callbacks.dashboard", "~callbacks.histograms"]


def timed(folder: Path, data_dir: str, overrides: list[str]) -> tuple[float, float]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides)
    cfg.data.dir, cfg.folder = data_dir, str(folder)
    begun = time.perf_counter(), time.process_time()
    train(cfg)
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def sizes(folder: Path) -> str:
    events = sum(path.stat().st_size for path in folder.glob("events.out.tfevents*"))
    points = sum(path.stat().st_size for path in folder.glob("projector/*"))
    return f"events {events:,} bytes" + (f", projector {points:,} bytes" if points else "")


def measure(name: str, data_dir: str, repeats: int) -> str:
    ratios: tuple[list[float], list[float]] = [], []
    seconds = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        timed(place / "warm", data_dir, [*RUNS[name], "trainer.max_epochs=1"])
        for number in range(repeats):
            pair = {}
            # In turn also within the pair, for a machine that grows slower.
            for shown in (True, False) if number % 2 else (False, True):
                overrides = RUNS[name] if shown else [*RUNS[name], *OFF]
                pair[shown] = timed(place / f"{number}-{shown}", data_dir, overrides)
            for kind, found in enumerate(ratios):
                found.append(pair[True][kind] / pair[False][kind])
            seconds.append(pair[True][1] - pair[False][1])
        size = sizes(place / "0-True")
    clock, processor = (
        f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})" for found in ratios
    )
    return (
        f"{name:9} times the run without: {clock} by the clock, {processor} of the processor, "
        f"{statistics.median(seconds):+.2f} s; {size}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    for name in arguments.only:
        print(measure(name, arguments.data_dir, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
