"""What torchvision's source says of published files, without importing torchvision and torch.

Where a release has another source nothing is found, and torchvision itself is asked later.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path


def cifar_facts(name: str) -> dict[str, str]:
    """``base_folder``, ``filename`` and ``url`` of ``CIFAR10`` or ``CIFAR100``, if known."""
    text = "".join(_sources("datasets", "cifar.py").values())
    body = text.partition(f"\nclass {name}(")[2].partition("\nclass ")[0]
    return dict(re.findall(r'^    (base_folder|filename|url) = "(.+)"$', body, re.MULTILINE))


def weights_url(backbone: str) -> str | None:
    """The address of the default weights of a model for classification; None if unknown."""
    for text in _sources("models", "*.py").values():
        builder = rf"^def {re.escape(backbone)}\(\s*\*,\s*weights: Optional\[(\w+)\]"
        found = re.search(builder, text, re.MULTILINE)
        if found is None:
            continue
        body = text.partition(f"\nclass {found[1]}(")[2].partition("\nclass ")[0]
        default = re.search(r"^    DEFAULT = (\w+)$", body, re.MULTILINE)
        chosen = body.partition(f"\n    {default[1]} = Weights(")[2] if default else ""
        url = re.search(r'\burl="([^"]+)"', chosen)
        return url[1] if url else None
    return None


@functools.cache
def _sources(folder: str, pattern: str) -> dict[Path, str]:
    """The files of a folder of torchvision."""
    package = importlib.util.find_spec("torchvision")
    places = (package.submodule_search_locations if package else None) or ()
    files = [file for place in places for file in sorted(Path(place, folder).glob(pattern))]
    return {file: file.read_text("utf-8", errors="replace") for file in files}
