"""``discern cache``: list, verify and remove cached features of frozen backbones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from discern.commands import words
from discern.console import for_terminal, is_terminal, say
from discern.errors import DiscernError, did_you_mean
from discern.features.chunks import SUFFIX, DamagedChunkError, open_chunk
from discern.features.stores import (
    ABOUT,
    bytes_of,
    in_use,
    last_used,
    make_room,
    name_of,
    read_json,
    remove,
    size_of,
    stores,
)
from discern.files import derived as engines
from discern.files.cache import cache_dir
from discern.files.walk import file_size, file_sizes
from discern.models import torch_file_folder
from discern.reports.page import size
from discern.runs.folder import mapping
from discern.tables import line_width, table, wrapped
from discern.text import printable

HELP = """\
The cached features of frozen backbones, and discern's other caches.

Usage: discern cache COMMAND [dir=FOLDER] …

Commands:
  list      features with size, time of last use, and whether a process uses them now
  verify    check the checksums of all features and remove damaged files, whose contents the next
            run that needs them computes again; exit status 1 if any file is damaged
  prune     remove the least recently used features until max_gb=N (50) is reached, or all unused
            for unused_days=N; exported backbones and converted files of weights, which are made
            again in seconds, go first
  clear     remove all features, exported backbones and converted files

Whatever is in use stays. dir=FOLDER is a run's cache.dir; the default is
$DISCERN_CACHE_DIR/features, or features in the user's cache folder.
"""

MAX_GB = 50.0
"""The default of a run's ``cache.max_gb``."""

DAY = 86_400.0

DISPENSABLE = ("engine", "precision", "image", "last used", "images")
"""Columns that a narrow terminal does without, in the order in which it does."""


@dataclass(frozen=True)
class Chosen:
    """Settings of each command: the folder of the features, if one was named."""

    dir: Annotated[Path | None, words.folder] = None

    @property
    def folder(self) -> Path:
        """The folder of the features."""
        return self.dir or cache_dir(make=False) / "features"


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise DiscernError(f"{name}={value} must be a number, 0 or above.")
    return number


@dataclass(frozen=True)
class Pruning(Chosen):
    """Settings of ``prune``."""

    max_gb: Annotated[float | None, _number] = None
    unused_days: Annotated[float | None, _number] = None


def run(arguments: list[str]) -> int:
    """Run ``discern cache`` with these arguments; the exit status.

    Raises:
        DiscernError: a word is not known, or a folder cannot be read.
    """
    command, *settings = arguments
    if command not in COMMANDS:
        known = did_you_mean(command, COMMANDS)
        raise DiscernError(f"{command} is not a command of discern cache; {known}")
    shape = Pruning if command == "prune" else Chosen
    asked = words.read_all(shape, settings, f"discern cache {command}")
    try:
        return COMMANDS[command](asked)
    except OSError as error:
        where = printable(Path(error.filename or asked.folder))
        raise DiscernError(f"{where} cannot be used: {error.strerror}.") from error


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern cache``."""
    *before, begun = typed.split(" ")
    if not before:
        return words.starting(begun, (), *COMMANDS)
    return words.starting(begun, words.settings_of(Pruning if before[0] == "prune" else Chosen))


# The commands


def _list(asked: Chosen) -> int:
    found = stores(asked.folder)
    say(f"Features in {printable(asked.folder)}: {'' if found else 'none'}")
    if found:
        header = "name", "backbone", "image", "precision", "engine"
        facts = "images", "size", "last used", "in use"
        rows = list(map(_row, found))
        say(f"\n{table((*header, *facts), rows, dispensable=DISPENSABLE)}\n")
        say(f"{_count(found)}, {size(sum(map(size_of, found)))}")
        say("Each view of an augmented image counts as an image.")
    if not asked.dir:
        _list_others(asked.folder)
    return 0


def _row(store: Path) -> tuple[str, ...]:
    about = _about(store)
    rows, damaged = 0, 0
    for path in _chunks(store):
        try:
            rows += open_chunk(path).rows
        except (DamagedChunkError, OSError):
            damaged += 1
    shape = about.get("shape")
    return (
        store.name[:8],
        _backbone(about),
        _shown("x".join(map(str, shape[1:])) if isinstance(shape, list) else None),
        _shown(about.get("precision")),
        _shown(about.get("engine")),
        f"{rows:,}" + (f" ({damaged} files damaged)" if damaged else ""),
        size(size_of(store)),
        time.strftime("%Y-%m-%d", time.localtime(last_used(store))),
        "yes" if in_use(store) else "no",
    )


def _list_others(features: Path) -> None:
    """List the other contents of discern's cache folder."""
    folder = cache_dir(make=False)
    others = [path for path in sorted(folder.glob("*")) if path != features]
    if others:
        say(f"\nBesides, in {printable(folder)}:")
    for path in others:
        taken = file_size(path) if path.is_file() else sum(file_sizes(path))
        sqlite = path.suffix == ".sqlite"
        purpose = "facts about picture files" if sqlite else _PURPOSES.get(path.name, "")
        text = f"{_shown(printable(path.relative_to(folder)))}  {size(taken)}  {purpose}"
        say("\n".join(wrapped(text, line_width(), "  ", "    ")))


