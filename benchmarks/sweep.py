"""What a sweep costs: beside one of its jobs, beside commands of their own, and in memory.

    python benchmarks/sweep.py [--only transfer mnist search memory] [--data-dir FOLDER]

transfer  12 jobs, learning rate x dropout of the head of a frozen DenseNet-121, on FOLDER's cats
          and dogs, with nothing in the cache of features, beside one job; processes and all
mnist     12 learning rates of ``experiment=mnist_sgd``, one epoch each, beside twelve commands; and
          what a job takes once the process runs, its config and files included, beside the bare
          tensor loop, which the same process trains before each job
search    30 trials of a learning rate and dropout with and without Optuna's median pruner, by TPE
          and at random, where both see the same trials: the epochs trained, and the best
          validation loss, over 5 seeds
memory    resident memory of the jobs' process after 10 and after 100 jobs

DenseNet-121 has random weights, which pass for the published ones: all takes as long.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer

REPOSITORY, HERE = Path(__file__).resolve().parents[1], str(Path(__file__).resolve().parent)
RATES, DROPOUTS = ("1e-4", "3e-4", "1e-3", "3e-3"), ("0", "0.2", "0.5")
GRID = (f"optimizer.lr={','.join(RATES)}", f"model.dropout={','.join(DROPOUTS)}")


PROGRAM = [str(REPOSITORY / "train.py")]
# The file of the published weights is one whose name is a part of its digest.
ANY_WEIGHTS = [
    "-c",
    "import re, torch; torch.hub.HASH_REGEX = re.compile('(?!)'); "
    "from discern.commands.cli import train; train()",
]


def train(folder: Path, *arguments: str, program: Sequence[str] = PROGRAM) -> float:
    """Run ``train.py`` to its end; the seconds that it took, start of the process included."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "DISCERN_CACHE_DIR": str(folder / "cache"),
            "TORCH_HOME": str(folder / "torch"),
            "PYTHONPATH": os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - begun


def put_weights(home: Path) -> None:
    """A file where torchvision keeps the weights of DenseNet-121 that it has downloaded."""
    folder = home / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = torchvision.models.DenseNet121_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(torchvision.models.densenet121().state_dict(), folder / name)


