"""What an epoch of our best MNIST recipe costs beside a bare loop that does the same.

    python benchmarks/recipe_epoch.py [--repeats 3] [--epochs 2]

Both shift the images by up to two pixels, train 1024-512-256 with batch normalisation, GELU,
dropout, label smoothing, AdamW, one cycle and averaged weights in batches of 512, on one thread,
in turn. The bare loop has no validation, and discern's is not counted.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from discern.config.user_config import conf_dir
from discern.data.augment import AUGMENTATIONS
from discern.data.in_memory import InMemoryImages
from discern.data.published.mnist import MNIST
from discern.models.mlp import MLP
from discern.run import train

BATCH = 512


def bare(data: MNIST, epochs: int) -> float:
    """Train without any framework; return the seconds."""
    torch.manual_seed(0)
    split = data.train_dataset
    assert isinstance(split, InMemoryImages)
    assert split.indices is not None
    pixels, labels = split.images[split.indices], split.labels[split.indices]
    network = MLP((1, 28, 28), 10, [1024, 512, 256], "gelu", dropout=0.25, norm="batch")
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.01, fused=True)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    ema = get_ema_avg_fn(0.998)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, avg_fn=ema, use_buffers=True)
    shift = AUGMENTATIONS["shift"]
    assert shift is not None
    began = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(labels)).numpy()
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH].astype(np.int64)
            moved = shift(pixels[chosen].numpy(), 0, epoch, chosen)
            images = torch.from_numpy(moved).float().mul_(2 / 255).sub_(1)
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels[chosen], label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
    return time.perf_counter() - began


def recipe(data_dir: str, epochs: int) -> float:
    """Run the recipe; return the seconds within ``Trainer.fit``, validation left out."""
    settings = ["experiment=mnist_best", f"trainer.max_epochs={epochs}", "test=false", "threads=1"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*settings, f"data.dir={data_dir}"])
    with tempfile.TemporaryDirectory() as folder:
        cfg.folder = folder
        train(cfg)
        facts = json.loads((Path(folder) / "summary.json").read_text())
    return float(facts["seconds"]["fit"])


def main() -> None:
    """Time both, in turn, and print the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    data_dir = os.environ.get("DISCERN_DATA_DIR", "data")
    data = MNIST(dir=data_dir, source="full")
    data.prepare_data()
    data.setup()
    pairs = []
    for _ in range(args.repeats):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            pairs.append((bare(data, args.epochs), recipe(data_dir, args.epochs)))
    ratio = statistics.median(own / other for other, own in pairs)
    per_epoch = [statistics.median(column) / args.epochs for column in zip(*pairs, strict=True)]
    print(
        f"bare loop {per_epoch[0]:.2f} s, discern {per_epoch[1]:.2f} s an epoch, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
