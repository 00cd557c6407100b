"""The models and data sets that the pages add, added exactly as printed, and trained."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, blocks

from run_files import REPOSITORY
from starter import invoke

FILE = re.compile(r"^`([\w./-]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


EXAMPLES = {
    "README, a model": section("Add a model"),
    "README, a data set": section("Add a data set"),
    "a model": (DOCS / "add-a-model.md").read_text(encoding="utf-8"),
    "a data set": (DOCS / "add-a-data-set.md").read_text(encoding="utf-8"),
}


def write_files(text: str, folder: Path) -> list[str]:
    """Write each file of a page where the page says; their names."""
    files = FILE.findall(text)
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return [name for name, _ in files]


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_as_printed_it_trains_evaluates_and_loads(text, tmp_path):
    files = write_files(text, tmp_path)
    assert any(name.startswith("conf/") for name in files)
    for name in files:
        if name.startswith("make_"):
            subprocess.run([sys.executable, name], cwd=tmp_path, check=True, timeout=60)
    lines = [line.strip() for _, block in blocks(text) for line in block.splitlines()]
    printed = [shlex.split(line) for line in lines if re.match(r"python train.py (?!-m)", line)]
    assert printed
    own_data = any(name.startswith("conf/data/") for name in files)
    sample = [] if own_data else ["data.source=sample"]
    quick = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.limit_train_batches=5",
             "logger=csv", "report=false", "hydra.run.dir=run"]  # fmt: skip
    done = invoke("train", *printed[0][2:], *sample, *quick, cwd=tmp_path, draws=False)
    assert done.returncode == 0, done.stderr
    done = invoke("evaluate", "ckpt_path=run", cwd=tmp_path, draws=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


@pytest.mark.parametrize("title", ["Add a model", "Add a data set"])
def test_the_readme_needs_fewer_than_twenty_lines(title):
    lines = [line for _, text in FILE.findall(section(title)) for line in text.splitlines()]
    assert 0 < len(lines) < 20
