"""What discern is installed from: the lock, the bounds and the licences agree."""

from __future__ import annotations

import re
import tomllib
from functools import cache

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from run_files import REPOSITORY

LOCKS = ("requirements.lock", "requirements-build.lock")

# Releases with known holes end below these; docs/supply-chain.md has the reasons.
WITHOUT_HOLES = {
    "filelock": "4.3", "h11": "0.16", "hydra-core": "1.3.6", "jinja2": "3.1.6",
    "lightning": "2.6.6", "mlflow": "3.11", "onnx": "1.21", "pillow": "12.3", "playwright": "1.56",
    "protobuf": "6.33.5", "pytest": "9.0.3", "python-multipart": "0.0.30", "ray": "2.54",
    "setuptools": "78.1.1", "starlette": "1.3.1", "torch": "2.10", "tqdm": "4.66.3",
    "werkzeug": "3.1.6",
}  # fmt: skip


@cache
def declared() -> dict[str, list[str]]:
    """Extra, empty for all runs -> what pyproject.toml declares of it."""
    content = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = content["project"]
    return {
        "": project["dependencies"],
        **project["optional-dependencies"],
        "build": content["dependency-groups"]["build"] + content["build-system"]["requires"],
    }


def needed(extra: str) -> list[Requirement]:
    """The requirements of an extra, with those of extras that it names."""
    found = []
    for text in declared()[extra]:
        requirement = Requirement(text)
        if requirement.name == "discern":
            found += [each for name in requirement.extras for each in needed(name)]
        else:
            found.append(requirement)
    return found


def locked(lock: str) -> dict[str, Version]:
    """Package -> version, of what a lock has for this system."""
    found = {}
    for line in (REPOSITORY / lock).read_text().splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate(default_environment()):
                (pin,) = requirement.specifier
                assert pin.operator == "=="
                found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


@pytest.mark.parametrize("extra", ["", "dev", "build"])
def test_the_lock_has_what_is_declared_within_its_bounds(extra):
    pins = locked("requirements-build.lock" if extra == "build" else "requirements.lock")
    for requirement in needed(extra):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(pin), f"{requirement}, but {pin} is locked: make lock"


def test_both_locks_agree():
    one, other = map(locked, LOCKS)
    assert {name: one[name] for name in one.keys() & other} == {
        name: other[name] for name in one.keys() & other
    }


def test_torch_is_the_one_of_the_makefile():
    (pair,) = re.findall(r"(?m)^TORCH \?= (.+)$", (REPOSITORY / "Makefile").read_text())
    for pin in map(Requirement, pair.split()):
        assert pin.specifier.contains(locked("requirements.lock")[pin.name])


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_names_no_place(lock):
    text = (REPOSITORY / lock).read_text()
    for entry in re.split(r"(?m)^(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in entry, entry
    assert not re.findall(r"(?m)://|--(?:extra-)?index-url|--find-links|^/| @ ", text)


def test_no_lower_bound_has_a_known_hole():
    every = [each for extra in declared() for each in needed(extra)]
    for requirement in every:
        lowest = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        assert lowest, f"{requirement} has no lower bound"
        least = WITHOUT_HOLES.get(canonicalize_name(requirement.name))
        assert least is None or max(map(Version, lowest)) >= Version(least)
    assert WITHOUT_HOLES.keys() <= {canonicalize_name(each.name) for each in every}
    page = (REPOSITORY / "docs" / "supply-chain.md").read_text()
    for name, version in WITHOUT_HOLES.items():
        assert f"| {name} | {version} |" in page


def test_the_licences_are_those_of_all_that_is_locked():
    page = (REPOSITORY / "docs" / "licences.md").read_text()
    rows = dict(re.findall(r"(?m)^\| ([\w.-]+) \| ([^|]+) \|", page))
    for lock in LOCKS:
        for name, version in re.findall(
            r"(?m)^([\w.-]+)==([^\s;]+)", (REPOSITORY / lock).read_text()
        ):
            assert version in rows[name].split(", "), f"{name}: make licences"
