"""``discern runs``: list the runs in ``outputs``, or prune all but the best."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from discern.commands import words
from discern.commands.filters import (
    FILTERS,
    Chosen,
    Listing,
    Pruning,
    check_filters,
    check_metric,
    matches,
    name_in,
    size_of,
)
from discern.console import for_terminal, say
from discern.errors import DiscernError, did_you_mean
from discern.reports.page import duration, size
from discern.runs.folder import Run, glance, order_of_beginning, runs_below
from discern.runs.metric_table import LISTED, metric_of
from discern.runs.state import STANDINGS, State
from discern.tables import line_width, table
from discern.text import decoded, printable

HELP = """\
List the runs in outputs, newest first, or delete all but the best.

Usage: discern runs [FILTER=VALUE] … [sort=NAME] [limit=N] [dir=FOLDER] [--json]
       discern runs prune keep=N [by=METRIC] [FILTER=VALUE] … [dir=FOLDER] [yes=true]

Filters, which must all match; * matches anything:
  state=done           done, pruned, diverged, failed, interrupted, unfinished, unknown
  model=mlp  data=mnist  tag=baseline
  optimizer.lr=0.001   any setting of a run's config.yaml

  sort=NAME   began (newest first), seconds, size, name, state, model, data, or a metric such as
              val/accuracy, best first; sort=-NAME reverses the order
  limit=N     the first N (20; --json: all); 0 for all
  dir=FOLDER  the folder of the runs (outputs)
  --json      the list as JSON, for programs

prune shows what it would delete, and asks: all but the best N by a metric of val or train
(by=val/loss), or with by=began all but the newest. A sweep is kept or deleted as a whole, and only
deleted if all of its jobs match the filters. Runs that may still be running stay. yes=true does not
ask.
"""

T = TypeVar("T", bound=Chosen)

LIMIT = 20
"""The default number of runs in a table."""


PROPERTIES: dict[str, Callable[[Listed], float | str | None]] = {
    "began": lambda one: order_of_beginning(one.run)[0],
    "seconds": lambda one: one.run.seconds,
    "size": lambda one: one.size,
    "name": lambda one: one.name,
    "state": lambda one: one.run.state.value,
    "model": lambda one: one.run.model,
    "data": lambda one: one.run.data,
}
"""Properties besides metrics that runs can be sorted by."""

DISPENSABLE = ("tags", "size", "time", "began", "data", "model", *reversed(LISTED[1:]))
"""Columns that a narrow terminal does without, in the order in which it does."""

LARGEST_FIRST = ("began", "seconds", "size")


@dataclass(frozen=True)
class Listed:
    """A run in a list.

    Attributes:
        run: the run.
        name: its folder, relative to that of all runs.
        size: bytes of the files in it.
    """

    run: Run
    name: str
    size: int


def run(arguments: list[str]) -> None:
    """Run ``discern runs`` with these arguments.

    Raises:
        DiscernError: a word is not known, or a folder cannot be used.
    """
    shape: type[Listing | Pruning] = Pruning if arguments[:1] == ["prune"] else Listing
    asked = _read(shape, arguments[shape is Pruning :])
    try:
        if isinstance(asked, Pruning):
            from discern.commands.prune import prune

            prune(asked)
        else:
            _list(asked)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = printable(Path(error.filename or asked.dir))
        raise DiscernError(f"{where} cannot be used: {error.strerror}.") from error


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern runs``."""
    *before, begun = typed.split(" ")
    if begun.startswith("state="):
        return words.starting(begun, (), *(f"state={state.value}" for state in STANDINGS))
    prunes = before[:1] == ["prune"]
    names = [*words.settings_of(Pruning if prunes else Listing), *FILTERS]
    first = [] if before else ["prune"]
    return words.starting(begun, names, *([] if prunes else ["--json", *first]))


# The words


def _read(shape: type[T], typed: Iterable[str]) -> T:
    settings, others = words.read(shape, typed)
    known = [*words.settings_of(shape), *FILTERS]
    filters: dict[str, str] = {}
    for word in others:
        name, equals, value = word.partition("=")
        if word == "--json" and isinstance(settings, Listing):
            settings = replace(settings, json=True)
        elif equals and (name in FILTERS or "." in name):
            filters[name] = _state(value) if name == "state" else value
        else:
            error = words.unknown(word, "discern runs", known)
            more = ", or a run's setting, such as optimizer.lr=0.001." if equals else ""
            raise DiscernError(f"{str(error).rstrip('.')}{more}" if more else error)
    return replace(settings, filters=filters)


def _state(value: str) -> str:
    known = [state.value for state in STANDINGS]
    if value not in known:
        raise DiscernError(
            f"state={for_terminal(value)} is not a state; {did_you_mean(value, known)}"
        )
    return value


