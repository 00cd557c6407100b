"""Ten epochs of cats and dogs on a frozen DenseNet-121: discern against the course notes' loop.

    python benchmarks/transfer.py --data-dir FOLDER [--weights FILE]

FOLDER holds Cat_Dog_data. Without a file of weights they are random, which changes no time. The
notes' loop is timed for one epoch, training and validation, and ten times that is what ten take,
since every epoch of it does the same. discern runs as a user runs it, process start included, with
an empty cache, and measures the model on the 400 test photographs besides; then once more with
another learning rate. Both see the same photographs, cut at the centre.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, models, transforms

from discern.data.image_folder import ImageFolder

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, BATCH = 10, 64


def main() -> None:
    """Time the three and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="data", type=Path)
    parser.add_argument("--weights", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        first = our_run(arguments, cache, "optimizer.lr=1e-3")
        second = our_run(arguments, cache, "optimizer.lr=3e-3")
    notes = notes_epoch(arguments.data_dir / "Cat_Dog_data")
    print(f"notes' loop    {notes:7.1f} s an epoch, {EPOCHS * notes:.0f} s for all (extrapolated)")
    print(f"discern        {first:7.1f} s for {EPOCHS} epochs, process start included")
    print(f"  another rate {second:7.1f} s")
    print(f"discern is {EPOCHS * notes / first:.1f} x as fast (to reach: 20)")
    print(f"the second run takes {second / first:.3f} of the first (to reach: 0.15)")


def our_run(arguments: argparse.Namespace, cache: str, *overrides: str) -> float:
    """Seconds of a whole run."""
    command = [
        sys.executable, str(ROOT / "train.py"), "model=densenet_transfer", "data=catdog",
        f"data.dir={arguments.data_dir}", f"model.weights={arguments.weights or 'null'}",
        f"trainer.max_epochs={EPOCHS}", "callbacks.early_stopping=null", f"data.batch_size={BATCH}",
        *overrides,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(
            [*command, f"hydra.run.dir={folder}/run"],
            check=True, capture_output=True, env={**os.environ, "DISCERN_CACHE_DIR": cache},
        )  # fmt: skip
        return time.perf_counter() - begun


def notes_epoch(folder: Path) -> float:
    """Seconds of an epoch of the notes' loop over the same images."""
    transform = transforms.Compose(
        [
            transforms.Resize(255),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = datasets.ImageFolder(str(folder / "train"), transform)
    data = ImageFolder(dir=folder)
    data.setup()
    parts = [part.indices for part in (data.train_dataset, data.val_dataset)]
    train, val = (Subset(images, [] if part is None else part.tolist()) for part in parts)
    network = models.densenet121(weights=None)
    for parameter in network.parameters():
        parameter.requires_grad = False
    network.classifier = nn.Sequential(
        nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2), nn.LogSoftmax(dim=1)
    )
    optimizer = torch.optim.Adam(network.classifier.parameters(), lr=0.003)
    criterion = nn.NLLLoss()
    loaders: list[DataLoader[Any]] = [
        DataLoader(part, BATCH, shuffle=True) for part in (train, val)
    ]
    begun = time.perf_counter()
    for inputs, labels in loaders[0]:
        optimizer.zero_grad()
        loss = criterion(network(inputs), labels)
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        for inputs, labels in loaders[1]:
            criterion(network(inputs), labels).item()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
