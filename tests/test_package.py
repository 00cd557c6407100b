"""What is installed: the wheel, types for other programs, and a checkout that is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import discern

CONSUMER = """\
from pathlib import Path
import discern

cfg = discern.compose(["model=mlp"])
result = discern.train(cfg)
reveal_type(result.metrics)
reveal_type(discern.evaluate(result, ["split=val"]).metrics["accuracy"].low)
reveal_type(discern.predict("best", Path("photos")).labels)
reveal_type(discern.compare(result, "best").letters)
reveal_type(discern.sweep(["seed=0,1"]).best)
reveal_type(discern.__version__)
discern.evaluate(result, split="val")
"""

REVEALED = [
    "dict[str, dict[str, float]]",
    "float",
    "list[str]",
    "list[str]",
    "discern.sweeps.rows.Row | None",
    "str",
]


@pytest.mark.slow  # mypy reads torch, a minute without its cache
def test_a_program_that_uses_discern_is_checked_by_its_types(tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "consumer.py"]
    path = str(Path(discern.__file__).parents[1])
    done = subprocess.run(
        mypy, cwd=tmp_path, env={"MYPYPATH": "", "PYTHONPATH": path}, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
