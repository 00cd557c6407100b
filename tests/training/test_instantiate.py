from __future__ import annotations

import functools
import sys
from typing import Any

import pytest
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from omegaconf import OmegaConf

from discern.errors import DiscernError
from discern.training.instantiate import build, build_all
from run_files import composed

HERE = __name__


class Kept:
    """Keeps what it is made of."""

    def __init__(self, *places: Any, **names: Any) -> None:
        if names.get("fails"):
            raise ValueError("not this one\nand a second line")
        self.given = places, names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self.given == other.given

    __hash__ = None  # type: ignore[assignment]


KEPT = f"{HERE}.Kept"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rate": 1e-3, "sizes": [1, [2, None]], "names": {"a": {"b": True}}, "empty": {}},
        {"inner": {"_target_": KEPT, "depth": 2}},
        {"inner": [{"_target_": KEPT}, {"deep": {"_target_": KEPT, "x": 1}}]},
        {"_args_": [1, "two"], "three": 3},
        {"_recursive_": False, "inner": {"_target_": KEPT}},
        {"dict": {1: "a number as a key"}},
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"classes": 10, "shape": (1, 28, 28)}])
@pytest.mark.parametrize("as_config", [False, True])
def test_it_is_what_hydra_makes_of_it(settings, arguments, as_config):
    node: Any = {"_target_": KEPT, **settings}
    found = build("model", OmegaConf.create(node) if as_config else node, **arguments)
    wanted = instantiate(node, _convert_="all", **arguments)
    # Hydra makes a list of a tuple where it is among the settings.
    if "shape" in arguments:
        wanted.given[1]["shape"] = found.given[1]["shape"] = list(found.given[1]["shape"])
    assert found == wanted
    places, names = found.given
    assert not any(map(OmegaConf.is_config, (*places, *names.values())))


def test_a_part_is_made_later():
    part = build("optimizer", {"_target_": KEPT, "rate": 1}, _partial_=True)
    assert isinstance(part, functools.partial)
    assert part(more=2) == Kept(rate=1, more=2)


def test_objects_are_handed_on_as_they_are():
    one = object()
    assert build("trainer", {"_target_": KEPT}, logger=[one]).given[1]["logger"][0] is one


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"_target_": KEPT, "fails": True}, r"^model: not this one\.$"),
        ({"_target_": KEPT, "fails": True, "x": {"_target_": KEPT}}, r"^model: not this one\.$"),
        ({"_target_": KEPT, "size": "???"}, r"^model: Missing mandatory value: size"),
        ({"_target_": f"{HERE}.Kopt"}, r"^model: .*Kopt"),
        ({"_target_": "no_such_module.Kept"}, r"^model: .*no_such_module"),
        ({"_target_": 3}, r"^model: .*3"),
        ("a word", r"^model: "),
    ],
)
def test_a_mistake_is_one_sentence(node, told):
    with pytest.raises(DiscernError, match=told) as caught:
        build("model", node)
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named_under_a_debugger_too():
    before = sys.gettrace()
    sys.settrace(before or (lambda *_: None))
    try:
        with pytest.raises(DiscernError, match="Missing mandatory value: size"):
            build("model", {"_target_": KEPT, "size": "???"})
    finally:
        sys.settrace(before)


def test_a_class_that_was_defined_again_is_the_new_one(monkeypatch):
    settings = {"_target_": KEPT, "rate": 1}
    assert type(build("model", settings)) is Kept

    class Again(Kept):
        """As a cell of a notebook defines it a second time."""

    monkeypatch.setitem(globals(), "Kept", Again)
    assert type(build("model", settings)) is Again


def test_lightnings_progress_bar_takes_the_place_of_ours():
    cfg = composed("callbacks=rich_progress_bar")
    bars = [c for c in build_all("callbacks", cfg.callbacks) if isinstance(c, ProgressBar)]
    assert [type(bar) for bar in bars] == [RichProgressBar]
