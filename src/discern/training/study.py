"""Where an Optuna search keeps its study, which its jobs read too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discern.errors import DiscernError
from discern.redaction import PLACEHOLDER

if TYPE_CHECKING:  # start-up time: a search alone has Optuna
    import optuna

FOLDER, PRUNER = "discern:folder", "discern:pruner"
"""User attributes that discern sets on a trial and on a study."""

LOCKED_SECONDS = 300.0
"""Time to wait for another process that writes to the study; SQLite's own 5 are too few."""


def open_storage(location: str) -> str | optuna.storages.BaseStorage:
    """Optuna's storage at a URL or in a journal file.

    Raises:
        DiscernError: the address lacks what was not written of it.
    """
    import optuna

    if PLACEHOLDER in location:
        raise DiscernError(
            f"{location} is kept without what may be secret; type hydra.sweeper.storage again."
        )

    if location.startswith(("sqlite:", "sqlite+")):
        waits = {"connect_args": {"timeout": LOCKED_SECONDS}}
        return optuna.storages.RDBStorage(location, engine_kwargs=waits)
    if "://" in location:
        return location
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(location))