# Finding, filtering, sorting


def _sorted(found: Sequence[Listed], wanted: str) -> list[Listed]:
    name = wanted.removeprefix("-")
    newest = sorted(found, key=lambda one: order_of_beginning(one.run), reverse=True)
    pick: Callable[[Listed], float | str | None] = PROPERTIES.get(
        name, lambda one: one.run.metrics().get(name)
    )
    sign = 1 if name in PROPERTIES or metric_of(name).mode == "min" else -1
    down = (name in LARGEST_FIRST) != wanted.startswith("-")
    keys = [(value, one) for one in newest if (value := pick(one)) is not None]
    ordered = sorted(keys, key=lambda key: key[0] if isinstance(key[0], str) else sign * key[0],
                     reverse=down)  # fmt: skip
    # A run without a value stays at the end in either order.
    return [*(one for _, one in ordered), *(one for one in newest if pick(one) is None)]


def _list(asked: Listing) -> None:
    runs = list(map(glance, runs_below(asked.dir)))
    check_filters(runs, asked.filters)
    sort = asked.sort or "began"
    check_metric("sort", sort.removeprefix("-"), runs, PROPERTIES)
    found = [
        Listed(run, name_in(run.folder, asked.dir), size_of(run.folder))
        for run in runs
        if matches(run, asked.filters)
    ]
    limit = (0 if asked.json else LIMIT) if asked.limit is None else asked.limit
    ordered = _sorted(found, sort)
    shown = ordered[:limit] if limit else ordered
    if asked.json:
        say(_as_json([_facts(one) for one in shown]))
    else:
        _show(asked, shown, len(found), len(runs), sort.removeprefix("-"))


def _show(asked: Listing, shown: Sequence[Listed], found: int, runs: int, sort: str) -> None:
    where = for_terminal(decoded(asked.dir))
    if not shown:
        say(f"Runs in {where}: none" + (f" of {runs:,} that the filters let through" * (runs > 0)))
        return
    metrics = dict.fromkeys([*LISTED, *([] if sort in PROPERTIES else [sort])])
    header = ["run", "began", "state", "model", "data", *metrics, "time", "size", "tags"]
    rows = [_row(one, metrics) for one in shown]
    say(table(header, rows, width=line_width(), dispensable=DISPENSABLE))
    count = f"{len(shown):,} {'run' if len(shown) == 1 else 'runs'}"
    more = ""
    if len(shown) < found:
        count, more = f"{len(shown):,} of {found:,} runs", "; limit=0 shows all"
    through = "" if found == runs else f", where {runs:,} are without the filters"
    say(f"\n{count} in {where}{through}{more}")
    for one in shown:
        if one.run.state is State.UNKNOWN:
            say(for_terminal(one.run.reason))
    if sort not in PROPERTIES and sum(one.run.is_fold for one in shown) > 1:
        say(
            "Some are folds (data.folds) of one estimate, and none of these is the best: their "
            "sweep's report has mean and standard deviation."
        )


def _row(one: Listed, metrics: Iterable[str]) -> list[str]:
    run = one.run
    known = run.metrics()
    row = [
        one.name,
        "–" if run.began is None else f"{run.began:%Y-%m-%d %H:%M}",
        run.state.value,
        run.model or "–",
        run.data or "–",
        *(metric_of(name).text(known.get(name)) for name in metrics),
        duration(run.seconds),
        size(one.size),
        ", ".join(run.tags),
    ]
    return list(map(for_terminal, row))


# For programs


def _facts(one: Listed) -> dict[str, object]:
    run = one.run
    data = run.part("data")
    return {
        "folder": os.fspath(run.folder),
        "state": run.state.value,
        "reason": run.reason,
        "model": run.model,
        "data": run.data,
        "fingerprint": _plain(data.get("fingerprint")),
        "began": None if run.began is None else run.began.isoformat(timespec="seconds"),
        "seconds": run.seconds,
        "bytes": one.size,
        "epochs": _plain(run.facts.get("epochs")),
        "best_epoch": _plain(run.facts.get("best_epoch")),
        "metrics": run.metrics(),
        "tags": run.tags,
        "seed": _plain(run.facts.get("seed")),
        "overrides": run.overrides,
    }


def _plain(value: object) -> str | int | None:
    """A value from a summary if it is a text or a whole number."""
    return value if isinstance(value, (str, int)) else None


def _as_json(content: object) -> str:
    # ASCII: a name that is not UTF-8 has lone surrogates, and 127 is a control character.
    return json.dumps(content, indent=2).replace("\x7f", "\\u007f")
