"""What the jobs of the commands share: how they run, and end when they cannot be done."""

import functools
import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discern.errors import FULL_TRACEBACK, DiscernError, first_line, sanitize_message
from discern.files.places import started_in

log = logging.getLogger(__name__)


@contextmanager
def as_job() -> Iterator[None]:
    """Run the block as the work of a command.

    If it fails the log says why, and the process ends with status 1 (130 for Ctrl-C). The jobs of
    a sweep raise what they raised instead, which ends the sweep.
    """
    freeze_imports()
    try:
        with restore_torch_state():
            yield
    except KeyboardInterrupt as error:
        log.warning("Interrupted.")
        raise SystemExit(130) from error
    except Exception as error:
        from hydra.core.hydra_config import HydraConfig  # start-up time
        from hydra.types import RunMode

        if isinstance(error, DiscernError):
            log.error("Error: %s", sanitize_message(error), exc_info=FULL_TRACEBACK)
        elif HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("Failed: %s; train.log has the traceback.", first_line(error))
            log.info("Failed, which is a mistake in the code:", exc_info=True)
        else:
            log.exception("Failed, which is a mistake in the code rather than in a setting:")
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(1) from error


@functools.cache
def freeze_imports() -> None:
    """Exclude the imported modules, a million objects, from garbage collection.

    A collection that looks through it takes a quarter of a second. Once only: what a job of a sweep
    leaves has to be collected. (The collector itself would take 45 ms to say that it was done.)
    """
    gc.freeze()


@contextmanager
def restore_torch_state() -> Iterator[None]:
    """Restore the process-wide settings that a job changes.

    Lightning sets most of it, as ``trainer.deterministic=true`` asks for, and leaves it.
    """
    import torch

    environment = dict(os.environ)
    strict = torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    anomaly = torch.is_anomaly_enabled()
    convolutions = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warning)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = convolutions
        os.environ.clear()
        os.environ.update(environment)


def relative(path: Path) -> Path:
    """The path relative to where the command was started, if it is below."""
    path, start = path.resolve(), started_in()
    return path.relative_to(start) if path.is_relative_to(start) else path


def quiet_libraries() -> None:
    """Hide log lines and warnings that only developers of the libraries could act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        # Which devices exist and why fit ended, each in discern's own lines already; and its own
        # handler prints what the root logger's handlers print, a second time.
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()
        logger.propagate = True
    fonts = logging.getLogger("matplotlib.font_manager")
    if fonts.level == logging.NOTSET:  # hydra.verbose=matplotlib.font_manager sets another
        # It logs that it has listed the fonts, in the first run on a machine.
        fonts.setLevel(logging.WARNING)
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


NEEDLESS_WARNINGS = (
    # Lightning 2.6 calls what torch 2.14 deprecates.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Images in memory are cut by index: worker processes would slow it down (measured: 4 x).
    r".*does not have many workers which may be a bottle",
    # log_every_n_steps is meant for long epochs; a short one has its row in metrics.csv.
    r"The number of training batches .* is smaller than the log",
    # The run's folder holds config.yaml before the first checkpoint is written.
    r"Checkpoint directory .* exists and is not empty",
    # A frozen backbone is meant to be in eval mode.
    r"Found \d+ module\(s\) in eval mode at the start",
    # accelerator=auto takes a GPU: whoever trains on the CPU beside one has asked for it.
    r"GPU available but not used",
)
"""Beginnings of warnings that a user of discern can do nothing about."""
