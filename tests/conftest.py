"""Fixtures that tests of several packages use."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import HealthCheck, settings

# What takes seconds to import is imported by the fixtures that use it: the process that only hands
# tests out starts at once.
if TYPE_CHECKING:
    from discern.training.result import Result

if "DISCERN_TESTS_HOME" not in os.environ:
    # No test sees what its user has kept or configured. The processes that pytest-xdist starts, and
    # all that tests start, have the same empty home.
    from discern.files.cache import cache_dir

    # Files that no test fetches, and some take from there.
    os.environ["DISCERN_TESTS_KEPT"] = str(cache_dir(make=False))
    home = tempfile.mkdtemp(prefix="home-of-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {"DISCERN_TESTS_HOME": home, "HOME": home}
    for name in ("DISCERN_CACHE_DIR", "DISCERN_DATA_DIR", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR",
                 "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
                 "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):  # fmt: skip
        os.environ.pop(name, None)

TINY_IMAGES = {"train": 300, "t10k": 100}

# No test is about time: an example that a busy machine takes long for is no failure. And what a
# change is checked with is the same each time; elsewhere new examples are tried in each run.
settings.register_profile(
    "discern",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("discern")

# A script that runs the tests in its background has them ignore Ctrl-C, and nohup the end of the
# terminal, and with them each process that they start, send it to, and wait for.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def _tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    import numpy as np

    from discern.data.published.idx import idx_header, idx_sha256
    from discern.data.published.mnist import read_sample

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
    from discern.data.published.mnist import MNIST

    folder, digests = _tiny_mnist
    tiny = dataclasses.replace(MNIST.published, sha256=digests)
    monkeypatch.setattr(MNIST, "published", tiny)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden losses anew instead of comparing with them; the commit says why",
    )
    parser.addoption("--reversed", action="store_true", help="run the last test first")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--reversed"):
        items.reverse()


def pytest_collection_finish() -> None:
    """Leave a million objects of imported modules out of all garbage collections to come."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Kill what a failed test has left running: a copy of this process keeps its pipes open, and
    whoever has started it would wait for it."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures become files of one pixel: what is drawn takes longer than what is tested."""
    from matplotlib.figure import Figure

    from run_files import one_pixel

    monkeypatch.setattr(Figure, "savefig", one_pixel)


@pytest.fixture
def tiny_run(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Trains on ``tiny_mnist`` in this process, in a folder of ``tmp_path``."""
    from discern.run import train
    from discern.runs.sweep_job import DRAWS
    from run_files import TINY, composed

    def run(*overrides: str, name: str = "run") -> Result:
        for override in (*TINY, *overrides):
            if override.startswith(f"++hydra.job.env_set.{DRAWS}="):
                monkeypatch.setenv(DRAWS, override[-1])
        cfg = composed(*TINY, *overrides)
        cfg.data.dir = str(tiny_mnist)
        cfg.folder = str(tmp_path / name)
        return train(cfg)

    return run
