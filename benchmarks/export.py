"""Exported models against their checkpoints: labels, probabilities, speed, the first answer.

    python benchmarks/export.py [--data-dir data] [--photos Cat_Dog_data/test] [--backbone NAME]

For Fashion-MNIST it trains an MLP for an epoch, and compares model.onnx with it on the 10,000 test
images, which both are given as they are in the file. For photographs it takes a backbone with its
published weights and a head of random ones, whose probabilities are closer to each other than those
of a trained one, so that a label flips more easily; the photographs are read as `discern predict`
reads them, and as `model.onnx` is given them. Then 8 bits against float32, in turns, in one
process. The first answer is that of a new process with onnxruntime, numpy and the exported MLP.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from discern.data.images import Images
from discern.data.module import ImageDataModule
from discern.data.preprocessing import Preprocessing
from discern.data.published.mnist import FashionMNIST
from discern.exports import int8, onnx_file
from discern.exports.export import export
from discern.exports.running import Floats, Run, preprocessing_of, run_pictures, runs_in_torch
from discern.exports.speed import BATCHES, measure
from discern.files.walk import find_files
from discern.models.backbones import backbone_preprocessing
from discern.models.card import Card, written
from discern.models.mlp import MLP
from discern.models.transfer import TransferClassifier

FIRST = """
import time
begun = time.perf_counter()
import onnxruntime, numpy
session = onnxruntime.InferenceSession({path!r})
session.run(None, {{"pixels": numpy.zeros((1, 28, 28, 1), numpy.uint8)}})
print(time.perf_counter() - begun)
"""


def with_card(
    network: nn.Module, shape: tuple[int, int, int], names: list[str], preprocessing: object
) -> nn.Module:
    """The network as `discern.load` returns it."""
    network.card = written(  # type: ignore[assignment]
        model={"name": "", "settings": {}}, class_names=names, input_shape=shape,
        preprocessing=preprocessing, data={"title": "benchmark"},
    )  # fmt: skip
    return network.eval()


def trained(data: ImageDataModule) -> nn.Module:
    """An MLP after an epoch."""
    torch.manual_seed(0)
    network = MLP((1, 28, 28), 10, (256,))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for images, labels in data.sequential_loader(data.train_dataset, 100):
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return with_card(network, (1, 28, 28), data.class_names, data.preprocessing)


def batches(images: Images) -> Iterator[np.ndarray]:
    for start in range(0, len(images), 500):
        yield np.arange(start, min(start + 500, len(images)))


def tell(title: str, before: Floats, after: Floats) -> None:
    flipped = int((before.argmax(1) != after.argmax(1)).sum())
    print(
        f"{title}: {flipped} of {len(before):,} labels differ, "
        f"largest difference {np.abs(before - after).max():.1e}"
    )


def digits(data_dir: Path, folder: Path) -> None:
    data = FashionMNIST(dir=data_dir)
    data.prepare_data()
    data.setup()
    network, images = trained(data), data.test_dataset
    exported = export(network, folder)
    before, after = [], []
    for rows in batches(images):
        with torch.inference_mode():
            before.append(network(images.__getitems__(rows.tolist())[0]).softmax(1).numpy())
        after.append(run_pictures(exported.run, images.pictures(rows)))
    tell("Fashion-MNIST", np.concatenate(before), np.concatenate(after))
    program = FIRST.format(path=str(exported.path))
    times = [
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        )
        for _ in range(5)
    ]
    print(f"import onnxruntime to the first answer: {statistics.median(times):.2f} s")


def photographs(folder: Path, backbone: str, count: int, out: Path, seconds: float) -> None:
    library, _, name = backbone.partition("/")
    usual = backbone_preprocessing(library, name)
    torch.manual_seed(0)
    network = with_card(
        TransferClassifier(usual.shape, 10, library, name), usual.shape, list("abcdefghij"),
        {"resize": usual.resize, "interpolation": usual.interpolation,
         "mean": list(usual.mean), "std": list(usual.std)},
    )  # fmt: skip
    exported = export(network, out)
    card: Card = network.card  # type: ignore[assignment]
    prepared = preprocessing_of(card)
    assert prepared is not None
    files = sorted(find_files(str(folder)))
    files = [files[at] for at in np.linspace(0, len(files) - 1, count).astype(int)]
    before, after, sizes = [], [], set()
    for file in files:
        before.append(probabilities(network, prepared, file))
        picture = prepared.picture(file)
        sizes.add(picture.shape)
        after.append(exported.run(picture[None]))
    tell(
        f"{name}, photographs of {len(sizes)} sizes", np.concatenate(before), np.concatenate(after)
    )
    pictures = [prepared.picture(file) for file in files[:: max(1, count // int8.IMAGES)]]
    small = onnx_file.run(int8.write(exported.path, pictures, exported.about), exported.bundle)
    print_speeds(network, exported.run, small, pictures[0], seconds)


def probabilities(network: nn.Module, prepared: Preprocessing, file: Path) -> Floats:
    """Of a file, as `discern predict` reads it."""
    with torch.inference_mode():
        pixels = prepared.read(file)[None].contiguous(memory_format=torch.channels_last)
        found: Floats = network(prepared.normalised(pixels)).softmax(1).numpy()
    return found


def print_speeds(
    network: nn.Module, float32: Run, small: Run, picture: np.ndarray, seconds: float
) -> None:
    ways = {"PyTorch": runs_in_torch(network), "float32": float32, "int8": small}
    speeds = measure(ways, picture, seconds)
    for batch in BATCHES:
        each = {name: of[batch].images_per_second for name, of in speeds.items()}
        told = ", ".join(f"{name} {speed:.1f}" for name, speed in each.items())
        print(f"batch {batch}: {told} images/s; int8 {each['int8'] / each['float32']:.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite/efficientnet_lite0")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("digits", "photographs"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        if asked.only != "photographs":
            digits(asked.data_dir, Path(temporary, "digits"))
        if asked.only != "digits" and asked.photos is not None:
            out = Path(temporary, "photographs")
            photographs(asked.photos, asked.backbone, asked.count, out, asked.seconds)
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
