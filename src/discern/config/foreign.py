"""The limits on settings files that are given by a path: they may be a stranger's.

What is typed, and what is in ``./conf``, is the user's own. Other files, and the overrides in the
folder of a resumed sweep, may choose among parts of discern and of the libraries it is made of.
They may not start a program, read an environment variable, or write outside of the run's folder.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
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
from discern.files.places import is_file, is_folder, started_in
from discern.text import visible

SETTING = "allow_targets"
"""The setting that lifts these limits; only what is typed counts."""

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
"""Modules of theirs whose classes neither open, load nor execute their arguments."""

PLAIN_CLASSES = "torchvision.transforms."
"""A module whose classes have no base in common."""

OF_A_SWEEP = ("hydra", "sweep", SETTING)
"""Settings of the process, not of the model that is trained."""

RESOLVERS = ("hydra", "now", "oc.dict.keys", "oc.dict.values", "oc.select")
"""Resolvers that compute nothing from a text and read no environment variable."""

WRITTEN_TO = (
    ".cache.dir", ".default_root_dir", ".dirpath", ".log_dir", ".path", ".root_dir", ".save_dir",
)  # fmt: skip
"""Suffixes of settings that name a folder to write to."""

NAMED = (".filename", ".folder")
"""Suffixes of settings that are joined to such a folder."""

DOWNLOADED = ("data.sha256", "data.url")
"""Settings that say what is downloaded and unpacked, into a folder of the file's."""

OF_LOGGERS = ("artifact_location", "name", "sub_dir", "tracking_uri", "version")
"""Settings of loggers that are a path or a part of one; an interpolation is refused."""

MAX_SHOWN = 100
"""Characters of a text that a message shows."""

MAX_INTERPOLATION_LENGTH = 2000
"""Characters of a text with an interpolation: OmegaConf's parser is slow."""

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allowing(entries: Iterable[str]) -> Iterator[None]:
    """Allow the files that are read in this block what entries of ``allow_targets`` allow."""
    token = _allowed.set(tuple(entries))
    try:
        yield
    finally:
        _allowed.reset(token)


class ForeignError(DiscernError):
    """A file says what only the user may say.

    Attributes:
        entry: the entry of ``allow_targets`` that allows it; None where none does.
    """

    def __init__(self, message: str, entry: str | None) -> None:
        super().__init__(message)
        self.entry = entry


def to_be_allowed(settings: object) -> list[str]:
    """The entries of ``allow_targets`` that are typed, and those that the settings also need."""
    entries = list(_allowed.get())
    while True:
        try:
            with allowing(entries):
                check_file(settings, "", "_global_")
            return entries
        except ForeignError as error:
            if error.entry is None or error.entry in entries:
                return entries
            entries.append(error.entry)


def allowed_by(overrides: Iterable[str]) -> tuple[str, ...]:
    """The entries of ``allow_targets`` among overrides."""
    for override in overrides:
        if override.lstrip("+").partition("=")[0] == SETTING:
            typed = parsed(override)
            value = None if typed is None or typed.is_sweep_override() else typed.value()
            return tuple(map(str, value)) if isinstance(value, list) else ()
    return ()


def is_own(path: Path) -> bool:
    """Whether a file stands among discern's choices or in the user's ``./conf``."""
    places = [conf_dir(), user_conf_dir()]
    real = path.resolve()
    return any(place and real.is_relative_to(place.resolve()) for place in places)


# Files


def check_file(settings: object, source: str, package: str | None = None, group: str = "") -> None:
    """Check the settings in a file.

    Args:
        settings: plain values, with their interpolations as texts.
        source: the file, as the beginning of a message.
        package: the package in its header; None where it has none.
        group: of which it is a choice; empty for none.

    Raises:
        DiscernError: it says what only the user may say.
    """
    place = [] if package == "_global_" else re.split(r"[./]", package or group)
    if isinstance(settings, Mapping):
        _check_defaults(settings.get("defaults"), source)
    _check(settings, tuple(part for part in place if part and part != "_global_"), source)


