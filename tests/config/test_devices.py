from __future__ import annotations

import platform
import shutil
from importlib import metadata

import pytest

from discern.config import devices
from discern.config.devices import is_absent, no_device


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Linux without a driver, and a PyTorch for GPUs."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(metadata, "version", lambda name: "2.14.0")
    monkeypatch.setattr(devices, "DEVICE_FOLDER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_machine_without_a_driver_has_no_gpu():
    assert is_absent("gpu")
    assert is_absent("cuda")
    assert not is_absent("cpu")
    assert not is_absent("auto")
    assert not is_absent("tpu")


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "dxg", "kfd", "nvhost-gpu"])
def test_what_a_driver_has_left_may_be_a_gpu(tmp_path, name):
    (tmp_path / name).touch()
    assert not is_absent("gpu")


def test_the_drivers_program_may_know_of_one(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert not is_absent("gpu")


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_gpu_that_is_hidden_is_not_there(monkeypatch, tmp_path, value):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert is_absent("gpu")
    assert f"can use (CUDA_VISIBLE_DEVICES={value} hides them), so it" in str(no_device("gpu"))


def test_a_pytorch_for_the_cpu_alone_uses_none(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(metadata, "version", lambda name: "2.14.0+cpu")
    assert is_absent("gpu")
    assert "(torch 2.14.0+cpu is for the CPU alone)" in str(no_device("gpu"))


@pytest.mark.parametrize(
    ("system", "absent"),
    [("Darwin", {"cuda"}), ("FreeBSD", {"mps"}), ("Linux", {"gpu", "cuda", "mps"})],
)
def test_what_a_system_cannot_have(monkeypatch, system, absent):
    monkeypatch.setattr(platform, "system", lambda: system)
    assert {name for name in ("gpu", "cuda", "mps") if is_absent(name)} == absent