_PURPOSES = {
    "engines": "backbones as other engines run them",
    "weights": "files of torch.save, converted once",
    "onnxruntime-web": "runs models in the pages of format=web",
}


def _verify(asked: Chosen) -> int:
    found = stores(asked.folder)
    files = [path for store in found for path in (*_chunks(store), store / ABOUT)]
    sizes = [file_size(path) for path in files]
    damaged = 0
    with tqdm(
        desc="verify", total=sum(sizes), unit="B", unit_scale=True, leave=False,
        dynamic_ncols=True, disable=not is_terminal(),
    ) as bar:  # fmt: skip
        for path, taken in zip(files, sizes, strict=True):
            fault = _fault(path)
            if fault is not None:
                damaged += 1
                tqdm.write(f"{printable(path)} {fault}.")
            bar.update(taken)
    say(f"{_count(found)}, {len(files):,} files: {damaged:,} damaged.")
    return 1 if damaged else 0


def _fault(path: Path) -> str | None:
    """The damage of a file, and whether it was removed; None for a sound file."""
    try:
        if path.name == ABOUT:
            if path.exists() and name_of(read_json(path)) != path.parent.name:
                raise DamagedChunkError("it is not about these features")
        else:
            open_chunk(path).verify()
    except FileNotFoundError:  # removed meanwhile
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except DamagedChunkError as damage:
        try:
            path.unlink()
        except OSError as error:
            return f"is damaged ({damage}) and cannot be removed: {error.strerror}"
        return f"is damaged ({damage}) and was removed"
    return None


def _prune(asked: Pruning) -> int:
    before = _total(asked)
    removed = []
    if asked.unused_days is not None:
        since = time.time() - asked.unused_days * DAY
        removed += _remove(store for store in stores(asked.folder) if last_used(store) < since)
        old = [path for path in _made(asked) if engines.last_used(path) < since]
        removed += [_description(path) for path in old if engines.remove(path)]
    if asked.max_gb is not None or asked.unused_days is None:
        most = MAX_GB if asked.max_gb is None else asked.max_gb
        texts = {store: _store_text(store) for store in stores(asked.folder)}
        left = bytes_of(most) - sum(map(size_of, texts))
        removed += [_description(path) for path in engines.make_room(left, files=_made(asked))]
        removed += [texts[store] for store in make_room(asked.folder, 0, bytes_of(most))]
    return _report(asked, before, removed)


def _clear(asked: Chosen) -> int:
    before = _total(asked)
    removed = _remove(stores(asked.folder))
    removed += [_description(path) for path in _made(asked) if engines.remove(path)]
    if not asked.dir:
        engines.forget_speeds()
    return _report(asked, before, removed)


def _made(asked: Chosen) -> list[Path]:
    """Exported backbones and converted files, the least recently used first; none with dir=."""
    found = [] if asked.dir else [*engines.exported(), *torch_file_folder.converted()]
    return sorted(found, key=engines.last_used)


def _remove(found: Iterable[Path]) -> list[str]:
    """Remove features that are not in use; descriptions of those removed."""
    texts = {store: _store_text(store) for store in found}
    return [text for store, text in texts.items() if remove(store)]


def _report(asked: Chosen, before: str, removed: list[str]) -> int:
    for text in removed:
        say(f"removed {text}")
    for store in stores(asked.folder):
        if in_use(store):
            say(f"in use  {_store_text(store)}")
    say(f"Before: {before}. Now: {_total(asked)}.")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "list": _list,
    "verify": _verify,
    "prune": _prune,
    "clear": _clear,
}


# Texts


def _chunks(store: Path) -> list[Path]:
    return sorted(store.glob(f"*{SUFFIX}"))


def _about(store: Path) -> dict[str, object]:
    return mapping(read_json(store / ABOUT))


def _store_text(store: Path) -> str:
    return f"{store.name[:8]}  {_backbone(_about(store))}  {size(size_of(store))}"


def _description(made: Path) -> str:
    if made.suffix == torch_file_folder.SUFFIX:
        return f"{_shown(printable(Path(made.stem)))[:8]}  a converted file of weights"
    return f"{_shown(printable(Path(made.stem)))}  as other engines run it"


def _backbone(about: dict[str, object]) -> str:
    return _shown(mapping(about.get("backbone")).get("name"))


def _shown(value: object) -> str:
    """A value from a file, safe for a terminal."""
    return for_terminal(value)[:40] if isinstance(value, str) else "?"


def _total(asked: Chosen) -> str:
    found, made = stores(asked.folder), _made(asked)
    texts = [f"{_count(found)}, {size(sum(map(size_of, found)))}"]
    for suffix, name in _MADE.items():
        files = [path for path in made if path.suffix == suffix]
        if files:
            several = "" if len(files) == 1 else "s"
            taken = size(sum(map(file_size, files)))
            texts.append(f"{len(files)} {name}{several}, {taken}")
    return "; ".join(texts)


_MADE = {engines.SUFFIX: "backbone", torch_file_folder.SUFFIX: "converted file"}


def _count(found: list[Path]) -> str:
    return f"{len(found)} {'set' if len(found) == 1 else 'sets'} of features"