def check_overrides(overrides: Iterable[str], typed: Iterable[str], source: str) -> None:
    """Check overrides in the folder of a sweep.

    Args:
        overrides: as ``key=value``, of several values too.
        typed: those that the user has typed again, which are the user's own.
        source: the file, as the beginning of a message.

    Raises:
        DiscernError: one says what only the user may say.
    """
    own = set(typed)
    for override in dict.fromkeys(overrides):
        if override not in own and not _HARMLESS.fullmatch(override):
            _check_override(override, source)


_HARMLESS = re.compile(
    r"(?!.*\.\.)\+?(?!hydra|sweep|allow_targets|logger)[a-z_]+(\.[a-z_]*[a-z])*(?<!dir|ath|url)=[\w+.-]*",
    re.ASCII,
)
"""A setting and a number or a word, as most overrides are: to parse one takes a millisecond."""


def _check_override(override: str, source: str) -> None:
    found = parsed(override)
    if found is None or found.package is not None:
        raise _refused(source, _shown(override), "which is not a setting of a model")
    key = found.key_or_group
    place = tuple(re.split(r"[./]", key))
    if place[0] in OF_A_SWEEP and not _allows(place[0]):
        raise _refused(source, key, "which only you may set", place[0])
    values: Sequence[object] = [found.value()]
    if found.is_sweep_override():
        # An interval, a range, or a pattern of choices lists no values.
        values = [found._convert_value(value) for value in getattr(values[0], "list", [])]
    if "/" in key or is_folder(conf_dir() / key):
        # A choice, or the path of an experiment, whose file is checked when it is read.
        _check_choices(place, values, source, is_free=key == "experiment")
    for value in values:
        _check(value, place, source)


def _check_defaults(defaults: object, source: str) -> None:
    for entry in defaults if isinstance(defaults, Sequence) else ():
        items = entry.items() if isinstance(entry, Mapping) else [(str(entry), None)]
        for group, choice in items:
            words = re.split(r"[ ./@:]", str(group))
            chosen = choice if isinstance(choice, list) else [choice]
            _check_choices(words, chosen, source, is_free="experiment" in words)


def _check_choices(
    words: Sequence[str], choices: Iterable[object], source: str, is_free: bool
) -> None:
    """Check a group, and what a file chooses from it; ``is_free``: also paths."""
    if any(word in OF_A_SWEEP for word in words) and not _allows("hydra"):
        raise _refused(source, "/".join(filter(None, words)), "which only you may set", "hydra")
    for choice in choices:
        if not is_free and isinstance(choice, str) and not re.fullmatch(r"[^/\\]*", choice):
            raise _refused(source, _shown(choice), "which is a path, not a choice")


# Values


def _check(settings: object, place: tuple[str, ...], source: str) -> None:
    left: list[tuple[object, tuple[str, ...]]] = [(settings, place)]
    while left:
        part, here = left.pop()
        if isinstance(part, Mapping):
            left += [(value, (*here, *str(key).split("."))) for key, value in part.items()]
        elif isinstance(part, (list, tuple)):
            left += [(value, here) for value in part]
        elif part is not None:
            _check_value(part, here, source)


def _check_value(value: object, place: tuple[str, ...], source: str) -> None:
    name = ".".join(place)
    if place and place[0].lstrip("+~") in OF_A_SWEEP and not _allows(place[0]):
        raise _refused(source, name, "which only you may set", place[0])
    if name.lstrip("+~") in DOWNLOADED and not _allows(name):
        raise _refused(source, name, "which only you may set", name)
    if place and place[-1] == "_target_":
        _check_target(value, source)
    elif isinstance(value, str):
        if "${" in value:
            _check_interpolation(value, source)
        if place[-1:] == ("_args_",):
            why = "which is a text without the name of its setting"
            raise _refused(source, f"{name}: {_shown(value)}", why)
        if not _is_written_inside(value, place) and not _allows(name):
            why = "which is outside of the run's folder"
            raise _refused(source, f"{name}={_shown(value)}", why, name)


def _allows(name: str) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in _allowed.get())


