"""How long until a wrong setting is reported, against the time of ``import torch``.

    python benchmarks/start.py [--repeats 5]

Nothing heavy is imported before a config has been composed and checked, so the commands below
take a fraction of what importing torch alone takes. Each repeat runs all commands once, in turn.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parents[1] / "train.py")
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "train.py --cfg job": [TRAIN, "--cfg", "job"],
    "train.py --help": [TRAIN, "--help"],
    "train.py optimizer.lr=-1": [TRAIN, "optimizer.lr=-1"],
    "train.py model=mpl": [TRAIN, "model=mpl"],
    "train.py trainer.max_epoch=3": [TRAIN, "trainer.max_epoch=3"],
    "discern --help": ["-m", "discern", "--help"],
}


def seconds(arguments: list[str], folder: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            for name, arguments in COMMANDS.items():
                took = seconds(arguments, folder)
                if repeat:  # the first round fills the file cache
                    times[name].append(took)
    print(f"{'command':32} {'seconds':>8} {'ratio':>6}   (medians of {repeats} paired repeats)")
    for name, measured in times.items():
        pairs = zip(measured, times["import torch"], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{name:32} {statistics.median(measured):8.2f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
