"""Names of a sweep's jobs, by the settings that they differ in: ``lr=0.001,dropout=0.2``."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

LONGEST = 100
"""Maximum length of a name, in characters; file systems allow 255 bytes."""

DIGITS = 8
"""Maximum length of a number that is written as typed, in characters."""

Overrides = Mapping[str, str]
"""Setting -> value, as it was typed."""


def differing(jobs: Sequence[Overrides]) -> list[str]:
    """The settings that jobs differ in, in the order in which they were typed."""
    settings = dict.fromkeys(key for job in jobs for key in job)
    return [key for key in settings if len({job.get(key) for job in jobs}) > 1]


def job_name(overrides: Overrides, settings: Sequence[str]) -> str:
    """A folder name for a job, unique to its values.

    Args:
        overrides: the job's settings.
        settings: those that tell it from other jobs.
    """
    exact = {key: overrides.get(key, "") for key in settings}
    short = dict(zip(settings, short_names(settings), strict=True))
    plain = ",".join(f"{short[key]}={value}" for key, value in exact.items()) or "job"
    rounded = {key: short_number(value) for key, value in exact.items()}
    name = (
        ",".join(f"{_safe(short[key], '')}={_safe(value, '-')}" for key, value in rounded.items())
        or "job"
    )
    if name == plain and len(name) <= LONGEST:
        return name
    # Two values may look the same once they are cleaned or shortened.
    digest = hashlib.sha256(repr(sorted(exact.items())).encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9]}_{digest}"


def short_names(names: Sequence[str]) -> list[str]:
    """The shortest ends that tell the names apart: ``lr`` for ``optimizer.lr``."""

    def ends(name: str) -> list[str]:
        parts = name.split(".")
        return [".".join(parts[first:]) for first in reversed(range(len(parts)))]

    taken = Counter(end for name in dict.fromkeys(names) for end in ends(name))
    return [next((end for end in ends(name) if taken[end] == 1), name) for name in names]


def short_number(value: str) -> str:
    """A long fraction rounded to four digits; anything else as typed."""
    return value if len(value) <= DIGITS or not _FLOAT.fullmatch(value) else f"{float(value):.4g}"


_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


def _safe(text: str, instead: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._+-]+", instead, text)
    return text if safe == text else safe.strip(instead or None)
