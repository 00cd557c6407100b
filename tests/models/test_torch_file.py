"""Files of torch.save that others wrote: converted once, and hostile ones."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from discern.errors import DiscernError
from discern.files import pickles
from discern.models import torch_file, torch_file_folder
from discern.models.saved import load
from discern.models.weights import load_weights
from hostile.pickles import endless, payloads, samples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(5.0), "epoch": 3}, tmp_path / "given.pth")
    return tmp_path / "given.pth"


@pytest.fixture
def children(monkeypatch) -> list[str]:
    """Grows with each child that is started."""
    started: list[str] = []
    run = pickles._run
    monkeypatch.setattr(pickles, "_run", lambda *about: started.append("") or run(*about))
    return started


def kept() -> list[Path]:
    return torch_file_folder.converted()


# Kept files


def test_a_file_is_converted_once(path, children, tmp_path):
    first = torch_file.read(path)
    (tmp_path / "copy").mkdir()
    again = torch_file.read(path.rename(tmp_path / "copy" / "other.pt"))
    assert len(children) == 1
    assert torch.equal(first["w"], again["w"])
    assert again["epoch"] == 3
    assert len(kept()) == 1
    assert kept()[0].parent.stat().st_mode & 0o777 == 0o700


def test_another_content_under_the_same_name_is_converted(path, children):
    torch_file.read(path)
    torch.save({"w": torch.zeros(2)}, path)
    assert torch_file.read(path)["w"].tolist() == [0, 0]
    assert len(children) == 2


def test_a_kept_file_of_another_format_is_made_anew(path, children, monkeypatch):
    torch_file.read(path)
    monkeypatch.setattr(torch_file_folder, "FORMAT", torch_file_folder.FORMAT + 1)
    torch_file.read(path)
    torch_file.read(path)
    assert len(children) == len(kept()) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "renamed", "removed", "a folder"])
def test_a_damaged_kept_file_is_made_anew(path, children, damage):
    torch_file.read(path)
    (file,) = kept()
    content = file.read_bytes()
    if damage == "renamed":
        file.rename(torch_file_folder.folder() / f"{file.stem[:-1]}-{file.suffix}")
    elif damage in ("removed", "a folder"):
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    else:
        changed = {"flipped": content[:-3] + b"\7" + content[-2:], "cut": content[:-1]}
        file.write_bytes(changed.get(damage, b""))
    assert torch_file.read(path)["w"].tolist() == [0, 1, 2, 3, 4]
    assert len(children) == 2


def test_where_nothing_can_be_kept_files_are_read_all_the_same(path, children, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    for _ in range(2):
        assert torch_file.read(path)["w"].tolist() == [0, 1, 2, 3, 4]
    assert len(children) == 2


def test_what_is_read_stays_when_the_cache_is_cleared(path):
    content = torch_file.read(path)
    for file in kept():
        file.unlink()
    assert content["w"].tolist() == [0, 1, 2, 3, 4]
    content["w"][0] = 7
    assert torch_file.read(path)["w"].tolist() == [0, 1, 2, 3, 4]


def test_those_not_used_for_the_longest_go(path, monkeypatch):
    monkeypatch.setattr(torch_file_folder, "MAX_BYTES", 1000)
    for number in range(4):
        torch.save({"w": torch.full((20,), number)}, path)
        torch_file.read(path)
        os.utime(kept()[-1], (number, number))
    assert 1 <= len(kept()) <= 3
    assert torch_file.read(path)["w"][0] == 3


def test_a_file_that_is_being_written_is_not_kept(path, monkeypatch):
    convert = pickles.convert

    def meanwhile(*about):
        convert(*about)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(pickles, "convert", meanwhile)
    with pytest.raises(DiscernError, match="changes while it is read"):
        torch_file.read(path)
    assert not kept()


def test_nothing_is_left_of_a_file_that_is_refused(tmp_path):
    (tmp_path / "given.pth").write_bytes(b"rubbish")
    with pytest.raises(DiscernError):
        torch_file.read(tmp_path / "given.pth")
    assert not list(torch_file_folder.folder().iterdir())


# Weights


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(number, tmp_path):
    path = tmp_path / "given.pth"
    state = {"weight": torch.ones(1, 2), "bias": torch.tensor([number])}
    torch.save({"state_dict": state, "best": torch.tensor(number)}, path)
    with pytest.raises(DiscernError, match=r"has weights that are not finite: bias\."):
        load(path)
    with pytest.raises(DiscernError, match=r"^model\.weights=.* that are not finite: bias\."):
        load_weights(torch.nn.Linear(2, 1), path, [])


def test_what_is_no_weight_may_be_infinite(tmp_path):
    path = tmp_path / "given.pth"
    layer = torch.nn.Linear(2, 1)
    torch.save({"state_dict": layer.state_dict(), "best": torch.tensor(torch.inf)}, path)
    load_weights(torch.nn.Linear(2, 1), path, [])
    assert torch_file.read(path)["best"] == torch.inf


# Hostile files


def quick() -> Iterator[tuple[str, bytes]]:
    """Each kind once, without those that are given up only after seconds, and some random ones."""
    for name, content in samples():
        slow = name.startswith(("nested tuples", "colliding", "a million"))
        alike = any(part in name for part in ("wrapped", "bit", " at "))
        if not slow and not alike:
            yield name, content
    for name, content in payloads("executed"):
        if not name.endswith(("alone", "format")):
            yield name, content
    yield from itertools.islice(endless(random.Random(0)), 5)


def check(name: str, content: bytes, path: Path) -> None:
    """A hostile file is refused in a sentence, or holds little and nothing but plain values."""
    path.write_bytes(content)
    values, refusal, size = [], f"{path} cannot be read: ", 0
    try:
        values.append(torch_file.read(path))
    except DiscernError as error:
        refusal = str(error)
    assert refusal.startswith(f"{path} cannot be read: "), name
    assert refusal.isprintable(), name
    assert len(refusal) < 350 + len(str(path)), name
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            values += list(value)
        elif isinstance(value, torch.Tensor):
            assert value.layout == torch.strided, name
            assert value.device.type == "cpu", name
            assert not value.is_quantized, name
            assert not value.is_complex(), name
            size += value.numel() * value.element_size()
            value.sum()
        else:
            assert value is None or type(value) in (bool, int, float, str), name
    assert size <= 8 * len(content), name


def test_hostile_files_are_refused_or_hold_little(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, content in quick():
        check(name, content, tmp_path / "given.pth")
        assert not list(folder.iterdir()), name


@pytest.mark.slow
def test_many_hostile_files_are_refused_or_hold_little(tmp_path, monkeypatch):
    some = itertools.islice(endless(random.Random(1)), 500)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, content in [*samples(), *payloads("executed"), *some]:
        check(name, content, tmp_path / "given.pth")
        assert not list(folder.iterdir()), name
