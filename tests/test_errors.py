from __future__ import annotations

import pytest

from discern.errors import DiscernError, closest, not_installed, raise_all, said

NAMES = ("train", "trainer", "report", "cache", "adam", "sgd", "mnist", "hardswish", "ckpt_path")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ("trian", "train"),
        ("sgdm", "sgd"),
        ("adma", "adam"),
        ("mnits", "mnist"),
        ("kmnist", "mnist"),
        ("ckpt", "ckpt_path"),
        ("swishh", "hardswish"),
    ],
)
def test_a_name_that_is_mistyped_shortened_or_lengthened_is_recognised(wrong, name):
    assert closest(wrong, NAMES) == name


@pytest.mark.parametrize("wrong", ["restart", "batch", "print", "linear", "monitor", "emit", "x"])
def test_a_name_that_shares_some_letters_is_not_taken_for_another(wrong):
    assert closest(wrong, NAMES) is None


def test_several_mistakes_are_a_line_each_and_said_once():
    with pytest.raises(DiscernError) as caught:
        raise_all(["One is wrong.", "Two is.", "One is wrong."])
    assert said(caught.value) == "Error: One is wrong.\nError: Two is."
    raise_all([])


def test_a_missing_package_has_its_command():
    assert "pip install 'discern[timm]'" in str(not_installed("model.library=timm", "timm", "timm"))
