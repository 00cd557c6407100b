from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from discern.commands import words
from discern.errors import DiscernError


@dataclass(frozen=True)
class Settings:
    dir: words.Folder = Path()
    out: Annotated[Path | None, words.path] = None
    keep: Annotated[int | None, words.count] = None
    told: bool = False


def test_settings_are_told_from_other_words_and_the_last_counts(tmp_path):
    typed = ["a=b", f"dir={tmp_path}", "keep=3", "keep=4", "told=true", "last"]
    expected = Settings(dir=tmp_path, keep=4)
    assert words.read(Settings, typed) == (expected, ["a=b", "told=true", "last"])
    assert words.read(Settings, ["out=~/x"])[0].out == Path("~/x").expanduser()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("dir=/no/where", "dir=/no/where must be a folder that exists."),
        (f"dir={'x' * 300}", "dir=x+ must be a folder that exists."),
        ("dir=", "dir= must be a folder that exists."),
        ("out=", "out= must be a folder."),
        ("keep=1.5", "keep=1.5 must be a whole number, 0 or above."),
        ("keeep=1", "keeep=1 is not a setting of discern x; did you mean keep"),
        ("\x1b[31m", r"\?\[31m is not a setting of discern x; there are dir, keep, out."),
    ],
)
def test_mistakes_are_a_sentence(word, why):
    with pytest.raises(DiscernError, match=f"^{why}"):
        words.read_all(Settings, [word], "discern x")


def test_what_was_begun_is_completed():
    assert words.starting("", words.settings_of(Settings), "all") == [
        "dir=",
        "out=",
        "keep=",
        "all",
    ]
    assert words.starting("k", words.settings_of(Settings), "all") == ["keep="]
