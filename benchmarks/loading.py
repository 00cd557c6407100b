"""Photographs decoded and augmented a second: discern's loader against the course notes' pipeline.

    python benchmarks/loading.py --data-dir FOLDER

FOLDER holds Cat_Dog_data. Both load the training photographs with the notes' augmentation (rotation
by up to 30 degrees, random resized crop to 224, flip) in batches of 32 with two workers, one after
the other, several times; the median of the ratios counts. It also prints what one core takes to
decode a photograph with each decoder that is installed.
"""

import argparse
import contextlib
import importlib
import io
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from discern.data.image_folder import ImageFolder

WORKERS, BATCH = 2, 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-dir", default="data", type=Path)
    parser.add_argument("--repeats", default=5, type=int)
    arguments = parser.parse_args()
    folder = arguments.data_dir / "Cat_Dog_data"
    notes, ours = notes_loader(folder), our_loader(folder)
    seconds(notes), seconds(ours)  # files in the page cache, workers forked once
    pairs = [(seconds(notes), seconds(ours)) for _ in range(arguments.repeats)]
    for name, rates in (
        ("notes", [one for one, _ in pairs]),
        ("discern", [two for _, two in pairs]),
    ):
        print(f"{name:8} {1 / statistics.median(rates):6.0f} images/s")
    ratio = statistics.median(one / two for one, two in pairs)
    print(f"discern loads {ratio:.2f} x as many images a second (to reach: 1.5)")
    decoders(sorted((folder / "train").rglob("*.jpg"))[:300])


def notes_loader(folder: Path) -> DataLoader[Any]:
    """The notes' ImageFolder with transforms of one image at a time."""
    transform = transforms.Compose(
        [
            transforms.RandomRotation(30),
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    data = datasets.ImageFolder(str(folder / "train"), transform)
    return DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def our_loader(folder: Path) -> DataLoader[Any]:
    """The data module's loader over the same photographs."""
    data = ImageFolder(
        dir=folder, augment="notes", val_size=0, batch_size=BATCH, num_workers=WORKERS,
        mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    data.setup()
    return data.train_dataloader()


def seconds(loader: Iterable[Any]) -> float:
    """Seconds an image, over one epoch."""
    begun, images = time.perf_counter(), 0
    for batch, _ in loader:
        images += len(batch)
    return (time.perf_counter() - begun) / images


def decoders(files: list[Path]) -> None:
    """Print what a decoder takes for a whole photograph, on one core."""
    contents = [file.read_bytes() for file in files]
    torch.set_num_threads(1)
    known: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda content: Image.open(io.BytesIO(content)).convert("RGB")
    }
    known["simplejpeg"] = simplejpeg.decode_jpeg
    # In no requirement: only to be compared with.
    with contextlib.suppress(ImportError, RuntimeError):
        codec: Any = importlib.import_module("torchcodec.decoders")
        known["TorchCodec"] = lambda content: codec.decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
        )
    for name, decode in known.items():
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            for content in contents:
                decode(content)
            taken.append((time.perf_counter() - begun) / len(contents))
        print(f"{name:12} {1e3 * min(taken):.2f} ms to decode a photograph")


if __name__ == "__main__":
    main()
