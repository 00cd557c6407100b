"""A training step of a frozen DenseNet-121 on the CPU: discern's network against the course notes'.

    python benchmarks/frozen_step.py [--batch 32] [--repeats 5]

Both classify the same images of 224 × 224 pixels with the head 1024-256-2 and dropout 0.2, in train
mode, in one process and in turn: forward, loss, backward through the head, a step of Adam. The
notes' network is torchvision's with ``requires_grad`` taken from its features, discern's is a
``TransferClassifier`` that computes in PyTorch. The ratio is the median of those of each turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import models

from discern.models.transfer import TransferClassifier

SHAPE = (3, 224, 224)

Step = Callable[[Tensor, Tensor], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", default=32, type=int)
    parser.add_argument("--repeats", default=5, type=int)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images, labels = torch.randn(arguments.batch, *SHAPE), torch.randint(2, (arguments.batch,))
    notes, ours = notes_step(), our_step()
    seconds(notes, images[:4], labels[:4]), seconds(ours, images[:4], labels[:4])
    pairs = [
        (seconds(notes, images, labels), seconds(ours, images, labels))
        for _ in range(arguments.repeats)
    ]
    for name, taken in (
        ("notes", [one for one, _ in pairs]),
        ("discern", [two for _, two in pairs]),
    ):
        print(f"{name:8} {1e3 * statistics.median(taken):6.0f} ms a step")
    ratio = statistics.median(one / two for one, two in pairs)
    print(f"a step of discern's is {ratio:.2f} x as fast (to reach: 1.3)")


def notes_step() -> Step:
    """The notes' network, loss and optimizer."""
    network = models.densenet121()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.classifier = nn.Sequential(
        nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2), nn.LogSoftmax(dim=1)
    )
    network.train()
    criterion = nn.NLLLoss()
    optimizer = torch.optim.Adam(network.classifier.parameters(), lr=0.003)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def our_step() -> Step:
    """discern's, with the loss and the optimizer of a run."""
    network = TransferClassifier(SHAPE, 2, weights=None).train()
    optimizer = torch.optim.Adam(network.head.parameters(), lr=0.003)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    """What one step takes."""
    begun = time.perf_counter()
    step(images, labels)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
