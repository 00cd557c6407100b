"""``discern report``: rebuild the pages of runs and sweeps from their folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from discern.console import loading, say
from discern.errors import DiscernError
from discern.files.places import expanded, is_folder, is_there
from discern.runs.folder import (
    OUTPUTS,
    WORDS,
    is_run,
    is_sweep,
    run_meant,
    runs_below,
    sweeps_below,
)
from discern.text import printable

HELP = """\
Rebuild report.html of runs and sweeps from the files in their folders.

Usage: discern report FOLDER …

A FOLDER is a run's, a sweep's, or one with runs and sweeps somewhere in it; last is the newest run
in outputs, and best the one with the lowest val/loss. A sweep's report is written to its folder,
and its jobs' reports to theirs.
"""


def run(arguments: list[str]) -> None:
    """Write the reports of the folders in ``arguments``, and print their paths.

    Raises:
        DiscernError: a folder has no run in it, or its report cannot be written.
    """
    for write, folder in [each for wanted in arguments for each in _found(wanted)]:
        try:
            say(printable(write(folder)))
        except OSError as error:
            raise DiscernError(
                f"The report of {printable(folder)} cannot be written: {error.strerror}."
            ) from error


def _found(wanted: str) -> list[tuple[Callable[[Path], Path], Path]]:
    folder = expanded(wanted)
    if wanted in WORDS and not is_there(folder):
        folder = run_meant(wanted, OUTPUTS)
    if not is_folder(folder):
        raise DiscernError(
            f"{wanted} is not a folder; it must be a run's, a sweep's, last or best."
        )
    # It may be a sweep's link to its best job.
    own = [folder] if is_run(folder) else list(runs_below(folder))
    sweeps = [folder] if is_sweep(folder) else list(sweeps_below(folder))
    if not own and not sweeps:
        raise DiscernError(f"{wanted} has no run in it.")
    with loading("matplotlib"):
        from discern.reports.run_page import write_run_page
        from discern.sweeps.page import write_sweep_page

    # A sweep's report links to those of its jobs.
    return [
        *((write_run_page, each) for each in own),
        *((write_sweep_page, each) for each in sweeps),
    ]
