from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from discern.console import ConsoleHandler, Formatter, table, wrapped
from discern.errors import DiscernError, refuse, sanitize_message
from hostile.texts import CHOSEN


@pytest.mark.parametrize("text", CHOSEN)
def test_a_name_in_a_table_is_shown_as_it_is(text):
    lines = table(["name", "n"], [[text[:50], "1"]], width=200).splitlines()
    assert len(lines) == 3
    assert "\x1b" not in lines[-1]
    if text[:50].isprintable():
        assert text[:50].strip() in lines[-1]


def test_log_lines_hold_nothing_that_a_terminal_obeys():
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s\nnext", ("a\x1b]0;t\x07\u202e",), None)
    assert Formatter("%(message)s").format(record) == "a\\x1b]0;t\\x07\\u202e\nnext"
    warning = logging.LogRecord("x", logging.WARNING, "", 0, "y" * 5000, (), None)
    assert len(Formatter("%(message)s").format(warning)) == 300


def test_an_error_ends_with_its_beginning_and_its_end():
    with pytest.raises(SystemExit) as ended:
        refuse(DiscernError(f"data.dir={'x' * 10_000}\x1b[2J is not allowed; it must be a folder."))
    assert str(ended.value).startswith("Error: data.dir=xxx")
    assert str(ended.value).endswith("xx\\x1b[2J is not allowed; it must be a folder.")
    assert len(str(ended.value)) <= 310


@given(st.text())
def test_a_short_message_is_told_whole(text):
    if text.isprintable() and len(text) <= 300:
        assert sanitize_message(text) == text
    assert all(len(line) <= 300 for line in sanitize_message(text * 50).split("\n"))


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


def test_lines_of_a_log_end_between_words_and_commands_stay_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    handler = ConsoleHandler()
    command = "Train it again: python train.py optimizer.lr=0.1 model.hidden=[128,64]"
    for text in ("  optimizer  Adam lr=0.001 betas=[0.9,0.999] eps=1e-08", command):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))
    assert capsys.readouterr().out.splitlines() == [
        "  optimizer  Adam lr=0.001",
        "             betas=[0.9,0.999] eps=1e-08",
        command,
    ]


@given(st.text(), st.integers(10, 60))
def test_wrapping_keeps_every_word(text, width):
    assert " ".join(wrapped(text, width, later="  ")).split() == text.split()
