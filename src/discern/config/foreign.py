"""What a file of settings that is given by its path may say, since it may be a stranger's.

What is typed, and what stands in ``./conf``, is the user's own. Other files, and the overrides in
the folder of a sweep that is gone on with, choose among parts of discern and of the libraries that
it is made of; they start nothing, read no environment variable, and write nowhere but in the run's
folder.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import grammar_parser
from omegaconf.errors import GrammarParseError
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

from discern.config.typed import parsed
from discern.config.user_config import conf_dir, make_importable, user_conf_dir
from discern.errors import DiscernError
from discern.files.places import started_in

SETTING = "allow_targets"
"""What is typed to have files given by path say more."""

LIBRARIES = (
    "discern", "torch", "torchvision", "lightning", "torchmetrics", "timm", "optuna",
)  # fmt: skip
"""Packages whose classes such a file may name."""

HOMES = (
    "discern.", "timm.layers.", "timm.loss.", "timm.models.", "timm.optim.", "timm.scheduler.",
    "optuna.samplers.", "optuna.pruners.", "torch.nn.", "torch.optim.",
    "torchvision.models.", "torchvision.ops.", "torchvision.transforms.",
    "lightning.pytorch.callbacks.", "lightning.pytorch.core.", "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.", "lightning.pytorch.profilers.", "lightning.pytorch.strategies.",
    "torchmetrics.aggregation", "torchmetrics.classification.", "torchmetrics.regression.",
)  # fmt: skip
"""Modules of theirs whose classes neither open, load nor execute what they are told of."""

PLAIN_CLASSES = "torchvision.transforms."
"""Where classes have no base in common."""

OF_A_SWEEP = ("hydra", "sweep", SETTING)
"""Settings of the process and not of the model that is trained."""

RESOLVERS = ("hydra", "now", "oc.dict.keys", "oc.dict.values", "oc.select")
"""Interpolations that compute nothing from a text and read no environment variable."""

WRITTEN_TO = (
    ".cache.dir", ".default_root_dir", ".dirpath", ".log_dir", ".path", ".root_dir", ".save_dir",
)  # fmt: skip
"""Ends of the names of settings that say in which folder something is written."""

NAMED = (".filename", ".folder")
"""Ends of the names of settings that are joined to such a folder."""

OF_LOGGERS = ("artifact_location", "name", "sub_dir", "tracking_uri", "version")
"""Settings of loggers that are a path, or become a part of one; no reference can stand for them."""

SHOWN = 100
"""Letters of a text that a sentence shows."""

MAX_INTERPOLATION_LENGTH = 2000
"""Letters of a text with an interpolation, of which the parser of OmegaConf takes its time."""

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allowing(overrides: Iterable[str]) -> Iterator[None]:
    """Let the files that are read in this block say what the typed ``allow_targets`` allows."""
    token = _allowed.set(allowed_by(overrides))
    try:
        yield
    finally:
        _allowed.reset(token)


class ForeignError(DiscernError):
    """A file says what only the user may say.

    Attributes:
        entry: of ``allow_targets``, with which it may; None where nothing allows it.
    """

    def __init__(self, message: str, entry: str | None) -> None:
        super().__init__(message)
        self.entry = entry


def to_be_allowed(settings: Any) -> list[str]:
    """The entries of ``allow_targets`` with which a file may hold these settings.

    They are those that are typed, and those that the file needs besides.
    """
    entries = list(_allowed.get())
    while True:
        token = _allowed.set(tuple(entries))
        try:
            check_file(settings, "", "_global_")
        except ForeignError as error:
            if error.entry is None or error.entry in entries:
                return entries
            entries.append(error.entry)
        else:
            return entries
        finally:
            _allowed.reset(token)


def allowed_by(overrides: Iterable[str]) -> tuple[str, ...]:
    """The entries of ``allow_targets`` among overrides."""
    for override in overrides:
        if override.lstrip("+").partition("=")[0] == SETTING:
            told = parsed(override)
            value = None if told is None or told.is_sweep_override() else told.value()
            return tuple(map(str, value)) if isinstance(value, list) else ()
    return ()


def is_own(path: Path) -> bool:
    """Whether a file stands among discern's choices or in the user's ``./conf``."""
    places = [conf_dir(), user_conf_dir()]
    real = path.resolve()
    return any(place and real.is_relative_to(place.resolve()) for place in places)


# Files


def check_file(settings: Any, told: str, package: str | None = None, group: str = "") -> None:
    """Check the settings in a file.

    Args:
        settings: plain values, with their interpolations as texts.
        told: the file, as a sentence begins with it.
        package: what its header says of where its settings belong; None where it says nothing.
        group: of which it is a choice; empty for none.

    Raises:
        DiscernError: it says what only the user may say.
    """
    place = [] if package == "_global_" else re.split(r"[./]", package or group)
    if isinstance(settings, Mapping):
        _check_defaults(settings.get("defaults"), told)
    _check(settings, tuple(part for part in place if part and part != "_global_"), told)


def check_overrides(overrides: Iterable[str], typed: Iterable[str], told: str) -> None:
    """Check overrides in the folder of a sweep.

    Args:
        overrides: as ``key=value``, of several values too.
        typed: those that the user has typed again, which are his own.
        told: the file, as a sentence begins with it.

    Raises:
        DiscernError: one says what only the user may say.
    """
    own = set(typed)
    for override in dict.fromkeys(overrides):
        if override not in own and not _HARMLESS.fullmatch(override):
            _check_override(override, told)


_HARMLESS = re.compile(
    r"(?!.*\.\.)\+?(?!hydra|sweep|allow_targets|logger)[a-z_]+(\.[a-z_]*[a-z])*(?<!dir|ath)=[\w+.-]*",
    re.ASCII,
)
"""A setting and a number or a word: most overrides, whose parsing takes a millisecond each."""


def _check_override(override: str, told: str) -> None:
    found = parsed(override)
    if found is None or found.package is not None:
        raise _refused(told, _shown(override), "which is no setting of a model")
    key = found.key_or_group
    place = tuple(re.split(r"[./]", key))
    if place[0] in OF_A_SWEEP and not _allows(place[0]):
        raise _refused(told, key, "which only you may set", place[0])
    values: list[Any] = [found.value()]
    if found.is_sweep_override():
        # Of an interval, a range, or a pattern of choices there are none that are written down.
        values = list(getattr(values[0], "list", []))
    if "/" in key or (conf_dir() / key).is_dir():
        # A choice: of experiments, whose files are checked when they are read, also a path.
        _check_choices([*place], values, told, is_free=key == "experiment")
    for value in values:
        _check(_plain(value), place, told)


def _plain(value: Any) -> Any:
    """What Hydra's parser gives for a value, without the marks of quotes."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _check_defaults(defaults: Any, told: str) -> None:
    for entry in defaults if isinstance(defaults, Sequence) else ():
        items = entry.items() if isinstance(entry, Mapping) else [(str(entry), None)]
        for group, choice in items:
            words = re.split(r"[ ./@:]", str(group))
            experiments = "experiment" in words
            _check_choices(words, choice if isinstance(choice, list) else [choice], told,
                           is_free=experiments)  # fmt: skip