def _refused(source: str, what: str, why: str, entry: str | None = None) -> ForeignError:
    ways = "a file in ./conf may, and so may what you type"
    if entry is not None and entry != SETTING:
        ways = f"type {SETTING}=[{entry}] if you know the file, or put it into ./conf"
    return ForeignError(f"{source} says {what}, {why}; {ways}.", entry)


def _shown(text: str) -> str:
    return visible(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def _is_written_inside(text: str, place: tuple[str, ...]) -> bool:
    """Whether a setting that says where something is written stays in the run's folder.

    A path relative to the working directory does not: ``./conf`` is in that.
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


def _check_interpolation(text: str, source: str) -> None:
    if len(text) > MAX_INTERPOLATION_LENGTH:
        raise _refused(source, _shown(text), "which is too long for an interpolation")
    try:
        left: list[Any] = [grammar_parser.parse(text)]
    except (GrammarParseError, RecursionError) as error:
        raise _refused(source, _shown(text), "which is not an interpolation") from error
    while left:
        node = left.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            resolver: Any = node  # ANTLR has no types
            name = resolver.resolverName().getText()
            if name not in RESOLVERS and not _allows(name):
                raise _refused(source, f"${{{name}:…}}", "which reads or computes something", name)
        left += [part for part in node.getChildren() if hasattr(part, "getChildren")]


# Targets


def _check_target(target: object, source: str) -> None:
    if isinstance(target, str) and _allows(target):
        return
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", target):
        raise _refused(source, f"_target_: {_shown(str(target))}", "which is not a class's name")
    if target not in _chosen() and not _is_harmless(target):
        raise _refused(
            source, f"_target_: {target}", "which is not a class that a file given by path may use",
            target,
        )  # fmt: skip


def _chosen() -> set[str]:
    """The classes and functions that are named in discern's choices and in ``./conf``."""
    own = user_conf_dir()
    return _named(conf_dir()) | (set() if own is None else _named.__wrapped__(own))


@functools.cache
def _named(folder: Path) -> set[str]:
    files = [path for path in (*folder.glob("*.yaml"), *folder.glob("*/*.yaml")) if is_file(path)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return {name for text in texts for name in re.findall(r"_target_: *['\"]?([\w.]+)", text)}


def _is_harmless(target: str) -> bool:
    """Whether it is a class such as runs are made of, in a library or beside ``./conf``."""
    if "." not in target or any(part.startswith("_") for part in target.split(".")):
        return False
    package, own = target.partition(".")[0], _is_beside(target)
    if package not in LIBRARIES and not own:
        return False
    if own:
        make_importable(target)
    from hydra._internal.utils import _locate  # finds what Hydra would build

    try:
        found = _locate(target)
    except Exception:  # building it gives a better message
        return target.startswith(HOMES)
    if not inspect.isclass(found):
        return False
    home = f"{found.__module__}."
    if not home.startswith(HOMES) and not (own and home.startswith(f"{package}.")):
        return False
    return home.startswith(PLAIN_CLASSES) or issubclass(found, _kinds(package))


def _is_beside(target: str) -> bool:
    """Whether a file in the working directory is a module that defines a class of that name.

    No module of a folder in it: a stranger's pictures or runs may lie there. The source is
    searched, since importing a script would run it.
    """
    module, _, name = target.rpartition(".")
    if "." in module or module in LIBRARIES:
        return False
    path, spec = started_in() / f"{module}.py", importlib.util.find_spec(module)
    is_other = spec is not None and Path(spec.origin or "").resolve() != path.resolve()
    if is_other or is_folder(started_in() / module) or not is_file(path):
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return bool(re.search(rf"^\s*(class|from|import)\b.*\b{name}\b", text, re.MULTILINE))


def _kinds(package: str) -> tuple[type, ...]:
    if package == "optuna":
        from optuna.pruners import BasePruner
        from optuna.samplers import BaseSampler

        return BasePruner, BaseSampler
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

    return (
        nn.Module, Optimizer, LRScheduler, Callback, Logger, Profiler, Strategy, Precision,
        ClusterEnvironment, LightningDataModule, Dataset, Sampler,
    )  # fmt: skip
