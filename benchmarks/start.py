"""How long until a wrong setting is reported, and what importing a run costs.

    python benchmarks/start.py [--repeats 5]

Nothing heavy is imported before a config has been composed and checked, so the commands of the
first table take a fraction of what importing torch alone takes; where a device, weights and data
are missing (of this machine nothing is seen, and a proxy that is none stands for no network), they
are looked for first. The second one compares the
processor time of importing ``discern.run`` with that of Lightning, which it is built on, without
and with the collector, which ``discern`` puts off while it imports. Each repeat runs all commands
once, in turn. Compiled files are kept, as in any installation.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parents[1] / "train.py")
MISSION = ("model=densenet_transfer", "data=catdog", "trainer.accelerator=gpu")
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "train.py --cfg job": [TRAIN, "--cfg", "job"],
    "train.py --help": [TRAIN, "--help"],
    "train.py optimizer.lr=-1": [TRAIN, "optimizer.lr=-1"],
    "train.py model=mpl": [TRAIN, "model=mpl"],
    "train.py trainer.max_epoch=3": [TRAIN, "trainer.max_epoch=3"],
    "three wrong settings": [TRAIN, "optimizer.lr=-1", "data.batch_size=x", "model.dropout=3"],
    "no GPU, no weights, no data": [TRAIN, *MISSION],
    "discern --help": ["-m", "discern", "--help"],
    "discern runs": ["-m", "discern", "runs"],
}
IMPORTS = {
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "import discern.run": ["-c", "import discern.run"],
    "the same, collector off": ["-c", "import gc; gc.disable(); import discern.run"],
}


def measured(arguments: list[str], folder: str) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_HOME": folder, "DISCERN_DATA_DIR": folder}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - began, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS | IMPORTS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            for name, arguments in (COMMANDS | IMPORTS).items():
                took = measured(arguments, folder)
                if repeat:  # the first round fills the file cache
                    times[name].append(took)
    print(f"{'command':32} {'seconds':>8} {'ratio':>6}   (medians of {repeats} paired repeats)")
    for name in COMMANDS:
        pairs = zip(times[name], times["import torch"], strict=True)
        ratio = statistics.median(one / other for (one, _), (other, _) in pairs)
        print(f"{name:32} {statistics.median(clock for clock, _ in times[name]):8.2f} {ratio:6.2f}")
    print(f"\n{'':32} {'processor seconds':>18} {'beyond Lightning':>17}")
    for name in IMPORTS:
        pairs = zip(times[name], times["import lightning.pytorch"], strict=True)
        beyond = statistics.median(one - other for (_, one), (_, other) in pairs)
        used = statistics.median(used for _, used in times[name])
        print(f"{name:32} {used:18.2f} {beyond:+17.2f}")


if __name__ == "__main__":
    main()
