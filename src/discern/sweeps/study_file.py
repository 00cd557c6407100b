"""Check of ``study.db`` in a sweep's folder, which may come from a stranger."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from discern.errors import DiscernError
from discern.files.reading import is_regular
from discern.text import printable

MOST_BYTES = 1 << 29
"""Maximum size of a study: some 100,000 trials."""

_COMPUTED = re.compile(r"\b(virtual|generated|as|check|default)\b\s*\(?", re.IGNORECASE)


def check_study(path: Path) -> None:
    """Check that a database holds tables of plain values and nothing that SQLite would execute.

    Raises:
        DiscernError: it is not a database, or has a trigger, a view or a computed column.
    """
    if not os.path.lexists(path):
        return
    if not is_regular(path, path.parent) or path.stat().st_size > MOST_BYTES:
        raise DiscernError(f"{printable(path)} is not a file of at most {MOST_BYTES:,} bytes.")
    import sqlite3  # search.py, which every help page loads, imports this module

    try:
        address = f"file:{quote(os.fsencode(path))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as database:
            found = database.execute("SELECT type, sql FROM sqlite_schema LIMIT 1000").fetchall()
    except sqlite3.Error as error:
        raise DiscernError(f"{printable(path)} is not a database of a study: {error}.") from error
    for kind, sql in found:
        if kind not in ("table", "index") or _COMPUTED.search(_without_names(str(sql or ""))):
            raise DiscernError(
                f"{printable(path)} is not a database of a study: it has a {kind} that computes."
            )


def _without_names(sql: str) -> str:
    sql = sql.replace("CHECK (version_info_id=1)", "")  # of Optuna's own
    return re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`|\[[^\]]*\]", "", sql)
