"""Names near a mistyped one, for error messages."""

import difflib
from collections.abc import Iterable

FEW = 12
"""So many names are all shown beside the closest."""


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``wrong``, if any is."""
    return next(iter(difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.6)), None)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """'did you mean NAME?' for the closest known name, and the list of names unless it is long."""
    names = sorted(known)
    close = closest(wrong, names)
    if close is None:
        return f"there are {', '.join(names)}."
    choice = f" (there are {', '.join(names)})" if 1 < len(names) <= FEW else ""
    return f"did you mean {close}{choice}?"
