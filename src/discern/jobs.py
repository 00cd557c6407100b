"""What the jobs of the commands share: how they run, and end when they cannot be done."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from discern.errors import FULL_TRACEBACK, DiscernError

log = logging.getLogger(__name__)


@contextmanager
def as_job() -> Iterator[None]:
    """Run the block as the work of a command.

    If it fails the log says why, and the process ends with status 1 (130 for Ctrl-C). The jobs of
    a sweep raise what they raised instead, which ends the sweep.
    """
    # What has been imported stays. A collection would look through all of it, a million objects,
    # and take a quarter of a second. Once only: what a job of a sweep leaves has to be collected.
    if not gc.get_freeze_count():
        gc.freeze()
    try:
        yield
    except KeyboardInterrupt as error:
        log.warning("Interrupted.")
        raise SystemExit(130) from error
    except Exception as error:
        if isinstance(error, DiscernError):
            log.error("Error: %s", error, exc_info=FULL_TRACEBACK)
        else:
            log.exception("Failed, which is a mistake in the code rather than in a setting:")
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(1) from error


def relative(path: Path) -> Path:
    """The path as seen from the working directory, if it lies below it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
