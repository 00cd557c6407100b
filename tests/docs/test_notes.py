"""docs/notes.md: its code runs, its commands run, and both give the numbers that it prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import DOCS, FENCE, prose

from discern.run import train
from run_files import NOT_DRAWN, REPOSITORY, composed, metrics_csv, summary
from starter import invoke

PAGE = (DOCS / "notes.md").read_text(encoding="utf-8")
CHAPTERS = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SETUP, EXERCISES = CHAPTERS.pop("Setup"), CHAPTERS.pop("Exercises")

PRINTED = 0.02
"""By how much the page's numbers may differ on another processor, as it says."""

# What a command of a test leaves out is what it shows; its numbers are those of the page.
QUICK = ("trainer.accelerator=cpu", "threads=1", "logger=csv", "report=false", NOT_DRAWN)
UNTESTED = "test=false"

DECIMAL = re.compile(r"-?\d+\.\d+")
BOTH_GIVE = re.compile(r"^\| Both give, to ([\d.]+) \|.*\n\|[ |-]+\n((?:\|.*\n)+)", re.MULTILINE)


@pytest.fixture(autouse=True)
def _as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, as commands have here, and a folder to write to."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


def run_block(code: str, names: dict[str, Any]) -> str:
    """What a block of Python prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/notes.md", "exec"), names)
    return printed.getvalue()


def run_command(line: str, folder: Path) -> Path:
    """The folder of the run that a command makes, or that it is called in.

    A training is made in this process where nothing is said of its folder: that takes a third of
    the time, and test_pages.py composes each command as Hydra does.
    """
    program, *words = shlex.split(line)
    arguments = ["train", *words[1:], *QUICK] if program == "python" else words
    chosen = [word.partition("=")[2] for word in words if word.startswith("hydra.run.dir=")]
    if program == "python" and not chosen:
        cfg = composed(*arguments[1:])
        cfg.folder = str(folder / "run")
        return train(cfg).folder
    done = invoke(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder.joinpath(*chosen)


def measured(run: Path, metric: str, epochs: int) -> list[float]:
    """A metric of the last epochs of a run; one of the test is that of its best checkpoint."""
    if metric.startswith("test/"):
        return [summary(run)["metrics"]["test"][metric.removeprefix("test/")]]
    return [row[metric] for row in metrics_csv(run, complete=False)][-epochs:]


def assert_same_text(printed: str, page: str) -> None:
    assert DECIMAL.sub("#", printed) == DECIMAL.sub("#", page)
    numbers, shown = (list(map(float, DECIMAL.findall(text))) for text in (printed, page))
    assert numbers == pytest.approx(shown, abs=PRINTED)


def rows_of(table: str) -> list[tuple[str, list[float]]]:
    """Metric and numbers of each row."""
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return [(first.strip("`"), [float(cell) for cell in rest if cell]) for first, *rest in cells]


@pytest.mark.parametrize("title", CHAPTERS)
def test_by_hand_and_by_command_is_the_same_number(title, tmp_path):
    [(tolerance, table)] = BOTH_GIVE.findall(CHAPTERS[title])
    names: dict[str, Any] = {}
    run = tmp_path
    blocks = [(match[3].strip(), match[4]) for match in FENCE.finditer(SETUP + CHAPTERS[title])]
    printed = ""
    for kind, content in blocks:
        if kind == "text":
            assert_same_text(printed, content)
            printed = ""
        assert printed == "", "the page does not show what a block prints"
        if kind == "python":
            printed = run_block(content, names)
        for line in content.splitlines() if kind == "sh" else []:
            trains_alone = line.startswith("python") and "`test/" not in table
            run = run_command(f"{line} {UNTESTED}" if trains_alone else line, tmp_path)
    by_hand = names["by_hand"]
    assert [metric for metric, _ in rows_of(table)] == [*by_hand]
    for metric, page in rows_of(table):
        own = by_hand[metric] if isinstance(by_hand[metric], list) else [by_hand[metric]]
        assert own == pytest.approx(page, abs=PRINTED), metric
        assert measured(run, metric, len(own)) == pytest.approx(own, abs=float(tolerance)), metric


def exercises() -> list[tuple[str, str, float]]:
    found = re.findall(r"\| `(python train\.py [^`]*)` \| `([\w/]+)` ([\d.]+) \|", EXERCISES)
    return [(command, metric, float(number)) for command, metric, number in found]


@pytest.mark.parametrize(("command", "metric", "number"), exercises())
def test_an_exercise_has_the_number_to_expect(command, metric, number, tmp_path):
    run = run_command(f"{command} {UNTESTED}", tmp_path)
    assert measured(run, metric, 1) == pytest.approx([number], abs=PRINTED)


def test_every_exercise_is_read():
    rows = [line for line in EXERCISES.splitlines() if "`python train.py" in line]
    assert len(rows) == len(exercises()) > 5


def sources(text: str) -> list[tuple[str, str]]:
    """Name and path of what a text says stands in the source."""
    return re.findall(r"\[`(?:\w+\.)*(\w+)`\]\(\.\./(src/[\w/.]+)\)", prose(text))


@pytest.mark.parametrize("title", CHAPTERS)
def test_what_is_said_to_be_in_a_file_is_there(title):
    for name, path in sources(CHAPTERS[title]):
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert name == "py" or re.search(rf"^\s*(class|def) {name}\b|^{name}\b", text, re.MULTILINE)
    for path in re.findall(r"`(conf/[\w/.]+)`", CHAPTERS[title]):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("title", CHAPTERS)
def test_a_chapter_says_where_it_happens_and_gives_the_command_for_all_the_data(title):
    text = CHAPTERS[title]
    assert sources(text)
    assert re.search(r"`python train\.py (?!.*data\.source=sample)[^`]*`", prose(text))
