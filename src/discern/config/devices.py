"""Whether this machine can have a device at all, by a look that needs no torch."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from discern.errors import DiscernError

DEVICE_FOLDER = Path("/dev")

DEVICE_FILES = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")
"""Files of drivers in it: NVIDIA's, those of its Jetson boards, WSL's, and AMD's."""


def is_absent(accelerator: str) -> bool:
    """Whether the machine certainly lacks a device; what may be there torch finds or does not."""
    system = platform.system()
    if accelerator == "mps":
        return system != "Darwin"
    if accelerator not in ("gpu", "cuda"):
        return False
    if system == "Darwin":
        return accelerator == "cuda"
    return bool(_why_hidden()) or (system == "Linux" and not _has_driver())


def no_device(accelerator: str) -> DiscernError:
    """The error for a device that PyTorch cannot use here."""
    if accelerator == "mps":
        what = "this is no Apple machine with a GPU that PyTorch can use"
    else:
        what = f"this machine has no GPU that PyTorch can use{_why_hidden()}"
    return DiscernError(
        f"trainer.accelerator={accelerator} is not allowed; {what}, so it must be cpu or auto."
    )


def _why_hidden() -> str:
    """Why a GPU would not be seen that is there, in brackets; empty if nothing hides it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f" (CUDA_VISIBLE_DEVICES={visible.strip()} hides them)"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
    return f" (torch {version} is for the CPU alone)" if version.endswith("+cpu") else ""


def _has_driver() -> bool:
    device_files = (file for name in DEVICE_FILES for file in DEVICE_FOLDER.glob(name))
    return next(device_files, None) is not None or shutil.which("nvidia-smi") is not None
