"""What looking at runs costs: making reports, opening them, and all of it within a run.

    python benchmarks/report.py [--data-dir DIR] [--repeats 5]

- `discern report` of a run on the 10,000 test images of MNIST, and of a sweep of 100 jobs of 30
  epochs, from the start of the process to its end.
- Opening them in headless Chromium, until every chart is drawn.
- `experiment=mnist_sgd` with everything (metrics.csv, TensorBoard, pictures, report) against the
  same with `logger=none report=false`, each time in a new process, in turn. The clock starts when
  all modules are imported and the config is composed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys, time
import discern.data.published.mnist, discern.run, torch.utils.tensorboard, torch._dynamo
from discern.commands.cli import main
train = discern.run.train
def timed(*arguments):
    began = time.perf_counter()
    result = train(*arguments)
    print("seconds", time.perf_counter() - began)
    return result
discern.run.train = timed
main(["train", *sys.argv[1:]])
"""
BARE = ("logger=none", "report=false")
JOBS, EPOCHS = 100, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DISCERN_DATA_DIR", "data"))
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = [compare(options.data_dir, folder, number) for number in range(options.repeats)]
        sweep = made_up_sweep(folder / "sweep")
        for title, path in (("run of 10,000 test images", folder / "full"), ("100 jobs", sweep)):
            seconds = [report(path) for _ in range(options.repeats)]
            size = (path / "report.html").stat().st_size / 1e6
            print(f"report of a {title}: {statistics.median(seconds):.2f} s, {size:.1f} MB")
            opened = [open_in_browser(path / "report.html") for _ in range(options.repeats)]
            print(f"  opened in Chromium: {statistics.median(opened):.2f} s")
        print(
            f"a run with everything: {statistics.median(ratios):.3f} × the same with "
            f"{' '.join(BARE)} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def compare(data: Path, folder: Path, number: int) -> float:
    """The seconds of a run with everything over those of one without, in turn."""
    seconds = {}
    # The first of two has other caches to fill.
    for name in ("full", "bare") if number % 2 else ("bare", "full"):
        shutil.rmtree(folder / name, ignore_errors=True)
        extra = BARE if name == "bare" else ()
        seconds[name] = train(data, folder / name, *extra)
    print(f"full {seconds['full']:.2f} s, bare {seconds['bare']:.2f} s", file=sys.stderr)
    return seconds["full"] / seconds["bare"]


def train(data: Path, folder: Path, *extra: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", RUN, "experiment=mnist_sgd", f"data.dir='{data}'",
         f"hydra.run.dir='{folder}'", *extra],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    return float(line.split()[1])


def report(path: Path) -> float:
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("discern")), "report", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def open_in_browser(page: Path) -> float:
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser, args=args)
        tab = chromium.new_page()
        began = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]")
        seconds = time.perf_counter() - began
        chromium.close()
    return seconds


def made_up_sweep(folder: Path) -> Path:
    """The folder of a sweep whose jobs have curves, with made-up numbers."""
    draw = random.Random(0)
    jobs = []
    for number in range(JOBS):
        overrides = {
            "optimizer.lr": f"{10 ** draw.uniform(-4, -1):.2e}",
            "model.dropout": f"{draw.uniform(0, 0.6):.2f}",
            "data.batch_size": str(draw.choice([32, 64, 128])),
        }
        jobs.append({"number": number, "name": f"job{number}", "overrides": overrides})
        job = folder / f"job{number}"
        job.mkdir(parents=True)
        losses = [1 / epoch + draw.uniform(0, 0.2) for epoch in range(1, EPOCHS + 1)]
        rows = [f"{n},{n * 100},{loss}" for n, loss in enumerate(losses, 1)]
        (job / "metrics.csv").write_text("\n".join(["epoch,step,val/loss", *rows]) + "\n")
        (job / "overrides.yaml").write_text("[]\n")
        facts = {
            "format": 1, "state": "done", "reason": f"{EPOCHS} of {EPOCHS} epochs",
            "epochs": EPOCHS,
            "seconds": {"total": 10.0}, "metrics": {"val": {"loss": min(losses)}},
        }  # fmt: skip
        (job / "summary.json").write_text(json.dumps(facts))
    content = {
        "format": 1, "arguments": [], "search": None, "jobs": jobs,
        "objectives": [{"metric": "val/loss", "direction": "minimize"}],
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


if __name__ == "__main__":
    main()
