"""Self-contained HTML pages: no network, no server, no other file.

Templates escape all text. A content security policy (CSP) in the page's head forbids connections
and allows only discern's own scripts, so that nothing in a name can run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from markupsafe import Markup

from discern.files.writing import write_whole
from discern.text import printable
from discern.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

PAGES = Path(__file__).parent / "pages"

SCRIPTS = ("echarts.min.js", "page.js", "matrix.js")


def write_page(
    template: str, path: Path, *, title: str, kind: str, data: Mapping[str, object], **shown: object
) -> None:
    """Write a page.

    Args:
        template: its file in ``pages``.
        path: the HTML file.
        title: its heading.
        kind: the kind of page, in a few words.
        data: plain values for the page's script: ``charts``, a mapping of chart's id -> chart, and
            what the template's own parts need.
        shown: the template's other variables.
    """
    text = render(
        template,
        title=title,
        kind=kind,
        version=__version__,
        folder=printable(path.parent.resolve()),
        folder_name=path.parent.resolve().name,
        policy=_policy(),
        library=asset("echarts.min.js"),
        script=asset("page.js"),
        matrix_script=asset("matrix.js"),
        style=asset("style.css"),
        data=as_json(data),
        **shown,
    )
    with write_whole(path, "wb") as file:
        # A name that is not UTF-8 has lone surrogates.
        file.write(text.encode("utf-8", "backslashreplace"))


def render(template: str, **shown: object) -> str:
    """A template's HTML."""
    return _environment().get_template(template).render(**shown)


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
def asset(name: str) -> Markup:
    """A style sheet or a script of ``pages``, to be put into a page."""
    text = (PAGES / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower()
    return Markup(text)


@functools.cache
def _policy() -> str:
    scripts = " ".join(source_of(asset(name)) for name in SCRIPTS)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def source_of(text: str) -> str:
    """What a policy calls a script or style sheet that it allows by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_json(data: object) -> Markup:
    """Plain values as JSON that is safe in a script element; numbers not finite become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _finite(value: object) -> object:
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
    """Seconds for people: 3 min 20 s."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Bytes for people: 3.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


class Tile(TypedDict):
    """A large number at the top of a page, with a line of small text below it."""

    name: str
    value: str
    detail: str


def tile(name: str, value: str, detail: str) -> Tile:
    """A tile."""
    return {"name": name, "value": value, "detail": detail}


def data_url(picture: bytes) -> str:
    """A PNG or JPEG file as a data URL."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def cell(value: float | None, text: str) -> dict[str, str]:
    """A table's cell that shows a text and sorts by a number; a cell without one sorts last."""
    known = value is not None and math.isfinite(value)
    return {"value": f"{value:.10g}" if known else "", "shown": text}
