"""Pages of HTML that need nothing but themselves: no network, no server, no other file.

Templates escape whatever they are given. A policy in the page's head (CSP) forbids every connection
and every script but those two that discern puts there, so that nothing in a name can run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from discern.files.writing import write_whole
from discern.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

PAGES = Path(__file__).parent / "pages"


def write_page(
    template: str, path: Path, *, title: str, kind: str, data: Mapping[str, Any], **shown: Any
) -> None:
    """Write a page.

    Args:
        template: its file in ``pages``.
        path: the HTML file.
        title: its heading.
        kind: what it is a page of, in a word or two.
        data: for the page's script: ``charts``, a mapping of chart's id -> what it shows, and what
            the template's own parts need; plain values.
        shown: what the template shows besides.
    """
    library, script, style = _asset("echarts.min.js"), _asset("page.js"), _asset("style.css")
    text = (
        _environment()
        .get_template(template)
        .render(
            title=title,
            kind=kind,
            version=version("discern"),
            folder=printable(path.parent.resolve()),
            policy=_policy(),
            library=library,
            script=script,
            style=style,
            data=as_json(data),
            **shown,
        )
    )
    with write_whole(path, "wb") as file:
        # A name that is no UTF-8 has lone surrogates.
        file.write(text.encode("utf-8", "backslashreplace"))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # start-up time

    environment = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, duration=duration, size=size)
    return environment


@functools.cache
def _asset(name: str) -> Markup:
    text = (PAGES / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower()
    return Markup(text)


@functools.cache
def _policy() -> str:
    scripts = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()}'"
        for name in ("echarts.min.js", "page.js")
    )
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def as_json(data: Any) -> Markup:
    """Plain values as JSON that may stand in a script element; what is no number is null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        # Seven digits, which is what a float32 has.
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def percent(share: float | None, digits: int = 2) -> str:
    """0.9544 -> 95.44 %."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def cell(value: float | None, text: str) -> dict[str, Any]:
    """A table's cell that is sorted by a number and shows a text; last where there is none."""
    known = value is not None and math.isfinite(value)
    return {"value": f"{value:.10g}" if known else "", "shown": text}
