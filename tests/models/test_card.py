"""What the card of a checkpoint may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from discern.errors import DiscernError
from discern.models.card import CARD, MAX_IMAGE, parsed, portable_settings, written

MODEL = {"name": "mlp", "settings": {"hidden": [4]}}


def card(**changes: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "class_names": ["a", "b"],
        "input_shape": (1, 4, 4),
        "preprocessing": {"mean": 0.5, "std": 0.5},
        "data": {"title": "Tiny", "fingerprint": "00"},
        "config": {
            "seed": 1,
            "data": {"_target_": "discern.data.published.mnist.MNIST", "val_size": 3},
        },
        **changes,
    }


def settings(**changes: Any) -> dict[str, Any]:
    return {"model": {"name": "mlp", "settings": changes}}


def transfer(**changes: Any) -> dict[str, Any]:
    return {"model": {"name": "transfer", "settings": changes}}


def config(value: Any, name: str = "x") -> dict[str, Any]:
    return {"config": {"data": {"_target_": "mine.Data", name: value}}}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (settings(hidden=["4"]), r"model\.settings\.hidden=\[4\] is not allowed"),
        (settings(hidden=[4.0]), "model.settings.hidden="),
        (settings(hidden=[True]), "model.settings.hidden="),
        (settings(hidden=[10**6] * 1001), "model.settings.hidden"),
        (settings(hidden=[2**21]), "none above 1048576"),
        (settings(dropout=1.5), "model.settings.dropout=1.5 is not allowed"),
        (settings(dropout="0.5"), "model.settings.dropout=0.5 is not allowed"),
        (settings(activation="__class__"), "model.settings.activation=__class__"),
        (settings(unknown=1), "model.settings.unknown is not a setting"),
        (settings(_target_="os.mkdir"), "model.settings that is not a plain value"),
        (transfer(weights="/etc/passwd"), "weights is neither default nor null"),
        (transfer(unfreeze="x"), "model.settings.unfreeze=x"),
        ({"model": {**MODEL, "_target_": "os.mkdir"}}, "model._target_: Extra"),
        ({"model": {"name": "mine", "settings": {"x": "${oc.env:A}"}}}, "has an interpolation"),
        ({"model": {"name": "mine", "settings": {"x": [1] * 1001}}}, "more than 1,000 values"),
        ({"class_names": []}, "class_names"),
        ({"class_names": [1, 2]}, r"class_names\.0"),
        ({"class_names": ["x" * 1001]}, r"class_names\.0"),
        ({"class_names": ("a", "b")}, "class_names"),
        ({"input_shape": (1, 4)}, "input_shape"),
        ({"input_shape": (1, 4, 4.0)}, "input_shape"),
        ({"input_shape": (1, 0, 4)}, "input_shape"),
        ({"input_shape": (3, 8000, 8000)}, f"more than {MAX_IMAGE:,}"),
        ({"preprocessing": {"mean": [1.0, 2.0], "std": 1.0}}, "mean has 2 numbers for 1 channels"),
        ({"preprocessing": {"mean": 0.0, "std": 0.0}}, "preprocessing.std"),
        ({"preprocessing": {"mean": float("nan"), "std": 1.0}}, "preprocessing.mean"),
        ({"preprocessing": {"mean": 0.5, "std": 0.5, "resize": 65536}}, "preprocessing.resize"),
        ({"preprocessing": {"mean": "0.5", "std": 0.5}}, "preprocessing.mean"),
        ({"data": {"title": 3}}, r"data\.title"),
        ({"data": {str(number): "x" for number in range(101)}}, "data"),
        ({"metrics": {"val/loss": "0.1"}}, "metrics.val/loss"),
        ({"versions": {"torch": 2}}, "versions.torch"),
        ({"other": 1}, "other: Extra"),
        ({"config": {"seed": "1"}}, "config.seed is not a whole number"),
        ({"config": {"seed": True}}, "config.seed is not a whole number"),
        ({"config": {"seed": 2**32}}, "config.seed is not a whole number"),
        ({"config": {"seed": {"_target_": "sympy.sympify", "a": "1"}}}, "config.seed is no"),
        ({"config": {"seed": "${oc.env:SECRET}"}}, "config.seed is not a whole number"),
        ({"config": {"trainer": {}}}, "config.trainer is not a group"),
        (
            {"config": {"data": {"_target_": "a b"}}},
            "config.data._target_ is not the name of a class",
        ),
        ({"config": {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0}}}, "optimizer.lr=0"),
        ({"config": {"optimizer": {"_target_": "torch.optim.Adam", 7: 1}}}, "optimizer.7 is not"),
        (config({"_target_": "sympy.sympify"}), "config.data.x that is not a plain value"),
        (config([{"_target_": "sympy.sympify"}]), "config.data.x that is not a plain value"),
        (config("a ${oc.env:SECRET}"), "config.data.x that is not a plain value"),
        (config(["${oc.env:SECRET}"]), "config.data.x that is not a plain value"),
        (config(2**64), "config.data.x that is not a plain value"),
        (config("x" * 20_000), "more than 10,000 characters"),
        (config({1, 2}), "it is a set"),
        (config(nested(12)), "nested too deeply"),
        (config(1, "x" * 2000), "not the name of a setting"),
    ],
)
def test_what_a_card_may_not_say_is_named(changes, told):
    with pytest.raises(DiscernError, match=r"^x\.safetensors does not describe a model: ") as error:
        parsed(card(**changes), Path("x.safetensors"))
    assert re.search(told, str(error.value))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("other", "told"),
    [(2, "a newer version of discern: it has format 2"),
     (0, "another version of discern: it has format 0"),
     (True, "another version of discern: it has no format"),
     ("1", "another version of discern: it has no format")],
)  # fmt: skip
def test_a_card_of_another_version_is_one_sentence(other, told):
    with pytest.raises(DiscernError) as error:
        parsed(card(format=other, unknown=[]), Path("x"))
    assert str(error.value).startswith(f"x is of {told}, and this version reads format 1; ")
    assert ("upgrade discern" in str(error.value)) == (other == 2)


@pytest.mark.parametrize("value", [None, 3, [], "card", {}])
def test_what_is_no_card_is_refused(value):
    with pytest.raises(DiscernError, match="does not describe a model"):
        parsed(value, Path("x.safetensors"))


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": ["${oc.env:A}", "=1+1", "_target_", "\x1b[31m", ""]},
        {"input_shape": [1, 4, 4]},
        {"input_shape": (3, 2048, 2048), "preprocessing": {"mean": [0.1] * 3, "std": [1, 2, 3]}},
        {"metrics": {"val/loss": float("nan"), "val/accuracy": 1}},
        {"config": {"model": {"_target_": "a.B", "class_weights": {"${x}": 1.0, 3: 2.0}}}},
        {"model": {"name": "", "settings": {}}},
        {"model": {"name": "mine", "settings": {"width": 3, "blocks": [[1, 2], {"a": None}]}}},
    ],
)  # fmt: skip
def test_what_a_card_may_say_is_the_same_once_it_was_written_and_read(changes):
    one = parsed(card(**changes), Path("x"))
    again = parsed(one.model_dump(), Path("x"))
    assert repr(again) == repr(one)


def test_a_runs_card_is_read_again_whatever_its_settings_name(tmp_path):
    kept = portable_settings(
        {"of": {"_target_": "a.B", "x": 1}, "text": "a ${b}", "many": ["${a}", {"_target_": "c"}]}
    )
    assert kept == {"of": {"target": "a.B", "x": 1}, "many": [{"target": "c"}]}
    made = written(**card(class_names=("a", "b"), config={"data": {"_target_": "a.B", **kept}}))
    assert parsed(made.model_dump(), tmp_path).class_names == ["a", "b"]
    with pytest.raises(DiscernError, match="No checkpoint can describe this model: input_shape"):
        written(**card(input_shape=(3, 9000, 9000)))


def test_the_key_of_the_card_stays():
    assert CARD == "discern"
