"""What the jobs of a sweep are called: by what they differ in, as in ``lr=0.001,dropout=0.2``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

LONGEST = 100
"""Characters of a name; file systems allow 255 bytes."""

DIGITS = 8
"""Characters of a value up to which it is written as it is."""

Overrides = Mapping[str, str]
"""Setting -> value, as it was typed."""


def differing(jobs: Sequence[Overrides]) -> list[str]:
    """The settings that jobs differ in, in the order in which they were typed."""
    settings = dict.fromkeys(key for job in jobs for key in job)
    return [key for key in settings if len({job.get(key) for job in jobs}) > 1]


def job_name(overrides: Overrides, settings: Sequence[str]) -> str:
    """A name that is safe as a folder's, and another one for other values.

    Args:
        overrides: of the job.
        settings: those of them that tell it from other jobs.
    """
    exact = {key: overrides.get(key, "") for key in settings}
    short = _short(settings)
    plain = ",".join(f"{short[key]}={value}" for key, value in exact.items()) or "job"
    told = {key: short_number(value) for key, value in exact.items()}
    name = (
        ",".join(f"{_safe(short[key], '')}={_safe(value, '-')}" for key, value in told.items())
        or "job"
    )
    if name == plain and len(name) <= LONGEST:
        return name
    # Two values may look the same once they are safe, or short enough.
    digest = hashlib.sha256(repr(sorted(exact.items())).encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9]}_{digest}"


def _short(settings: Sequence[str]) -> dict[str, str]:
    """A setting's last part, where no other setting ends in the same."""
    last = [key.rpartition(".")[2] for key in settings]
    return {
        key: end if last.count(end) == 1 else key for key, end in zip(settings, last, strict=True)
    }


def short_number(value: str) -> str:
    """A number that is no whole one, of many digits, with four of them; anything else as it is."""
    return value if len(value) <= DIGITS or not _FLOAT.fullmatch(value) else f"{float(value):.4g}"


_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


def _safe(text: str, instead: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._+-]+", instead, text)
    return text if safe == text else safe.strip(instead or None)
