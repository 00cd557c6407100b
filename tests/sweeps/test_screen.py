"""What a sweep shows on a terminal: read from a pseudo-terminal, as an emulator would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from pathlib import Path

import pytest
from sweeping import begin

from starter import end, invoke

SETTINGS = (
    "data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.max_epochs=1",
    "trainer.accelerator=cpu", "logger=csv", "report=false", "hydra.sweep.dir=sweep",
    "hydra.launcher.n_jobs=2",
)  # fmt: skip


def on_a_terminal(cwd: Path, columns: int, *arguments: str) -> bytes:
    """All that a sweep writes to a terminal so many columns wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    number = begin(cwd, *SETTINGS, *arguments, streams=(theirs,) * 3)
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
    os.close(ours)
    end(number)
    return written


def shown(written: bytes, columns: int) -> tuple[list[str], list[str]]:
    """The lines that stay on the terminal, and the bars that were there on the way."""
    lines, bars = [], []
    for line in written.decode().split("\n"):
        cells: list[str] = []
        for part in line.removesuffix("\r").split("\r"):
            text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part)
            cells[: len(text)] = text
            if "jobs |" in text:
                assert len(text) <= columns
                bars.append(text)
        lines.append("".join(cells).rstrip())
    return lines, bars


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_a_sweep_has_one_bar_and_a_line_a_job(tmp_path, columns):
    written = on_a_terminal(tmp_path, columns, "optimizer.lr=1e-2,-1,1e-4")
    lines, bars = shown(written, columns)
    jobs = [line for line in lines if re.match(r"\d/3  ", line)]
    assert [line[0] for line in jobs] == list("123")
    whole = "".join(lines).replace(" ", "")  # a narrow terminal has several lines a job
    assert len(re.findall(r"\dsfailed:optimizer\.lr=-1isnot", whole)) == 1
    # What a job prints stands in a line of its own, and the bar in none that stays.
    assert lines.count("Error: optimizer.lr=-1 is not allowed; it must be a number above 0.") == 1
    assert not [line for line in lines if "jobs |" in line or ("epoch" in line and "|" in line)]
    assert bars[0].startswith("0/3 jobs")
    assert bars[-1].startswith("3/3 jobs")
    assert columns < 60 or "val/loss" in bars[-1]


def test_a_pipe_has_no_bar(tmp_path):
    done = invoke("train", "-m", *SETTINGS, "seed=1,2", cwd=tmp_path, draws=False)
    assert done.returncode == 0, done.stderr
    assert "2/2  seed=" in done.stdout
    assert "jobs |" not in done.stdout + done.stderr
