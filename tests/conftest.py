"""Fixtures that tests of several packages use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from discern.data.idx import idx_header, idx_sha256
from discern.data.mnist import MNIST
from discern.data.packaged import read_sample

TINY_IMAGES = {"train": 300, "t10k": 100}


@pytest.fixture(scope="session")
def _tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("tiny")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digests = {}
    for name, array in read_sample().items():
        array = array[: TINY_IMAGES[name.split("-")[0]]]
        (raw / name).write_bytes(idx_header(array.shape) + np.ascontiguousarray(array).tobytes())
        digests[name] = idx_sha256(array)
    return folder, digests


@pytest.fixture
def tiny_mnist(_tiny_mnist: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``data.dir`` with 300 training and 100 test digits, which pass for the whole of MNIST."""
    folder, digests = _tiny_mnist
    tiny = dataclasses.replace(MNIST.published, sha256=digests)
    monkeypatch.setattr(MNIST, "published", tiny)
    return folder
