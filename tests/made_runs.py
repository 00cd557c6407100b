"""Folders of runs and sweeps, as train leaves them, without training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from discern.runs.folder import FORMAT
from discern.runs.predictions import Predictions
from discern.runs.tested import Tested, digest_of, write_tested
from discern.runs.thumbnails import thumbnails

METRICS = {"val": {"loss": 0.5, "accuracy": 0.8}, "test": {"accuracy": 0.75}}


def made_run(
    folder: Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    state: str | None = "done",
    reason: str = "2 of 2 epochs",
    config: Mapping[str, Any] | None = None,
    minute: int = 0,
    **facts: Any,
) -> Path:
    """A run that began so many minutes after noon; one without a state has not ended."""
    folder.mkdir(parents=True)
    settings = {
        "model": {"_target_": "discern.models.mlp.MLP"},
        "data": {"_target_": "discern.data.published.mnist.MNIST", "dir": f"{folder}/here"},
        "optimizer": {"lr": 0.001},
        "folder": str(folder),
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["trainer.max_epochs=2"]))
    (folder / "metrics.csv").write_text(
        "epoch,train/loss,val/loss,val/accuracy\n1,0.9,0.8,0.7\n2,0.6,0.5,0.8\n"
    )
    if state is not None:
        summary = {
            "format": FORMAT,
            "state": state,
            "reason": reason,
            "began": f"2026-01-02T12:{minute:02}:00+00:00",
            "seconds": {"total": 65.0},
            "name": "mlp",
            "title": "mlp on MNIST",
            "data": {"title": "MNIST", "fingerprint": "f" * 64},
            "metrics": METRICS if metrics is None else metrics,
            "tags": [],
            "epochs": 2,
            **facts,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def made_sweep(folder: Path, losses: Sequence[float], **facts: Any) -> Path:
    """A sweep with a job for each val/loss, in folders ``lr=0``, ``lr=1``, …"""
    folder.mkdir(parents=True)
    jobs = [
        {"number": number, "name": f"lr={number}", "overrides": {"lr": str(number)}}
        for number in range(len(losses))
    ]
    objectives = [{"metric": "val/loss", "direction": "minimize"}]
    content = {"format": 1, "arguments": [], "objectives": objectives, "search": None, "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(content))
    for number, loss in enumerate(losses):
        made_run(folder / f"lr={number}", metrics={"val": {"loss": loss}}, **facts)
    return folder


def keep_test(
    folder: Path,
    labels: Sequence[int],
    predicted: Sequence[int],
    *,
    names: Sequence[str] = ("cat", "dog", "eel"),
    digest: str | None = None,
    sure: float = 0.9,
) -> None:
    """What a run says of test images, with pictures of all of them, 8 pixels wide."""
    label, said = np.array(labels, np.int64), np.array(predicted, np.int64)
    images, classes = len(label), len(names)
    probabilities = np.full((images, classes), (1 - sure) / (classes - 1), np.float32)
    probabilities[np.arange(images), said] = sure
    losses = -np.log(probabilities[np.arange(images), label])
    pixels = np.arange(images, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8), np.uint8)
    words = np.arange(2 * images, dtype=np.uint64).reshape(-1, 2)
    write_tested(
        Tested(
            Predictions(
                list(names), np.arange(images), label, said, probabilities, losses,
                np.ones(images, np.bool_),
            ),
            digest or digest_of(words, label),
            thumbnails(np.arange(images), pixels),
        ),
        folder,
    )  # fmt: skip


def aged(folder: Path, hours: float) -> Path:
    """All of a folder, as it was written to so many hours ago."""
    then = time.time() - 3600 * hours
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then), follow_symlinks=False)
    return folder
