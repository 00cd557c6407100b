"""The README's lines run where there is neither torch nor discern."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from models_to_export import CLASSES, mlp, own
from PIL import Image

from discern.exports.export import export
from discern.exports.running import preprocessing_of, runs_in_torch
from photos import oriented, smooth
from run_files import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

ALLOWED = ("numpy", "onnxruntime", "PIL")

# What these import themselves; of all else nothing that is installed can be imported.
ALONE = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {ALLOWED}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
sys.meta_path.insert(0, Nothing())
"""


def lines() -> str:
    (found,) = re.findall(r"```python\n(import json.*?)```", README, re.DOTALL)
    return found


def run(program: str, folder) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", ALONE + program], cwd=folder, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(("model", "mode"), [(mlp, "L"), (own, "RGB")])
def test_the_lines_of_the_readme_run_without_torch_and_discern(tmp_path, model, mode):
    network = model()
    export(network, tmp_path / "exported")
    shape = (60, 81) if mode == "L" else (60, 81, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", format="PNG")
    done = run(lines().replace('"RGB"', f'"{mode}"', 1), tmp_path)
    assert done.returncode == 0, done.stderr
    (expected,) = runs_in_torch(network)(pixels.reshape(1, 60, 81, -1))
    name, _, probability = done.stdout.strip().rpartition(" ")
    assert name == CLASSES[int(expected.argmax())]
    assert float(probability) == pytest.approx(float(expected.max()), abs=1e-5)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_the_lines_of_the_readme_see_a_photograph_as_discern_does(tmp_path, orientation):
    network = own()
    export(network, tmp_path / "exported")
    path = oriented(smooth((61, 45)), tmp_path / "photo.jpg", orientation)
    done = run(lines(), tmp_path)
    assert done.returncode == 0, done.stderr
    seen = preprocessing_of(network.card).picture(path)
    (expected,) = runs_in_torch(network)(seen[None])
    name, _, probability = done.stdout.strip().rpartition(" ")
    assert name == CLASSES[int(expected.argmax())]
    assert float(probability) == pytest.approx(float(expected.max()), abs=1e-5)


@pytest.mark.parametrize("package", ["torch", "discern", "onnx"])
def test_the_environment_really_lacks_the_others(tmp_path, package):
    done = run(f"import {package}", tmp_path)
    assert done.returncode == 1
    assert "is not installed here" in done.stderr