def _check_choices(words: Sequence[str], choices: Iterable[Any], told: str, is_free: bool) -> None:
    """Check a group, and what a file chooses from it."""
    if any(word in OF_A_SWEEP for word in words) and not _allows("hydra"):
        raise _refused(told, "/".join(filter(None, words)), "which only you may set", "hydra")
    for choice in choices:
        if not is_free and isinstance(choice, str) and not re.fullmatch(r"[^/\\]*", choice):
            raise _refused(told, _shown(choice), "which is a path and no choice")


# Values


def _check(settings: Any, place: tuple[str, ...], told: str) -> None:
    left: list[tuple[Any, tuple[str, ...]]] = [(settings, place)]
    while left:
        part, here = left.pop()
        if isinstance(part, Mapping):
            left += [(value, (*here, *str(key).split("."))) for key, value in part.items()]
        elif isinstance(part, (list, tuple)):
            left += [(value, here) for value in part]
        elif part is not None:
            _check_value(part, here, told)


def _check_value(value: Any, place: tuple[str, ...], told: str) -> None:
    name = ".".join(place)
    if place and place[0].lstrip("+~") in OF_A_SWEEP and not _allows(place[0]):
        raise _refused(told, name, "which only you may set", place[0])
    if place and place[-1] == "_target_":
        _check_target(value, told)
    elif isinstance(value, str):
        if "${" in value:
            _check_interpolation(value, told)
        if place[-1:] == ("_args_",):
            why = "which is a text without the name of its setting"
            raise _refused(told, f"{name}: {_shown(value)}", why)
        if not _is_written_inside(value, place) and not _allows(name):
            why = "which is outside of the run's folder"
            raise _refused(told, f"{name}={_shown(value)}", why, name)


def _allows(name: str) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in _allowed.get())


def _refused(told: str, what: str, why: str, entry: str | None = None) -> ForeignError:
    ways = "a file in ./conf may, and so may what you type"
    if entry is not None and entry != SETTING:
        ways = f"type {SETTING}=[{entry}] if you know the file, or put it into ./conf"
    return ForeignError(f"{told} says {what}, {why}; {ways}.", entry)


