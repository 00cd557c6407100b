"""What an epoch of a small network costs: discern beside a bare tensor loop and what people write.

    python benchmarks/mlp_epoch.py [--repeats 5] [--epochs 5] [--only discern notes …]

All train 784-128-64-10 on the 60,000 images of MNIST with SGD and batches of 64, in one process and
on one thread, in turn, so that a slow moment of the machine hits them all. discern is the whole of
``experiment=mnist_sgd`` within ``Trainer.fit``, set-up included: loggers, progress, metrics and
checkpoints as ``train.py`` has them. The ratio is the median of those of each turn.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, transforms

from discern.config.user_config import conf_dir
from discern.run import train

BATCH, RATE = 64, 0.003
Batch = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Usual(LightningModule):
    """A module as most people write it: metrics and logs on every step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch and log it and the accuracy."""
        images, labels = batch
        logits = self.net(images)
        loss = cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict(
            {"train/loss": loss, "train/accuracy": accuracy}, on_epoch=True, prog_bar=True
        )
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Bench:
    """The contestants; each method trains for some epochs and returns the seconds that took."""

    def __init__(self, data_dir: str, epochs: int) -> None:
        mnist = datasets.MNIST(data_dir, train=True, download=True)
        self.data_dir, self.epochs = data_dir, epochs
        self.labels = mnist.targets
        self.floats = (mnist.data.unsqueeze(1).float() / 255 - 0.5) / 0.5

    def bare(self) -> float:
        """Train without any framework, from tensors that are normalised already."""
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        start = time.perf_counter()
        for _ in range(self.epochs):
            total = torch.zeros(())
            order = torch.randperm(len(self.floats))
            for first in range(0, len(order), BATCH):
                chosen = order[first : first + BATCH]
                optimizer.zero_grad()
                loss = cross_entropy(net(self.floats[chosen]), self.labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
        return time.perf_counter() - start

    def notes(self) -> float:
        """Train as the notes do: images opened, converted and normalised one by one."""
        to_tensor = transforms.ToTensor()
        transform = transforms.Compose([to_tensor, transforms.Normalize((0.5,), (0.5,))])
        data = datasets.MNIST(self.data_dir, train=True, transform=transform)
        loader = DataLoader(data, batch_size=BATCH, shuffle=True)
        net = nn.Sequential(*network(), nn.LogSoftmax(dim=1))
        criterion = nn.NLLLoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        start = time.perf_counter()
        for _ in range(self.epochs):
            running_loss = 0.0
            for images, labels in loader:
                optimizer.zero_grad()
                loss = criterion(net(images), labels)
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
        return time.perf_counter() - start

    def discern(self) -> float:
        """Run the recipe; everything within ``Trainer.fit`` counts, its set-up included."""
        return self._run()

    def stock(self) -> float:
        """Run the recipe with Lightning's own epoch loop in place of ours."""
        with patch("discern.training.loop.use_lean_epoch_loop", _use_stock_loop):
            return self._run()

    def _run(self) -> float:
        settings = ["experiment=mnist_sgd", f"trainer.max_epochs={self.epochs}", "test=false"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [*settings, f"data.dir={self.data_dir}"])
        with tempfile.TemporaryDirectory() as folder:
            cfg.folder = folder
            train(cfg)
            facts = json.loads((Path(folder) / "summary.json").read_text())
        return float(facts["seconds"]["fit"])

    def usual(self) -> float:
        """Train as most people use Lightning."""
        data = TensorDataset(self.floats, self.labels)
        loader: DataLoader[Any] = DataLoader(data, batch_size=BATCH, shuffle=True)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=self.epochs,
                accelerator="cpu",
                logger=TensorBoardLogger(folder),
                callbacks=[ModelCheckpoint(folder)],
                enable_model_summary=False,
            )
            start = time.perf_counter()
            trainer.fit(Usual(), loader)
            return time.perf_counter() - start


def _use_stock_loop(trainer: Trainer) -> None:
    trainer.fit_loop.epoch_loop = _TrainingEpochLoop(trainer, trainer.min_steps, trainer.max_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of the rows to run besides 'bare'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    bench = Bench(os.environ.get("DISCERN_DATA_DIR", "data"), args.epochs)
    rows: dict[str, tuple[str, Callable[[], float]]] = {
        "bare": ("bare tensor loop", bench.bare),
        "discern": ("discern, experiment=mnist_sgd", bench.discern),
        "stock": ("the same with Lightning's own epoch loop", bench.stock),
        "usual": ("Lightning as usually written", bench.usual),
        "notes": ("the notes' loop, image by image", bench.notes),
    }
    chosen = [name for name in rows if not args.only or name == "bare" or name in args.only]
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    bench.bare()  # warm up
    for _ in range(args.repeats):
        for name in chosen:
            gc.collect()
            torch.manual_seed(0)
            hidden = io.StringIO()  # the bars are drawn, but not shown
            with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
                seconds[name].append(rows[name][1]() / args.epochs)

    print(f"an epoch of {len(bench.labels)} images, median of {args.repeats} times {args.epochs}")
    print(f"{'':42}{'seconds':>8}{'ratio':>8}{'least':>8}{'most':>8}")
    for name in chosen:
        ratios = [own / bare for own, bare in zip(seconds[name], seconds["bare"], strict=True)]
        print(
            f"{rows[name][0]:42}{statistics.median(seconds[name]):8.2f}"
            f"{statistics.median(ratios):8.2f}{min(ratios):8.2f}{max(ratios):8.2f}"
        )


if __name__ == "__main__":
    main()
