"""`format=openvino`, where OpenVINO is installed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from models_to_export import CLASSES, inverse, mlp, own, transfer
from PIL import Image
from torch import nn

from discern.errors import DiscernError
from discern.exports import openvino_file
from discern.exports.export import export
from discern.exports.running import runs_in_torch
from run_files import REPOSITORY

# Not imported here, for that would load the package that reports to its publisher.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)

PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")

WITHOUT_DISCERN = """
import sys
for name in ("torch", "discern", "onnx", "onnxruntime", "openvino_telemetry"):
    sys.modules[name] = None
"""


def pictures(network: nn.Module, count: int, height: int, width: int) -> np.ndarray:
    shape = (count, height, width, network.card.input_shape[0])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_it_gives_the_checkpoints_probabilities_of_small_images(tmp_path):
    network = mlp()
    exported = export(network, tmp_path, format="openvino", temperature=2.5)
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    for size in ((1, 28, 28), (32, 28, 28)):
        pixels = pictures(network, *size)
        found = exported.run(pixels)
        assert (found.dtype, found.shape) == (np.float32, (size[0], len(CLASSES)))
        assert found == pytest.approx(runs_in_torch(network, 2.5)(pixels), abs=1e-5)


@pytest.mark.parametrize(
    "network",
    [mlp, own, lambda: transfer("torchvision", "mobilenet_v3_small", side=32)],
    ids=["mlp", "a user's own", "a backbone"],
)
def test_it_gives_the_checkpoints_probabilities_of_pictures_that_are_resized(network, tmp_path):
    made = network()
    exported = export(made, tmp_path, format="openvino")
    for size in ((1, 90, 121), (3, 64, 64), (1, 9, 100), (1, 1, 1)):
        pixels = pictures(made, *size)
        # It computes the weights of resizing in 32 bits, so that some pixels differ by 1 of 255.
        assert exported.run(pixels) == pytest.approx(runs_in_torch(made)(pixels), abs=2e-3)


def test_the_model_says_what_it_is(tmp_path):
    path = export(mlp(), tmp_path, format="openvino", sha256="ab" * 32).path
    openvino = openvino_file._openvino()
    model = openvino.Core().read_model(path)
    assert json.loads(model.get_rt_info(["discern", "class_names"]).astype(str)) == CLASSES
    assert model.get_rt_info(["discern", "checkpoint_sha256"]).astype(str) == "ab" * 32


def test_the_weights_keep_their_32_bits(tmp_path):
    network = mlp()
    export(network, tmp_path, format="openvino")
    values = next(network.parameters()).detach().numpy()
    content = (tmp_path / "model.bin").read_bytes()
    assert values.tobytes() in content


@pytest.mark.parametrize(("model", "mode"), [(mlp, "L"), (own, "RGB")])
def test_the_lines_of_the_page_run_without_torch_and_discern(tmp_path, model, mode):
    network = model()
    export(network, tmp_path / "exported", format="openvino")
    shape = (60, 81) if mode == "L" else (60, 81, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", format="PNG")
    (lines,) = re.findall(r"```python\n(import json\nimport numpy.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DISCERN + lines.replace('"RGB"', f'"{mode}"', 1)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (expected,) = runs_in_torch(network)(pixels.reshape(1, 60, 81, -1))
    name, _, probability = done.stdout.strip().rpartition(" ")
    assert name == CLASSES[int(expected.argmax())]
    assert float(probability) == pytest.approx(float(expected.max()), abs=2e-3)


def test_exporting_tells_nobody(tmp_path):
    export(mlp(), tmp_path, format="openvino")
    assert "openvino_telemetry" not in sys.modules


def test_a_network_that_it_cannot_hold_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(DiscernError, match=r"linalg_inv"):
        export(inverse(), tmp_path, format="openvino")
    monkeypatch.setattr("discern.exports.onnx_file.graph", lambda *_: b"no model")
    with pytest.raises(DiscernError, match=r"^format=openvino is not possible for this model: "):
        export(mlp(), tmp_path, format="openvino")
    assert not list(tmp_path.iterdir())
