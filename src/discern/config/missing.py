"""What a run would lack on this machine: devices, weights, data, checkpoints.

Files are looked for before anything heavy is imported and before a folder is made. Whatever cannot
be told so, the run finds out itself, and says it in the same words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from omegaconf import DictConfig

from discern.config.check import faults
from discern.config.devices import is_absent, no_device
from discern.config.schema import SCHEMAS, TransferSettings
from discern.config.values import plain
from discern.data.published.pretrained import (
    PUBLISHED,
    check_library,
    not_a_file,
    published_weights,
)
from discern.data.published.wanted import NEEDS, Download, refusals
from discern.errors import DiscernError, raise_all
from discern.files.places import expanded, is_file, is_folder, placed
from discern.runs.folder import WORDS, find_checkpoint, mapping

log = logging.getLogger(__name__)


def check_all(cfg: DictConfig, command: str = "train") -> None:
    """Raise for all that is wrong with a composed config and the machine that it is to run on.

    Args:
        cfg: the config.
        command: the one that it was composed for.

    Raises:
        DiscernError: a sentence for each wrong setting and each missing thing.
    """
    found = faults(cfg, command)
    raise_all([*found.values(), *missing(cfg, command, found, certain=bool(found))])


def missing(
    cfg: DictConfig, command: str, wrong: Collection[str] = (), certain: bool = False
) -> list[str]:
    """A sentence for each thing that the machine lacks.

    Args:
        cfg: the config, checked.
        command: the one that it was composed for.
        wrong: settings whose value is not allowed, so that nothing can be asked by it.
        certain: whether the command cannot be run anyhow. Then a server that has not answered is
            named too; else it may answer later.
    """
    problems: list[DiscernError | Download] = []
    for ask, settings in ASKED[command].items():
        if any(each in wrong or each.partition(".")[0] in wrong for each in settings):
            continue
        try:
            problems += ask(cfg)
        except DiscernError as error:
            problems.append(error)
        except (OSError, ValueError):  # whoever needs the file says what is wrong with it
            log.debug("What %s needs cannot be told.", settings, exc_info=True)
    downloads = [each for each in problems if isinstance(each, Download)]
    errors = [each for each in problems if isinstance(each, DiscernError)]
    refused, silent = refusals(downloads)
    errors += refused
    if errors or certain:
        errors += silent
    return list(map(str, errors))


Problems = list[Download]
"""What would have to be downloaded; what cannot be had at all is raised."""


def _device(cfg: DictConfig) -> Problems:
    accelerator = cfg.trainer.accelerator
    if is_absent(accelerator):
        raise no_device(accelerator)
    return []


def _start(cfg: DictConfig) -> Problems:
    wanted = cfg.model.get("init_from")
    if wanted is not None:
        find_checkpoint(wanted, "model.init_from")
    return []


def _backbone(cfg: DictConfig) -> Problems:
    model = mapping(plain(cfg.model))
    schema = SCHEMAS.get(str(model.get("_target_")))
    if schema is None or not issubclass(schema, TransferSettings):
        return []
    library, weights = str(model["library"]), model["weights"]
    check_library(library)
    if weights == PUBLISHED:
        return published_weights(library, str(model["backbone"]))
    if isinstance(weights, str):
        _check_weights(weights)
    return []


def _check_weights(wanted: str) -> None:
    path = placed(wanted)
    if wanted in WORDS or is_folder(path):
        find_checkpoint(wanted, "model.weights")
    elif not is_file(path):
        raise not_a_file(Path(expanded(wanted)))


def _data(cfg: DictConfig) -> Problems:
    settings = mapping(plain(cfg.data))
    needs = NEEDS.get(str(settings.get("_target_")))
    return [] if needs is None else needs(settings)


_OF_DATA: dict[Callable[[DictConfig], Problems], tuple[str, ...]] = {
    _data: ("data.dir", "data.source", "data.url", "data.csv", "data.parts")
}

ASKED: dict[str, dict[Callable[[DictConfig], Problems], tuple[str, ...]]] = {
    "train": {
        _device: ("trainer.accelerator",),
        _start: ("model.init_from",),
        _backbone: ("model.library", "model.backbone", "model.weights"),
        **_OF_DATA,
    },
    "evaluate": _OF_DATA,
    "export": _OF_DATA,
    "inspect": _OF_DATA,
    "predict": {},
}
"""Command -> what asks the machine for something -> the settings that it depends on."""
