"""Runs for tests to look at: composed and trained in this process, or as a user's own command."""

from __future__ import annotations

import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from lightning.pytorch import Callback
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from discern.config.checked_files import checked_files
from discern.config.user_config import conf_dir
from discern.data.published.mnist import read_sample
from discern.models.saved import read
from discern.runs.sweep_job import DRAWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, str(REPOSITORY / "train.py")]
DISCERN = [str(Path(sys.executable).with_name("discern"))]

DRAWN = f"++hydra.job.env_set.{DRAWS}=0"
NOT_DRAWN = f"++hydra.job.env_set.{DRAWS}=1"
"""Overrides of a run that draws its figures, as a run of a user does, or leaves them to a sweep."""

# 300 digits: 240 in six batches, 60 held out; a network that takes no time. Of what a run shows
# there is the csv alone: pictures take longer than its training.
TINY = (
    "data.source=full",
    "data.val_size=60",
    "data.batch_size=40",
    "model.hidden=[8]",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "logger=csv",
    NOT_DRAWN,
)
SHOWN = ("logger=default", DRAWN)
"""Overrides with which it shows all that a run of a user shows."""

STEPS_PER_EPOCH = 6


def composed_by_hydra(*overrides: str) -> DictConfig:
    """The config that ``python train.py`` composes from these overrides."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(overrides))


def composed(*overrides: str, command: str = "train") -> DictConfig:
    """The same config in 10 ms, where Hydra takes 100: what the choices come to is composed once.

    It does not see files that change.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    parsed = [one for one in parsed if not one.is_hydra_override()]
    values = [one for one in parsed if isinstance(one.value(), dict) or not _is_choice(one)]
    choices = tuple(one.input_line for one in parsed if one not in values)
    with checked_files(overrides):
        config: DictConfig = pickle.loads(_chosen(command, choices))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _is_choice(override: Override) -> bool:
    return (conf_dir() / override.key_or_group).is_dir()


@cache
def _chosen(command: str, choices: tuple[str, ...]) -> bytes:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return pickle.dumps(compose(command, list(choices)))


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what a run in it may have left there."""
    left = ("HYDRA_FULL_ERROR", "DISCERN_DATA_DIR", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    left += ("COLUMNS",)  # a worker of pytest sets it, and it would be the width of a pipe
    kept = {name: value for name, value in os.environ.items() if name not in left}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def command(
    program: Sequence[str], *arguments: str, cwd: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does, to its end."""
    return subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def in_process(
    command: str, arguments: Sequence[str], capfd: pytest.CaptureFixture[str]
) -> subprocess.CompletedProcess[str]:
    """``discern COMMAND …`` in this process."""
    from discern.commands.cli import main

    try:
        main([command, *arguments])
        status, said = 0, ""
    except SystemExit as end:
        status, said = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code, "")
    out, err = capfd.readouterr()
    return subprocess.CompletedProcess(arguments, int(status or 0), out, err + said)


def one_pixel(figure: Figure, file: IO[bytes], **how: Any) -> None:
    """What ``Figure.savefig`` is where nobody looks at the picture, which takes long to draw."""
    Image.new("RGB", (1, 1)).save(file, format="png")


def metrics_csv(folder: Path, complete: bool = True) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv; an empty cell is an error if they must be complete."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {name: float(cell) for name, cell in row.items() if cell or complete}
            for row in csv.DictReader(file)
        ]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    return read(folder / "checkpoints" / f"{name}.safetensors")


def weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    return checkpoint(folder, name)["state_dict"]


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def sample_test_split() -> tuple[Tensor, Tensor]:
    """The test images of the packaged sample as a network sees them, made by hand, and labels."""
    arrays = read_sample()
    images = torch.from_numpy(arrays["t10k-images-idx3-ubyte"]).float().unsqueeze(1)
    return (images / 255 - 0.5) / 0.5, torch.from_numpy(arrays["t10k-labels-idx1-ubyte"]).long()


# What a user might name in a config


def own_model(target: str, *settings: str) -> list[str]:
    """Overrides that put a class of one's own in the place of the MLP and its settings."""
    mlp = yaml.safe_load((conf_dir() / "model" / "mlp.yaml").read_text())
    others = [f"~model.{name}" for name in mlp if name != "_target_"]
    return [*others, f"model._target_={target}", *settings]


class Events(Callback):
    """Writes down what Lightning does; ``trainer.callbacks=[{_target_: run_files.Events}]``."""

    seen: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self) -> None:
        Events.seen = []

    @classmethod
    def of(cls, kind: str) -> list[Any]:
        return [value for event, value in cls.seen if event == kind]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(("lr", trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(("batch", (trainer.current_epoch, batch_idx)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(("step", trainer.global_step))

    def on_validation_start(self, trainer, pl_module) -> None:
        self.seen.append(("validation", (trainer.current_epoch, trainer.global_step)))


class Signal(Callback):
    """Sends this process a signal in, or after, the step that makes the count."""

    def __init__(self, step: int, number: int, during: str = "step") -> None:
        self.step, self.number, self.during = step, number, during

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.during == "step" and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, *rest: Any) -> None:
        if self.during == "validation" and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.during = "over"

    def on_test_batch_start(self, *rest: Any) -> None:
        if self.during == "test":
            os.kill(os.getpid(), self.number)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self.during == "epoch end" and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class Raises(Callback):
    """A user's own callback with a mistake in it."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        raise RuntimeError("a mistake of mine\nin two lines")


class Convolution(nn.Module):
    """A user's own network."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 5, stride=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(num_classes),
        )
        self.layers(torch.zeros(1, *input_shape))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
