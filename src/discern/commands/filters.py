"""Filters of runs, by state, model, data, tag or setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from discern.commands import words
from discern.console import for_terminal
from discern.errors import DiscernError, as_override, did_you_mean
from discern.files.places import expanded
from discern.files.walk import file_sizes
from discern.runs.folder import OUTPUTS, Run
from discern.runs.metric_table import metric_of
from discern.text import decoded

FILTERS = ("state", "model", "data", "tag")


def matches(run: Run, filters: Mapping[str, str]) -> bool:
    """Whether all filters hold for a run."""
    return all(_holds(run, name, value) for name, value in filters.items())


def _holds(run: Run, name: str, wanted: str) -> bool:
    if name == "state":
        return run.state.value == wanted
    if name == "tag":
        return any(fnmatchcase(tag, wanted) for tag in run.tags)
    if name in ("model", "data"):
        shown = run.model if name == "model" else run.data
        return _alike(shown, wanted) or any(
            _alike(typed.partition("=")[2], wanted)
            for typed in run.overrides
            if typed.partition("=")[0] == name
        )
    found, value = setting(run.config, name)
    if not found:
        return False
    # start-up time: pydantic
    from discern.config.check import as_typed_settings

    if name in as_typed_settings():
        wanted = str(expanded(wanted))
    text, pattern = as_override(value).casefold(), wanted.casefold()
    # A path may contain brackets without being a pattern.
    return text == pattern or _as_number(text, pattern) or fnmatchcase(text, pattern)


def setting(config: Mapping[str, object], name: str) -> tuple[bool, object]:
    """Whether a config has a setting, by its dotted name, and its value."""
    part: object = config
    for key in name.split("."):
        if not isinstance(part, Mapping) or key not in part:
            return False, None
        part = part[key]
    return True, part


def _alike(text: str, wanted: str) -> bool:
    """Whether two names match up to case and punctuation: Fashion-MNIST and fashion_mnist."""
    plain, pattern = (
        "".join(letter for letter in each.casefold() if letter.isalnum() or letter in "*?")
        for each in (text, wanted)
    )
    return bool(pattern) and fnmatchcase(plain, pattern)


def _as_number(text: str, wanted: str) -> bool:
    try:
        return float(text) == float(wanted)
    except ValueError:
        return False


def check_filters(runs: Sequence[Run], filters: Mapping[str, str]) -> None:
    """Raise DiscernError for a setting that no run has; it may be mistyped."""
    for name in filters:
        if name not in FILTERS and not any(setting(run.config, name)[0] for run in runs):
            raise DiscernError(
                f"{for_terminal(name)} is not a setting of any of the {len(runs):,} runs."
            )


def check_metric(word: str, name: str, runs: Sequence[Run], others: Iterable[str]) -> None:
    """Raise DiscernError unless it is one of ``others``, or a metric that a run has."""
    known = [*sorted({metric for run in runs for metric in run.metrics()}), *others]
    if name not in known and runs:
        raise DiscernError(f"{word}={for_terminal(name)} is unknown; {did_you_mean(name, known)}")


def better_first(name: str, value: float | None) -> float:
    """A sort key for values of a metric: the best first, None last."""
    if value is None:
        return float("inf")
    return value if metric_of(name).mode == "min" else -value


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    return sum(file_sizes(folder))


def name_in(folder: Path, outputs: Path) -> str:
    """A folder relative to that of all runs, safe for a terminal."""
    shown = folder.name if folder == outputs else decoded(folder.relative_to(outputs))
    return for_terminal(shown)


@dataclass(frozen=True)
class Chosen:
    """A selection of runs.

    Attributes:
        dir: the folder of the runs.
        filters: name -> value.
    """

    dir: words.Folder = OUTPUTS
    filters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing(Chosen):
    """Settings of ``discern runs``; None for those not typed."""

    sort: Annotated[str | None, words.text] = None
    limit: Annotated[int | None, words.count] = None
    json: bool = False


@dataclass(frozen=True)
class Pruning(Chosen):
    """Settings of ``discern runs prune``."""

    keep: Annotated[int | None, words.count] = None
    by: Annotated[str | None, words.text] = None
    yes: Annotated[bool, words.switch] = False
