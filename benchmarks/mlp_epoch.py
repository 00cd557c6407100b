"""What an epoch of a small network costs: a bare tensor loop, discern, and Lightning as it comes.

    python benchmarks/mlp_epoch.py [--data-dir DIR] [--repeats 5] [--epochs 1]

All of them train the same network (784-128-64-10, ReLU, SGD) on the same images in batches of 64,
in one process and on one thread, in turn, so that a slow moment of the machine hits them all. The
ratio is the median of those of each turn. Validation is left out: only training is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

from discern.loop import use_lean_epoch_loop

MEAN, STD, BATCH, RATE, LOG_EVERY = 0.1307, 0.3081, 64, 0.003, 50
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


class Pixels(Dataset[Batch]):
    """Images kept as bytes in memory, normalised a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        pixels = self.images.index_select(0, chosen).float()
        pixels.mul_(1 / (255 * STD)).sub_(MEAN / STD)
        return pixels, self.labels.index_select(0, chosen)


class Shuffle(Sampler[int]):
    """A fresh order for each epoch, drawn from the seed and the epoch alone."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


def untouched(batch: Any) -> Any:
    """Collate what ``__getitems__`` has put together already."""
    return batch


class Classifier(LightningModule):
    """Keeps what its metrics need and hands it to them in bulk."""

    def __init__(self, flush_after: int = 256) -> None:
        super().__init__()
        self.net = network()
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.flush_after = flush_after
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.loss_sum, self.rows = 0.0, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch and keep what the epoch's metrics are made of."""
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.kept.append((logits.detach(), labels, loss.detach()))
        if len(self.kept) == self.flush_after:
            self.flush()
        if (batch_idx + 1) % LOG_EVERY == 0:
            self.log("train/loss_step", loss.detach(), on_step=True, on_epoch=False, prog_bar=True)
        return loss

    def flush(self) -> None:
        """Hand what was kept to the metrics."""
        if not self.kept:
            return
        logits, labels, losses = zip(*self.kept, strict=True)
        self.kept.clear()
        self.accuracy.update(torch.cat(logits), torch.cat(labels))
        sizes = torch.tensor([len(part) for part in labels])
        self.loss_sum += float(torch.stack(losses) @ sizes.float())
        self.rows += int(sizes.sum())

    def on_train_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self.flush()
        self.log_dict(
            {"train/loss": self.loss_sum / self.rows, "train/accuracy": self.accuracy.compute()}
        )
        self.accuracy.reset()
        self.loss_sum, self.rows = 0.0, 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Usual(Classifier):
    """The module as most people write it: metrics and logs on every step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch and log it and the accuracy."""
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Leave the epoch's metrics to Lightning."""


class Bench:
    """The contestants; each method trains for some epochs and returns the seconds that took."""

    def __init__(self, data_dir: Path, epochs: int) -> None:
        mnist = datasets.MNIST(data_dir, train=True, download=True)
        self.data_dir, self.epochs = data_dir, epochs
        self.bytes, self.labels = mnist.data.unsqueeze(1), mnist.targets
        self.floats = (self.bytes.float() / 255 - MEAN) / STD

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
                loss = F.cross_entropy(net(self.floats[chosen]), self.labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
        return time.perf_counter() - start

    def notes(self) -> float:
        """Train as the notes do: images opened, converted and normalised one by one."""
        transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        )
        data = datasets.MNIST(self.data_dir, train=True, transform=transform)
        loader = DataLoader(data, batch_size=BATCH, shuffle=True)
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        start = time.perf_counter()
        for _ in range(self.epochs):
            total = 0.0
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.item()
        return time.perf_counter() - start

    def discern(self) -> float:
        """Train with the lean epoch loop."""
        return self._fit(Classifier(), self._bulk_loader(), lean=True)

    def stock(self) -> float:
        """Train the same module on the same batches with Lightning's own loop."""
        return self._fit(Classifier(), self._bulk_loader(), lean=False)

    def usual(self) -> float:
        """Train as most people use Lightning."""
        data = TensorDataset(self.floats, self.labels)
        loader = DataLoader(data, batch_size=BATCH, shuffle=True)
        return self._fit(Usual(), loader, lean=False, refresh_rate=1)

    def _bulk_loader(self) -> DataLoader[Any]:
        data = Pixels(self.bytes, self.labels)
        return DataLoader(data, batch_size=BATCH, sampler=Shuffle(len(data)), collate_fn=untouched)

    def _fit(
        self, module: Classifier, loader: DataLoader[Any], lean: bool, refresh_rate: int = 50
    ) -> float:
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock(refresh_rate)
            trainer = Trainer(
                max_epochs=self.epochs,
                log_every_n_steps=LOG_EVERY,
                accelerator="cpu",
                logger=TensorBoardLogger(folder),
                callbacks=[clock, ModelCheckpoint(folder)],
                enable_model_summary=False,
            )
            loop = use_lean_epoch_loop(trainer) if lean else None
            trainer.fit(module, loader)
            if loop is not None and not loop.lean:
                raise RuntimeError(f"the epoch was not lean: {loop.why_stock}")
        return clock.seconds


class Clock(TQDMProgressBar):
    """The progress bar, which also takes the time from the first batch to the fit's end."""

    seconds = 0.0

    def on_train_start(self, *args: object) -> None:
        """Start the clock."""
        super().on_train_start(*args)
        self.started = time.perf_counter()

    def on_train_end(self, *args: object) -> None:
        """Stop it: metrics are logged and the checkpoint is written."""
        super().on_train_end(*args)
        self.seconds = time.perf_counter() - self.started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DISCERN_DATA_DIR", "data"))
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the rows to run besides 'bare'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    bench = Bench(args.data_dir, args.epochs)
    rows: dict[str, tuple[str, Callable[[], float]]] = {
        "bare": ("bare tensor loop", bench.bare),
        "discern": ("discern", bench.discern),
        "stock": ("the same module, Lightning's own loop", bench.stock),
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
            with contextlib.redirect_stdout(io.StringIO()):  # the bars are drawn, but not shown
                seconds[name].append(rows[name][1]())

    print(f"{args.epochs} epoch(s) of {len(bench.labels)} images, median of {args.repeats}")
    print(f"{'':40}{'seconds':>9}{'ratio':>8}{'least':>8}{'most':>8}")
    for name in chosen:
        ratios = [own / bare for own, bare in zip(seconds[name], seconds["bare"], strict=True)]
        print(
            f"{rows[name][0]:40}{statistics.median(seconds[name]):9.2f}"
            f"{statistics.median(ratios):8.2f}{min(ratios):8.2f}{max(ratios):8.2f}"
        )


if __name__ == "__main__":
    main()