def measure_transfer(data_dir: Path, repeats: int) -> None:
    settings = (
        "model=densenet_transfer", "data=catdog", f"data.dir={data_dir}",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    ratios = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_:
            for folder in (Path(one), Path(all_)):
                put_weights(folder)
            values = ("optimizer.lr=1e-3", "model.dropout=0.2")
            alone = train(Path(one), *settings, *values, program=ANY_WEIGHTS)
            together = train(Path(all_), "-m", *settings, *GRID, program=ANY_WEIGHTS)
        ratios.append(together / alone)
        print(f"one job {alone:.1f} s, a sweep of 12 {together:.1f} s", flush=True)
    print(f"12 jobs of a transfer head: {statistics.median(ratios):.2f} x one (to reach: 1.3)")


def measure_mnist(data_dir: Path, repeats: int) -> None:
    settings = (
        "experiment=mnist_sgd", "trainer.max_epochs=1", f"data.dir={data_dir}",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    rates = [f"{1e-3 * 1.5**number:.4g}" for number in range(12)]
    every = f"optimizer.lr={','.join(rates)}"
    ratios, jobs = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            alone = 0.0
            for rate in rates:
                alone += train(Path(folder), *settings, f"optimizer.lr={rate}", "test=false")
            together = train(Path(folder), "-m", *settings, every)
            beside = f"trainer.callbacks=[{{_target_: sweep.Beside, data_dir: '{data_dir}'}}]"
            sequential = ("hydra.launcher.n_jobs=1", "hydra.sweep.dir=one", beside)
            train(Path(folder), "-m", *settings, every, *sequential)
            lines = (Path(folder) / "one" / "bare").read_text().splitlines()
            loops = [tuple(map(float, line.split())) for line in lines]
            # From within a job to the same place in the next one: nothing is left out.
            pairs = [
                (after - before - loop, loop) for (before, loop), (after, _) in pairwise(loops)
            ]
        ratios.append(together / alone)
        jobs += [job / loop for job, loop in pairs[1:]]
        print(f"12 commands {alone:.1f} s, a sweep of 12 {together:.1f} s", flush=True)
        seconds = [statistics.median(each) for each in zip(*pairs[1:], strict=True)]
        print(f"a job {seconds[0]:.2f} s, a bare loop {seconds[1]:.2f} s", flush=True)
    print(f"12 jobs of mnist_sgd: {statistics.median(ratios):.2f} x 12 commands (to reach: 0.35)")
    print(f"a job: {statistics.median(jobs):.2f} x the bare loop (to reach: 1.3)")


class Beside(Callback):
    """Trains the bare loop before a job begins to, and writes down when, and how long it took."""

    def __init__(self, data_dir: str) -> None:
        self.bare = bare(Path(data_dir))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add a line to ``bare`` in the sweep's folder: the time, and what the loop took."""
        if stage != "fit":
            return
        now = time.perf_counter()
        state = torch.random.get_rng_state()
        seconds = self.bare.epoch()
        torch.random.set_rng_state(state)
        with (Path(trainer.default_root_dir).parent / "bare").open("a") as file:
            file.write(f"{now} {seconds}\n")


@functools.cache
def bare(data_dir: Path) -> Bare:
    """The loop with its data, which are loaded before the first job."""
    return Bare(data_dir)


class Bare:
    """The network and data of ``mnist_sgd`` without any framework."""

    def __init__(self, data_dir: Path) -> None:
        from discern.data.published.mnist import MNIST

        data = MNIST(dir=str(data_dir), val_size=0)
        data.setup()
        self.images, self.labels = data.train_dataset.__getitems__([*range(60_000)])

    def epoch(self) -> float:
        """Seconds of one epoch on one thread."""
        torch.set_num_threads(1)
        widths = (784, 128, 64, 10)
        layers: list[torch.nn.Module] = [torch.nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.SGD(network.parameters(), lr=0.003)
        begun, total = time.perf_counter(), torch.zeros(())
        for chosen in torch.randperm(len(self.labels)).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            found = network(self.images[chosen])
            loss = torch.nn.functional.cross_entropy(found, self.labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
        return time.perf_counter() - begun


def measure_search(data_dir: Path, repeats: int) -> None:
    for sampler in ("tpe", "random"):
        parts, pairs = [], []
        for seed in range(5):
            all_epochs, plain = search(sampler, "none", seed)
            fewer, pruned = search(sampler, "median", seed)
            print(
                f"{sampler}, seed {seed}: {all_epochs} epochs to {plain:.4f}, "
                f"{fewer} with pruning to {pruned:.4f}",
                flush=True,
            )
            parts.append(fewer / all_epochs)
            pairs.append(pruned - plain)
        print(
            f"{sampler}: pruning takes {statistics.median(parts):.2f} of the epochs (to reach: "
            f"0.6); the best loss is {statistics.median(pairs):+.4f} (median of 5 seeds)"
        )


def search(sampler: str, pruner: str, seed: int) -> tuple[int, float]:
    """The epochs that a search trained, and the best validation loss that it has found."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            Path(folder), "-m", "hydra/sweeper=optuna", f"seed={seed}",
            f"hydra/sweeper/sampler={sampler}", f"hydra/sweeper/pruner={pruner}",
            "hydra.sweeper.n_trials=30", "trainer.max_epochs=10", "data.source=sample",
            "callbacks.early_stopping=null", "trainer.accelerator=cpu",
            "optimizer.lr=tag(log,interval(1e-5,1e-1))", "model.dropout=interval(0,0.6)",
            "hydra.sweep.dir=sweep",
        )  # fmt: skip
        rows = json.loads((Path(folder) / "sweep" / "results.json").read_text())["rows"]
    return sum(row["epochs"] or 0 for row in rows), rows[0]["values"]["val/loss"]


class Resident(Callback):
    """Writes down how much memory the process has when training ends."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a line."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with self.path.open("a") as file:
            file.write(f"{pages * os.sysconf('SC_PAGESIZE')}\n")


def measure_memory(data_dir: Path, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(
            Path(folder), "-m", f"seed={','.join(map(str, range(100)))}", "data.source=sample",
            "trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.launcher.n_jobs=1",
            f"trainer.callbacks=[{{_target_: sweep.Resident, path: '{folder}/resident'}}]",
            "hydra.sweep.dir=sweep",
        )  # fmt: skip
        sizes = [int(line) for line in (Path(folder) / "resident").read_text().split()]
    early, late = sizes[9], sizes[99]
    print(
        f"memory after 100 jobs {late / 2**20:.0f} MB, after 10 {early / 2**20:.0f} MB: "
        f"{late / early:.3f} x (to reach: 1.1)"
    )


def main(chosen: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = {
        "transfer": measure_transfer,
        "mnist": measure_mnist,
        "search": measure_search,
        "memory": measure_memory,
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--data-dir", default="data", type=Path)
    parser.add_argument("--repeats", default=3, type=int)
    arguments = parser.parse_args(chosen)
    for name in arguments.only:
        parts[name](arguments.data_dir.resolve(), arguments.repeats)


if __name__ == "__main__":
    main()
