from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from discern.tables import table, wrapped
from hostile.texts import CHOSEN


@pytest.mark.parametrize("text", CHOSEN)
def test_a_name_in_a_table_is_shown_as_it_is(text):
    lines = table(["name", "n"], [[text[:50], "1"]], width=200).splitlines()
    assert len(lines) == 3
    assert "\x1b" not in lines[-1]
    if text[:50].isprintable():
        assert text[:50].strip() in lines[-1]


RUNS = [["2026-01-02/10-11-12_sweep/lr=0.01,dropout=0.5", "done", "0.2857", "a tag"]]


def test_a_narrow_table_leaves_out_columns_and_says_which():
    text = table(["run", "state", "val/loss", "tags"], RUNS, width=36, dispensable=["tags", "run"])
    assert text.splitlines() == [
        "run                  state  val/loss",
        "─" * 36,
        "2026-01-02/           done    0.2857",
        "10-11-12_sweep/",
        "lr=0.01,dropout=0.5",
        "",
        "Not shown on this narrow terminal:",
        "tags.",
    ]


def test_a_long_title_stands_above_its_table():
    title = "the name of an experiment that goes on and on"
    head, blank, names, rule, row = table(
        [title, "loss"], [["train", "0.3"]], width=48
    ).splitlines()
    assert (head, blank) == (title, "")
    assert (names.split(), row.split()) == (["loss"], ["train", "0.3"])
    assert len(rule) == len(names)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(30, 80))
def test_a_table_of_any_names_fits_into_its_width(names, width):
    rows = [[name, "0.1234", "0.5"] for name in names]
    text = table(["name", "val/loss", "x"], rows, width=width)
    assert all(cell_len(line) <= width for line in text.split("\n"))


@given(st.text(), st.integers(10, 60))
def test_wrapping_keeps_every_word(text, width):
    assert " ".join(wrapped(text, width, later="  ")).split() == text.split()