def _shown(text: str) -> str:
    """The beginning of a text, harmless to a terminal."""
    from discern.console import for_terminal  # rich, for who has something to be told

    return for_terminal(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _is_written_inside(text: str, place: tuple[str, ...]) -> bool:
    """Whether a text, where it says where something is written, says a place in the run's folder.

    A path that is relative to the working directory says none: ``./conf`` is in that.
    """
    name, is_of_logger = f".{'.'.join(place)}", place[:1] == ("logger",)
    if name.endswith(WRITTEN_TO) and (is_of_logger or not name.endswith(".path")):
        return not text or (text.startswith("${folder}") and _stays(text))
    is_part = is_of_logger and ("${" not in text or place[-1] in OF_LOGGERS)
    return not (is_part or name.endswith(NAMED)) or _stays(text)


def _stays(path: str) -> bool:
    inside = re.sub(r"^\$\{folder\}(/|$)", "", path)
    parts = re.split(r"[/\\]", inside)
    return not (
        "${" in inside
        or inside.startswith(("/", "~", "\\"))
        or ".." in parts
        or re.search(r":[:/\\]", inside)
    )


def _check_interpolation(text: str, told: str) -> None:
    if len(text) > MAX_INTERPOLATION_LENGTH:
        raise _refused(told, _shown(text), "which is too long for an interpolation")
    try:
        left: list[Any] = [grammar_parser.parse(text)]
    except (GrammarParseError, RecursionError) as error:
        raise _refused(told, _shown(text), "which is no interpolation") from error
    while left:
        node = left.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            resolver: Any = node  # ANTLR has no types
            name = resolver.resolverName().getText()
            if name not in RESOLVERS and not _allows(name):
                raise _refused(told, f"${{{name}:…}}", "which reads or computes something", name)
        left += [part for part in node.getChildren() if hasattr(part, "getChildren")]


# Targets


def _check_target(target: Any, told: str) -> None:
    if isinstance(target, str) and _allows(target):
        return
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", target):
        raise _refused(told, f"_target_: {_shown(str(target))}", "which is no name of a class")
    if _is_nowhere(target.partition(".")[0]):  # which building it tells better
        return
    if target not in _chosen() and not _is_harmless(target):
        raise _refused(
            told, f"_target_: {target}", "which is no class that a file given by path may name",
            target,
        )  # fmt: skip


def _is_nowhere(package: str) -> bool:
    """Whether there is no module of that name, neither installed nor where the command started."""
    here = started_in()
    is_here = any(here.glob(f"{package}.*")) or (here / package).exists()
    return not is_here and package not in sys.modules and importlib.util.find_spec(package) is None


def _chosen() -> set[str]:
    """The classes and functions that discern's choices and the user's own name."""
    own = user_conf_dir()
    return _named(conf_dir()) | (set() if own is None else _named.__wrapped__(own))


@functools.cache
def _named(folder: Path) -> set[str]:
    files = [path for path in (*folder.glob("*.yaml"), *folder.glob("*/*.yaml")) if path.is_file()]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return {name for text in texts for name in re.findall(r"_target_: *['\"]?([\w.]+)", text)}


def _is_harmless(target: str) -> bool:
    """Whether it is a class of a kind that runs are made of, of a library or beside ``./conf``."""
    if "." not in target or any(part.startswith("_") for part in target.split(".")):
        return False
    package, own = target.partition(".")[0], _is_beside(target)
    if package not in LIBRARIES and not own:
        return False
    if own:
        make_importable(target)
    from hydra._internal.utils import _locate  # finds what Hydra builds, no more

    try:
        found = _locate(target)
    except Exception:  # there is none, which building it tells better
        return target.startswith(HOMES)
    if not inspect.isclass(found):
        return False
    home = f"{found.__module__}."
    if not home.startswith(HOMES) and not (own and home.startswith(f"{package}.")):
        return False
    return home.startswith(PLAIN_CLASSES) or issubclass(found, _kinds(package))


def _is_beside(target: str) -> bool:
    """Whether a module where the command was started defines a class of that name.

    A script that does not is not imported, which would run it.
    """
    *module, name = target.split(".")
    here = started_in()
    spec = importlib.util.find_spec(module[0]) if module[0] not in LIBRARIES else None
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    if any(place and not Path(place).resolve().is_relative_to(here.resolve()) for place in places):
        return False
    base = here.joinpath(*module)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            return (
                re.search(rf"^\s*(class|from|import)\b.*\b{name}\b", text, re.MULTILINE) is not None
            )
    return False


def _kinds(package: str) -> tuple[type, ...]:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.precision import Precision
    from lightning.pytorch import Callback, LightningDataModule
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset, Sampler

    kinds: tuple[type, ...] = (
        nn.Module, Optimizer, LRScheduler, Callback, Logger, Profiler, Strategy, Precision,
        ClusterEnvironment, LightningDataModule, Dataset, Sampler,
    )  # fmt: skip
    if package == "optuna":
        from optuna.pruners import BasePruner
        from optuna.samplers import BaseSampler

        kinds = (BasePruner, BaseSampler)
    return kinds
