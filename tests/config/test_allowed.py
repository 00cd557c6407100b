from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from discern.config.allowed import allowed

COUNT = Annotated[int, Field(ge=1)]
NUMBER = Annotated[float, Field(gt=0, allow_inf_nan=False)]

CASES = [
    (bool, "true or false"),
    (bool | None, "true, false or null"),
    (int, "a whole number"),
    (float | str, "a number, or a text"),
    (COUNT, "a whole number above 0"),
    (Annotated[int, Field(ge=0)], "a whole number, 0 or above"),
    (Annotated[int, Field(ge=0, le=1024)] | None, "a whole number from 0 to 1024, or null"),
    (Annotated[int, Field(ge=2)] | None, "a whole number above 1, or null"),
    (NUMBER, "a number above 0"),
    (Annotated[float, Field(gt=0, lt=1)], "a number above 0 and below 1"),
    (Annotated[float, Field(gt=0, le=1)], "a number above 0, at most 1"),
    (Literal["step", "epoch"], "step or epoch"),
    (Literal[True, "use", False], "true, use or false"),
    (Literal["32", "16", 32, 16] | None, "32, 16 or null"),
    (COUNT | Literal["auto"], "a whole number above 0, or auto"),
    (list[int], "a list of whole numbers"),
    (Annotated[list[NUMBER], Field(min_length=3, max_length=3)], "a list of 3 numbers above 0"),
    (tuple[float, float], "a list of 2 numbers"),
    (tuple[int, ...], "a list of whole numbers"),
    (list[str], "a list"),
    (dict[str, object], "a dictionary"),
    (Annotated[COUNT, Field(description="an epoch")] | None, "an epoch, or null"),
]


@pytest.mark.parametrize(("hint", "words"), CASES, ids=[words for _, words in CASES])
def test_a_type_in_words(hint, words):
    assert allowed(hint) == words
