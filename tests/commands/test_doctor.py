from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from discern.commands import doctor
from discern.commands.cli import main
from discern.data.published import cifar, flowers, pets
from discern.data.published.publication import FASHION_MNIST, MNIST


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder in a home of its own."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def text(capsys: pytest.CaptureFixture[str]) -> str:
    main(["doctor"])
    return capsys.readouterr().out


def test_versions_folders_and_missing_extras_are_listed(here, capsys, monkeypatch):
    (here / "data" / "MNIST").mkdir(parents=True)
    (here / "conf" / "model").mkdir(parents=True)
    (here / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Net\n")
    weights = here.parent / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    (weights / "resnet18-f37072fd.pth").write_bytes(bytes(20_000_000))
    monkeypatch.setenv("TORCH_HOME", str(here.parent / "torch"))
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ['none-such>=1; extra == "timm"', "numpy>=2"]
    )
    told = text(capsys)
    assert f"  torch            {importlib.metadata.version('torch')} (built for " in told
    assert "  data             ~/work/data: mnist\n" in told
    assert "  weights          ~/torch/hub/checkpoints: 1 file, 0.02 GB\n" in told
    assert "  own choices      ~/work/conf: 1 choice\n" in told
    assert "  outputs          ~/work/outputs: not there\n" in told
    assert "  to install       pip install 'discern[timm]'\n" in told


def test_it_can_be_pasted_neither_secrets_nor_the_name_of_the_home(here, capsys, monkeypatch):
    monkeypatch.setenv("DISCERN_DATA_DIR", str(here / "pictures"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("PYTHONPATH", "/x/0123456789abcdef")
    told = text(capsys)
    assert "  DISCERN_DATA_DIR" in told
    assert "~/work/pictures: not there" in told
    assert str(here.parent) not in told
    assert "0123456789abcdef" not in told


def test_json_is_for_programs(here, capsys):
    main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["Versions"]["python"].startswith(f"{sys.version_info.major}.")
    assert facts["Devices"].keys() >= {"CPU", "threads"}


@pytest.mark.parametrize("columns", ["50", "80"])
def test_no_line_is_longer_than_the_terminal(here, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    lines = text(capsys).splitlines()
    assert max(map(len, lines)) <= int(columns)


def test_the_gpus_are_those_that_the_driver_names(here, tmp_path, capsys, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 570.00'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "  GPU 0            NVIDIA H100 80GB HBM3, 81559 MiB, driver 570.00\n" in text(capsys)
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert "  GPU              none found by nvidia-smi\n" in text(capsys)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "  GPU              none found (there is no nvidia-smi)\n" in text(capsys)


def test_another_word_is_refused(here):
    with pytest.raises(SystemExit, match=r"yaml is not a setting of discern doctor; .*--json"):
        main(["doctor", "yaml"])


def test_data_sets_are_looked_for_where_they_are_kept():
    folders = doctor.DATA_FOLDERS
    assert folders["mnist"] == MNIST.folder
    assert folders["fashion_mnist"] == FASHION_MNIST.folder
    assert {*FASHION_MNIST.system_folders} == {doctor.SYSTEM_DATA["fashion_mnist"]}
    assert folders["flowers102"] == flowers.FOLDER
    assert folders["oxford_pets"] == pets.FOLDER
    assert {folders["cifar10"], folders["cifar100"]} == {
        cifar.CIFAR10.published.base_folder,
        cifar.CIFAR100.published.base_folder,
    }
