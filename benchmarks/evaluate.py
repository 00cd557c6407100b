"""What `discern evaluate` and `discern predict` take beyond their imports.

    python benchmarks/evaluate.py [--data-dir DIR] [--repeats 5]

A model is trained for one epoch on Fashion-MNIST. It is then measured on the 10,000 test images,
and used on 1,000 of them as PNG files, each time in a new process, in turn. The clock starts when
all modules are imported and the config is composed, and stops when every file, pictures included,
is on disk. `bare` is the same without discern: the arrays through the network; 1,000 files through
Pillow and the network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from discern.data.published.idx import read_idx
from discern.data.published.publication import TEST_IMAGES

IMAGES, FILES = 10_000, 1_000

SETUP = """
import glob, sys, time
import numpy as np, torch
from PIL import Image, PngImagePlugin
import discern.data.published.mnist, discern.commands.evaluate, discern.commands.predict
from discern.models.saved import load
from discern.commands.cli import main
from discern.data.published.idx import read_idx
model, folder, data, out = sys.argv[1:]
def timed(function):
    def run(*arguments):
        began = time.perf_counter()
        function(*arguments)
        print(time.perf_counter() - began)
    return run
def classify(arrays):
    images = torch.from_numpy(np.asarray(arrays))
    with torch.inference_mode():
        load(model)(((images / 255 - 0.5) / 0.5)[:, None]).softmax(1)
"""
TASKS = {
    "evaluate": """
discern.commands.evaluate.evaluate = timed(discern.commands.evaluate.evaluate)
main(["evaluate", f"ckpt_path='{model}'", f"data.dir='{data}'", f"hydra.run.dir='{out}'"])
""",
    "evaluate, bare": """
timed(lambda: classify(read_idx(discern.commands.evaluate.Path(folder, "images"), 3)))()
""",
    "predict": """
discern.commands.predict.predict = timed(discern.commands.predict.predict)
main(["predict", f"ckpt_path='{model}'", f"input='{folder}/files'", f"out='{out}'"])
""",
    "predict, bare": """
timed(lambda: classify(
    [np.asarray(Image.open(path)) for path in sorted(glob.glob(f"{folder}/files/*"))]
))()
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DISCERN_DATA_DIR", "data"))
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.data_dir)
        times: dict[str, list[float]] = {task: [] for task in TASKS}
        for repeat in range(options.repeats + 1):
            for task in TASKS:
                out = folder / f"{repeat} {task}"
                took = seconds(task, folder, options.data_dir, out)
                if repeat:  # the first round fills the file cache
                    times[task].append(took)
    print(f"{'':16} {'seconds':>8} {'images/s':>10}   (medians of {options.repeats})")
    for task, measured in times.items():
        median = statistics.median(measured)
        images = IMAGES if task.startswith("evaluate") else FILES
        print(f"{task:16} {median:8.3f} {images / median:10,.0f}")


def prepare(folder: Path, data: Path) -> None:
    """Train the model and write the files."""
    train = ["train", "data=fashion_mnist", f"data.dir='{data}'", "trainer.max_epochs=1"]
    train += ["trainer.accelerator=cpu", "test=false", f"hydra.run.dir='{folder}/run'"]
    subprocess.run([sys.executable, "-m", "discern", *train], check=True, capture_output=True)
    images = read_idx(data / "FashionMNIST" / "raw" / TEST_IMAGES, 3)
    (folder / "images").symlink_to((data / "FashionMNIST" / "raw" / TEST_IMAGES).resolve())
    (folder / "files").mkdir()
    for number, image in enumerate(images[:FILES]):
        Image.fromarray(image).save(folder / "files" / f"{number:04}.png")


def seconds(task: str, folder: Path, data: Path, out: Path) -> float:
    """Run a task in a new process; return what its clock showed."""
    program = f"{SETUP}{TASKS[task]}"
    model = folder / "run" / "checkpoints" / "best.safetensors"
    arguments = [model, folder, data.resolve(), out]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
