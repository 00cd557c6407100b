from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.console import ConsoleHandler, Formatter, LogFile, OwnDebug
from discern.errors import MAX_LINE_LENGTH, DiscernError, refuse, sanitize_message
from disk import full_after
from starter import begin, end


def test_log_lines_hold_nothing_that_a_terminal_obeys():
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s\nnext", ("a\x1b]0;t\x07\u202e",), None)
    assert Formatter("%(message)s").format(record) == "a\\x1b]0;t\\x07\\u202e\nnext"
    warning = logging.LogRecord("x", logging.WARNING, "", 0, "y" * 5000, (), None)
    assert len(Formatter("%(message)s").format(warning)) == MAX_LINE_LENGTH


def test_an_error_ends_with_its_beginning_and_its_end():
    with pytest.raises(SystemExit) as ended:
        refuse(DiscernError(f"data.dir={'x' * 10_000}\x1b[2J is not allowed; it must be a folder."))
    assert str(ended.value).startswith("Error: data.dir=xxx")
    assert str(ended.value).endswith("xx\\x1b[2J is not allowed; it must be a folder.")
    assert len(str(ended.value)) <= MAX_LINE_LENGTH + len("Error: ")


@given(st.text())
def test_a_short_message_is_told_whole(text):
    if text.isprintable() and len(text) <= MAX_LINE_LENGTH:
        assert sanitize_message(text) == text
    assert all(len(line) <= MAX_LINE_LENGTH for line in sanitize_message(text * 50).split("\n"))


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


@pytest.mark.parametrize(
    ("name", "level", "shown"),
    [
        ("discern.run", logging.DEBUG, True),
        ("mine", logging.DEBUG, True),
        ("matplotlib.font_manager", logging.DEBUG, False),
        ("asyncio", logging.DEBUG, False),
        ("matplotlib.font_manager", logging.INFO, True),
    ],
)
def test_debug_lines_of_libraries_are_shown_on_request(name, level, shown, monkeypatch):
    import asyncio  # noqa: F401 - a library is one that has been imported

    import matplotlib  # noqa: F401

    # Fonts that other tests have drawn with have set it.
    monkeypatch.setattr(logging.getLogger("matplotlib.font_manager"), "level", logging.NOTSET)
    record = logging.LogRecord(name, level, "", 0, "x", (), None)
    assert OwnDebug().filter(record) is shown
    logger = logging.getLogger(name.partition(".")[0])
    before = logger.level
    logger.setLevel(logging.DEBUG)  # as hydra.verbose=NAME does
    try:
        assert OwnDebug().filter(record)
    finally:
        logger.setLevel(before)


def test_a_log_on_a_full_disk_is_one_warning_and_no_traceback(tmp_path, caplog, capsys):
    handler = LogFile(tmp_path / "train.log", encoding="utf-8", delay=True)
    record = logging.LogRecord("discern", logging.INFO, "", 1, "x" * 100, None, None)
    with full_after(250):
        for _ in range(5):
            handler.emit(record)
    handler.close()
    assert (tmp_path / "train.log").read_text().startswith("x" * 100)
    assert [each.message for each in caplog.records] == [
        f"{tmp_path / 'train.log'} cannot be written (File too large)."
    ]
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_whose_output_cannot_be_written_goes_on_with_its_log(tmp_path):
    words = ("data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "logger=csv")
    words += ("trainer.accelerator=cpu", "trainer.max_epochs=1", "hydra.run.dir=run", "threads=1")
    with (
        Path(os.devnull).open() as nothing,
        Path("/dev/full").open("w") as full,
        (tmp_path / "err").open("w") as err,
    ):
        streams = nothing.fileno(), full.fileno(), err.fileno()
        assert end(begin(tmp_path, "train", *words, streams=streams, draws=False)) == 0
    assert (tmp_path / "err").read_text() == (
        "<stdout> cannot be written (No space left on device); the lines to come are in the log "
        "alone.\n"
    )
    assert "top-5 error" in (tmp_path / "run" / "train.log").read_text()  # the table at its end
