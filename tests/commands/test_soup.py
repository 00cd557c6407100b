"""The mean of the weights of several models: what is measured anew for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from discern.commands.evaluate import evaluate
from discern.models.saved import read
from discern.run import train
from photos import photo_folder
from run_files import composed


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The best checkpoints of two runs that have trained a backbone's batch normalisations."""
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))
    photos = photo_folder(tmp_path / "photos", per_class=12)
    found = []
    for seed in range(2):
        cfg = composed(
            *("model=densenet_transfer", "model.backbone=mobilenet_v3_small"),
            *("model.weights=null", "model.head=[4]", "model.unfreeze=all", "model.train_bn=true"),
            *("data=image_folder", f"data.dir='{photos}'", "data.image_size=32"),
            *("data.num_workers=0", "data.batch_size=8", "data.val_size=4", "data.test_size=4"),
            *("data.seed=0", f"seed={seed}", "trainer.accelerator=cpu", "trainer.max_epochs=1"),
            *("threads=1", "logger=csv", "report=false", "callbacks.dashboard.sparing=true"),
            "test=false",
        )
        cfg.folder = str(tmp_path / f"run{seed}")
        found.append(train(cfg).folder / "checkpoints" / "best.safetensors")
    return found


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_the_statistics_of_a_backbone_are_measured_whatever_runs_it(
    two, tmp_path, no_pictures, engine
):
    paths = ",".join(f"'{path}'" for path in two)
    cfg = composed(
        *(f"ckpt_path=[{paths}]", "ensemble=soup", f"engine={engine}"), command="evaluate"
    )
    cfg.folder = str(tmp_path / "evaluation")
    evaluate(cfg)
    soup = read(tmp_path / "evaluation" / "soup.safetensors")["state_dict"]
    batches = {int(part) for name, part in soup.items() if name.endswith("num_batches_tracked")}
    assert batches == {1}  # all 16 training images
    variances = [part for name, part in soup.items() if name.endswith("running_var")]
    assert not any(torch.equal(each, torch.ones_like(each)) for each in variances)
