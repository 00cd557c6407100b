"""Exported models against their checkpoints: labels, probabilities, speed, the first answer.

    python benchmarks/export.py [--data-dir data] [--photos data/Cat_Dog_data] [--backbone NAME]
                                [--weights default|null]

For Fashion-MNIST it trains an MLP for an epoch, and compares model.onnx with it on the 10,000 test
images, which both are given as they are in the file. For photographs it trains a head on a frozen
backbone; the photographs of all sizes are read as `discern predict` reads them, and as `model.onnx`
is given them. Then 8 bits: labels and accuracy on the photographs for the test, and speed against
float32, in turns, in one process, with the preprocessing alone, which both share, beside them: what
is left is the network's. `--weights null` is for a backbone whose published weights cannot be
fetched; the speed is the same. The first answer is that of a new process with onnxruntime, numpy
and the exported MLP.
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

import discern
from discern.data.images import Images
from discern.data.module import ImageDataModule
from discern.data.preprocessing import Preprocessing
from discern.data.published.mnist import FashionMNIST
from discern.exports import int8, onnx_file
from discern.exports.export import export
from discern.exports.running import Floats, Run, preprocessing_of, run_pictures, runs_in_torch
from discern.exports.speed import BATCHES, measure
from discern.files.walk import find_files
from discern.models.card import Card, written
from discern.models.mlp import MLP
from discern.reports.paired import mcnemar

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


def on_photographs(folder: Path, run: Path, backbone: str, weights: str) -> nn.Module:
    """A head trained on a frozen backbone, on the photographs for training."""
    library, _, name = backbone.partition("/")
    model = [f"model.library={library}", f"model.backbone={name}", f"model.weights={weights}"]
    command = [sys.executable, "-m", "discern", "train", "model=densenet_transfer", *model]
    command += ["data=catdog", f"data.dir={folder.resolve()}", "trainer.max_epochs=5"]
    command += ["optimizer.lr=1e-3", "data.batch_size=32", "logger=none", "report=false"]
    subprocess.run([*command, f"hydra.run.dir={run}"], check=True, capture_output=True)
    return discern.load(run)


def evenly(files: list[Path], count: int) -> list[Path]:
    return [files[at] for at in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]


def photographs(folder: Path, network: nn.Module, count: int, out: Path, seconds: float) -> None:
    card: Card = network.card  # type: ignore[assignment]
    temperature = card.temperature or 1.0
    exported = export(network, out, temperature=temperature)
    prepared = preprocessing_of(card)
    assert prepared is not None
    given, before, after = evenly(sorted(find_files(str(folder))), count), [], []
    sizes = set()
    for file in given:
        before.append(probabilities(network, temperature, prepared, file))
        picture = prepared.picture(file)
        sizes.add(picture.shape)
        after.append(exported.run(picture[None]))
    tell(f"photographs of {len(sizes)} sizes", np.concatenate(before), np.concatenate(after))
    known = evenly(sorted(find_files(str(folder / "train"))), int8.IMAGES)
    calibration = [prepared.picture(file) for file in known]
    path = int8.write(exported.path, calibration, exported.about)
    small = onnx_file.run(path, exported.bundle)
    tested = evenly(sorted(find_files(str(folder / "test"))), count)
    labels = np.array([card.class_names.index(file.parent.name) for file in tested])
    pictures = [prepared.picture(file) for file in tested]
    before, after = ([run(picture[None]) for picture in pictures] for run in (exported.run, small))
    float32, eight = np.concatenate(before), np.concatenate(after)
    tell("8 bits", float32, eight)
    right, still = (each.argmax(1) == labels for each in (float32, eight))
    p = mcnemar(int((right & ~still).sum()), int((still & ~right).sum()))
    print(f"accuracy {right.mean():.4f} in float32, {still.mean():.4f} in 8 bits (p = {p:.3g})")
    ways = {
        "PyTorch": runs_in_torch(network, temperature),
        "float32": exported.run,
        "int8": small,
        "preprocessing": onnx_file.run_preparation(exported.bundle, card),
    }
    print_speeds(ways, calibration[0], seconds)


def probabilities(
    network: nn.Module, temperature: float, prepared: Preprocessing, file: Path
) -> Floats:
    """Of a file, as `discern predict` reads it."""
    with torch.inference_mode():
        pixels = prepared.read(file)[None].contiguous(memory_format=torch.channels_last)
        logits = network(prepared.normalised(pixels))
        found: Floats = (logits / temperature).softmax(1).numpy()
    return found


def print_speeds(ways: dict[str, Run], picture: np.ndarray, seconds: float) -> None:
    speeds = measure(ways, picture, seconds)
    height, width = picture.shape[:2]
    for batch in BATCHES:
        each = {name: of[batch].images_per_second for name, of in speeds.items()}
        told = ", ".join(f"{name} {speed:.1f}" for name, speed in each.items())
        time_of = {name: of[batch].p50 for name, of in speeds.items()}
        alone = time_of["preprocessing"]
        print(f"batch {batch}, {height} × {width}: {told} images/s")
        print(
            f"  int8 {time_of['float32'] / time_of['int8']:.2f} × float32; the network alone "
            f"{(time_of['float32'] - alone) / (time_of['int8'] - alone):.2f} ×; preprocessing is "
            f"{100 * alone / time_of['float32']:.0f} % of float32, "
            f"{100 * alone / time_of['int8']:.0f} % of int8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite/efficientnet_lite0")
    parser.add_argument("--weights", default="default", choices=("default", "null"))
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
        if asked.only != "digits":
            photos = asked.photos or asked.data_dir / "Cat_Dog_data"
            run, out = Path(temporary, "run"), Path(temporary, "photographs")
            network = on_photographs(photos, run, asked.backbone, asked.weights)
            photographs(photos, network, asked.count, out, asked.seconds)
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
