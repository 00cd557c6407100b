"""Write docs/images/badges.svg, the facts in the README's first line: ``make settings``.

A picture in the repository: it asks no other site, and a test holds it against pyproject.toml.
"""

import tomllib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent / "images" / "badges.svg"
PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

CHARACTER, PADDING, GAP, HEIGHT = 6.7, 7, 6, 20
"""Pixels: width of a character, space beside a text, between two badges, height."""


def facts(project: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values, of pyproject.toml's table ``project``."""
    return [
        ("python", project["requires-python"].replace(">=", "≥ ")),
        ("licence", project["license"].partition(" AND ")[0]),
        ("types", "py.typed"),
        ("tested on", "Linux"),
    ]


def picture() -> str:
    """All badges as one SVG."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    parts, left = [], 0.0
    for name, value in facts(project):
        for text, colour in ((name, "#4a4a4a"), (value, "#1f6f9f")):
            width = round(len(text) * CHARACTER + 2 * PADDING, 1)
            parts.append(
                f'<rect x="{left:g}" width="{width:g}" height="{HEIGHT}" fill="{colour}"/>'
                f'<text x="{left + width / 2:g}" y="14">{escape(text)}</text>'
            )
            left = round(left + width, 1)
        left = round(left + GAP, 1)
    style = 'fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif"'
    size = f'width="{left - GAP:g}" height="{HEIGHT}"'
    drawn = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f'<g {style} font-size="11">\n{drawn}\n</g>\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
