"""The pages that people read: README.md, CONTRIBUTING.md and those of docs/."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

from run_files import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md")])
NAMES = [str(path.relative_to(REPOSITORY)) for path in PAGES]

FENCE = re.compile(r"^( *)(`{3,})(.*?)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)


def program(name: str) -> ModuleType:
    """A program of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block of code; those that are indented have no language."""
    fenced = [(match[3].strip(), match[4]) for match in FENCE.finditer(text)]
    rest = FENCE.sub("\n", text)
    return [*fenced, *(("", match[0]) for match in re.finditer(r"(?:^ {4,}\S.*\n)+", rest, re.M))]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("\n", text)
