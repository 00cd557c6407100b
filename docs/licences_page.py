"""Write docs/licences.md: the licence of each package in the lock, as the package says."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-build.lock")
PAGE = ROOT / "docs" / "licences.md"

ELSEWHERE = {
    "appnope": "BSD-2-Clause",
    "cffi": "MIT-0",
    "colorama": "BSD-3-Clause",
    "pycparser": "BSD-3-Clause",
    "httpx2-jsfetch": "not known; for Emscripten, on which PyTorch does not run",
    "pywin32": "PSF-2.0",
}
"""Licences of packages that other systems or versions of Python need, and this one lacks."""

SAID = {"cuda-toolkit": "NVIDIA Proprietary Software"}
"""Licences of packages whose metadata say none."""

NOTES = {"docutils": "copyleft in one part, an Emacs mode; it builds the pages and is not imported"}
"""What is to be known of single packages, in the place of what their licences' names tell."""

COPYLEFT = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|EUPL", re.IGNORECASE)
LIMITED = re.compile(r"NVIDIA|Proprietary", re.IGNORECASE)

HEADER = """\
# Licences

```
make licences
```

Of the packages in `requirements.lock` and `requirements-build.lock`, as they say themselves;
and the command writes this page. discern contains none of them and hands none on: `pip` brings them
from where their publishers put them. discern's own licence is Apache-2.0.

**weak copyleft**: changes of the package itself stay under its licence; who uses it as it is, as
discern does, has no duties for code of their own. **terms of their own**: NVIDIA's libraries, which
`torch` needs on a GPU, are used, and handed on, only as their licence says.

| Package | Version | Licence | |
| --- | --- | --- | --- |
"""


def locked() -> dict[str, list[str]]:
    """Name -> versions of the packages in the locks."""
    found: dict[str, list[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", (ROOT / lock).read_text()):
            found.setdefault(name, [])
            found[name] += [version] if version not in found[name] else []
    return dict(sorted(found.items()))


def licence(name: str) -> str:
    """The licence of an installed package, in its own words; of others from what is known."""
    if name in SAID:
        return SAID[name]
    try:
        told = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ELSEWHERE.get(name, "not known")
    if told["License-Expression"]:
        return told["License-Expression"]
    classifiers = told.get_all("Classifier") or []
    named = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    named = [each for each in named if each != "OSI Approved"]
    first = (told["License"] or "").strip().splitlines()[:1]
    if named:
        return ", ".join(named)
    return first[0] if first and len(first[0]) < 60 else "see the package"


def note(name: str, text: str) -> str:
    """What whoever hands a package on has to know of its licence."""
    if name in NOTES:
        return NOTES[name]
    if COPYLEFT.search(text):
        weak = not re.search(r"(?<!L)GPL|(?<!Lesser )General Public", text)
        return "weak copyleft" if weak else "copyleft"
    return "terms of their own" if LIMITED.search(text) else ""


def page() -> str:
    """The page as Markdown."""
    rows = [
        f"| {name} | {', '.join(versions)} | {(text := licence(name))} | {note(name, text)} |"
        for name, versions in locked().items()
    ]
    return HEADER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
