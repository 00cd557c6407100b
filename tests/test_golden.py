"""The losses of a short deterministic run, kept in a file.

After a change that is meant to change results: ``pytest tests/test_golden.py --update-golden``, and
the commit explains the difference.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discern.run import train
from run_files import composed, metrics_csv

GOLDEN = Path(__file__).parent / "golden" / "mlp_sample_losses.json"
SETTINGS = [
    "data.source=sample",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "threads=1",
    "logger=csv",
    "test=false",
]


def test_the_losses_are_those_of_the_file(tmp_path, request):
    cfg = composed(*SETTINGS)
    cfg.folder = str(tmp_path)
    train(cfg)
    rows = metrics_csv(tmp_path)
    losses = {name: [row[name] for row in rows] for name in ("train/loss", "val/loss")}
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps({"settings": SETTINGS, **losses}, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert golden["settings"] == SETTINGS
    for name, values in losses.items():
        # Processors add up in different orders.
        assert values == pytest.approx(golden[name], rel=1e-4), name
