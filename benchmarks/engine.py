"""Features of a frozen DenseNet-121 a second: the engines beside the course notes' forward pass.

    python benchmarks/engine.py [--decode FOLDER] [--images 32] [--repeats 5] [--threads 2]

All compute those of the same images of 224 × 224 pixels in one process, in turn, so that a slow
moment of the machine hits them all; the ratio is the median of those of each turn. The weights are
random. The notes' forward pass is torchvision's network in evaluation mode, called as it is.

What no engine can exceed is how fast the cores multiply matrices of float32: DenseNet-121 takes
5.7 GFLOP an image. It is measured in the same turns, by torch.mm and as a convolution of 1 × 1,
which oneDNN computes: on AMD's processors MKL's product reaches half of that. The best turn counts,
for where others use the machine all are too low.

With --decode the images are those in FOLDER, an image folder such as Cat_Dog_data, decoded by two
workers of discern's loader meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.data import DataLoader
from torchvision import models

from discern.data.image_folder import ImageFolder
from discern.data.loader import ImageLoader
from discern.features.engine import ENGINES, engine_for
from discern.models.transfer import TransferClassifier

SHAPE = (3, 224, 224)
GFLOP = 5.73
"""Of an image: two for each of the 2.87 G multiplications with an addition."""

WORKERS, BATCH = 2, 32

Compute = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--decode", type=Path, metavar="FOLDER")
    parser.add_argument("--images", default=32, type=int, help="in a turn")
    parser.add_argument("--repeats", default=5, type=int)
    parser.add_argument("--threads", type=int, help="of the engines but torch")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    contestants = {"notes": notes(), **engines(arguments.threads)}
    batches: Iterable[Any] = [torch.randn(arguments.images, *SHAPE)]
    if arguments.decode:
        batches = photographs(arguments.decode, arguments.images)
    warm_up = torch.randn(4, *SHAPE)
    for compute in contestants.values():
        compute(warm_up)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    peaks = []
    for _ in range(arguments.repeats):
        for name, compute in contestants.items():
            rates[name].append(rate(compute, batches))
        peaks.append(gflops())
    report(rates, peaks)


def notes() -> Compute:
    """The notes' network without its last layer."""
    network = models.densenet121()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.classifier = nn.Identity()
    network.eval()
    return lambda images: network(images)


def engines(threads: int | None) -> dict[str, Compute]:
    """Those that are installed, with discern's network."""
    network = TransferClassifier(SHAPE, 2, weights=None)
    installed = [name for name in ENGINES if importlib.util.find_spec(name) is not None]
    return {name: engine_for(network, SHAPE, name, threads) for name in installed}


def photographs(folder: Path, count: int) -> DataLoader[Any]:
    """Batches of training photographs, without augmentation."""
    data = ImageFolder(dir=folder, augment="none", val_size=0)
    data.setup()
    images: Any = data.train_dataset
    return ImageLoader(images, batch_size=BATCH, sampler=range(count), num_workers=WORKERS)


def rate(compute: Compute, batches: Iterable[Any]) -> float:
    """Images a second, loading included."""
    begun, images = time.perf_counter(), 0
    for batch in batches:
        batch = batch if isinstance(batch, Tensor) else batch[0]
        images += len(compute(batch))
    return images / (time.perf_counter() - begun)


def gflops(side: int = 2048, products: int = 4) -> dict[str, float]:
    """Floating-point operations a nanosecond of a product of two square matrices."""
    one, two = torch.randn(side, side), torch.randn(side, side)
    pixels = torch.randn(1, side, 32, side // 32).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(side, side, 1, 1)
    ways: dict[str, Callable[[], Tensor]] = {
        "torch.mm": lambda: torch.mm(one, two),
        "convolution": lambda: conv2d(pixels, weights),
    }
    found = {}
    for name, product in ways.items():
        product()
        begun = time.perf_counter()
        for _ in range(products):
            product()
        found[name] = products * 2 * side**3 / (time.perf_counter() - begun) / 1e9
    return found


def report(rates: dict[str, list[float]], peaks: list[dict[str, float]]) -> None:
    """A line for each contestant, and one for each way to multiply."""
    for name, measured in rates.items():
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(measured, rates["notes"], strict=True)
        )
        print(f"{name:12} {statistics.median(measured):6.1f} images/s {ratio:6.2f} x the notes'")
    print("to reach: 2.4 x the notes'")
    for way in peaks[0]:
        best = max(peak[way] for peak in peaks)
        print(f"{way:12} {best:6.0f} GFLOP/s, which allow {best / GFLOP:.1f} images/s")


if __name__ == "__main__":
    main()
