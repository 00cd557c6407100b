"""Write what this version of discern leaves on disk, for tests of the versions to come.

    python tests/versions/write.py FOLDER

Run it after a format number has been raised, in a folder whose path may be published, and move it
beside this file, named for the version. The folders of older versions stay as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from discern.commands.cli import main
from discern.features.store import FeatureStore
from photos import photos_in_turn
from run_files import NOT_DRAWN

ARGUMENTS = (
    "data=image_folder", "data.dir=data", "data.image_size=4", "data.num_workers=0",
    "data.batch_size=4", "model.hidden=[2]", "trainer.max_epochs=2", "trainer.accelerator=cpu",
    "logger=csv", "report=false", NOT_DRAWN,
)  # fmt: skip
RATES = ("1e-3", "1e-2")
IDS = torch.arange(6).reshape(3, 2)
FEATURES = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7


def write(folder: Path) -> None:
    """Pictures, a run's folder, a sweep's and a cache's."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    for part, count in {"train": 8, "val": 4, "test": 4}.items():
        photos_in_turn(Path("data") / part, count)
    for arguments in (
        ("train", *ARGUMENTS, "hydra.run.dir=run"),
        ("train", "-m", *ARGUMENTS, f"optimizer.lr={','.join(RATES)}", "hydra.sweep.dir=sweep"),
    ):
        sys.argv = ["discern", *arguments]
        with suppress(SystemExit):
            main()
    store = FeatureStore(Path("cache"), FEATURES.shape[1], "float32", {"format": 2})
    store.add(IDS.numpy(), FEATURES)
    for pattern in ("*.log", ".*", "*s.png", "sweep.png", "hydra.yaml", "multirun.yaml"):
        for path in Path().rglob(pattern):
            path.unlink()
    for tested in Path("sweep").glob("lr=*/test"):
        shutil.rmtree(tested)
    Path("sweep", "best", "test").unlink(missing_ok=True)  # a link to one of them


if __name__ == "__main__":
    write(Path(sys.argv[1]))
