"""The page of `discern export format=web` in headless Chromium against `discern predict`.

    python benchmarks/web.py [--data-dir DIR] [--mnist CKPT] [--catdog CKPT] [--count 50]

Classifies digits of MNIST's test set and photographs of cats and dogs by both: photographs as PNG,
of which browsers and Pillow read the same pixels, as the JPEGs that they are, and as JPEGs of 12
megapixels, which both reduce. Without checkpoints it trains an MLP and a head on a frozen
EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import csv
import functools
import http.server
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

LARGE = (4000, 3000)
"""Width and height of the JPEGs of 12 megapixels."""

DONE = "#answer:is([data-state=answered], [data-state=refused])"


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture: the probability of each of its first classes."""

    probabilities: dict[str, float]
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DISCERN_DATA_DIR", "data"))
    )
    parser.add_argument("--mnist", type=Path, help="a checkpoint of a model of MNIST")
    parser.add_argument("--catdog", type=Path, help="a checkpoint of a model of cats and dogs")
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), f"data.dir={options.data_dir.resolve()}"
        mnist = options.mnist or trained(folder / "mnist", "data=mnist", data)
        pictures = {"digits, PNG": digits(options.data_dir, folder / "digits", options.count)}
        compare(mnist, pictures, folder / "of mnist")
        head = ("model=efficientnet_lite_transfer", "data=catdog", "trainer.max_epochs=4")
        catdog = options.catdog or trained(folder / "catdog", *head, data)
        photographs = chosen(options.data_dir / "Cat_Dog_data" / "test", options.count)
        compare(catdog, photographs_in(photographs, folder / "photographs"), folder / "of catdog")


def trained(folder: Path, *settings: str) -> Path:
    run("train", *settings, "logger=none", f"hydra.run.dir={folder}")
    return folder


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "discern", *words], check=True, capture_output=True)


# Pictures


def digits(data: Path, folder: Path, count: int) -> Path:
    content = (data / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    folder.mkdir()
    for number, pixels in enumerate(np.frombuffer(content, np.uint8).reshape(-1, 28, 28)[:count]):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def chosen(folder: Path, count: int) -> list[Path]:
    """Photographs of both classes in equal shares, spread over their folders."""
    found = [sorted(each.glob("*.jpg")) for each in sorted(folder.iterdir())]
    return [
        files[(number * len(files)) // -(-count // len(found))]
        for files in found
        for number in range(-(-count // len(found)))
    ][:count]


def photographs_in(photographs: list[Path], folder: Path) -> dict[str, Path]:
    for name in ("png", "jpeg", "large"):
        (folder / name).mkdir(parents=True)
    for number, path in enumerate(photographs):
        shutil.copyfile(path, folder / "jpeg" / f"{number:03}.jpg")
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.save(folder / "png" / f"{number:03}.png")
        if number % 5 == 0:
            large = image.resize(LARGE, Image.Resampling.BICUBIC)
            large.save(folder / "large" / f"{number:03}.jpg", quality=92)
    return {
        "photographs, PNG": folder / "png",
        "photographs, JPEG": folder / "jpeg",
        "photographs, JPEG of 12 megapixels": folder / "large",
    }


# By both


def compare(checkpoint: Path, sets: dict[str, Path], work: Path) -> None:
    page = work / "page"
    run("export", f"ckpt_path={checkpoint}", "format=web", "proof=false", f"out={page}")
    for title, folder in sets.items():
        known = predicted(checkpoint, folder, work / f"predicted {folder.name}")
        found = dict(classified(page, sorted(folder.iterdir())))
        same = sum(known[name].label == found[name].label for name in known)
        gap = max(
            abs(share - known[name].probabilities[label])
            for name, answer in found.items()
            for label, share in answer.probabilities.items()
            if label in known[name].probabilities
        )
        seconds = statistics.median(answer.seconds for answer in found.values())
        print(
            f"{title}: {same} of {len(known)} labels equal, largest difference in probability "
            f"{gap:.1e}, {1000 * seconds:.0f} ms a picture in the browser"
        )


def predicted(checkpoint: Path, folder: Path, out: Path) -> dict[str, Answer]:
    words = (f"ckpt_path={checkpoint}", f"input={folder}", "pictures=0", f"out={out}")
    run("predict", *words)
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        Path(row["file"]).name: Answer(
            {
                row[f"top{place}"]: float(row[f"top{place}_probability"])
                for place in range(1, 6)
                if f"top{place}" in row
            }
        )
        for row in rows
    }


def classified(folder: Path, files: list[Path]) -> Iterator[tuple[str, Answer]]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with hosted(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=sandbox)
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#answer[data-state=ready]", timeout=120_000)
        for path in files:
            page.set_input_files("#file", path)
            page.wait_for_selector(DONE, timeout=120_000)
            yield path.name, answer_of(page)
        browser.close()


def answer_of(page: Page) -> Answer:
    status, text = page.inner_text("#status"), page.inner_text("#seen-text")
    names = page.locator("#bars .name").all_inner_texts()
    if not names:
        raise SystemExit(status)
    shares = page.locator("#bars li").evaluate_all(
        "(all) => all.map((one) => one.dataset.probability)"
    )
    seconds = float(text.rpartition("Classified in ")[2].split()[0])
    return Answer(dict(zip(names, map(float, shares), strict=True)), seconds)


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """The address of a plain static host of a folder, in a sub-path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    handler = functools.partial(Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{folder.name}/"
        server.shutdown()


if __name__ == "__main__":
    main()
