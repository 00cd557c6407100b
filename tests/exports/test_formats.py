"""Every registered model in every format gives the checkpoint's probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import safetensors
import torch
from models_to_export import (
    CLASSES,
    Branching,
    Counting,
    InFloat64,
    Nearest,
    Noisy,
    OneByOne,
    PlacesOfMaxima,
    Pooling,
    Spectral,
    inverse,
    mlp,
    own,
    small,
    transfer,
)
from torch import nn

from discern.errors import DiscernError
from discern.exports.export import export
from discern.exports.running import runs_in_torch
from discern.models.combined import Model, combined

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "mlp with dropout and norm": lambda: mlp(dropout=0.5, norm="batch", activation="gelu"),
    "a user's own": own,
    "a user's own in float64": lambda: small(InFloat64),
    "a user's own with weights that are computed": lambda: small(Spectral),
    "a user's own that pools to odd sizes": lambda: small(Pooling),
    "torchvision, scaled up": lambda: transfer("torchvision", "mobilenet_v3_small", side=32),
    "timm": lambda: transfer("timm", "test_efficientnet.r160_in1k", unfreeze="all"),
    "timm, attention": lambda: transfer("timm", "test_vit.r160_in1k", side=160),
    "efficientnet_lite": lambda: transfer("efficientnet_lite", "efficientnet_lite0"),
}


def pictures(channels: int, count: int, height: int, width: int) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_checkpoints_probabilities(name, tmp_path):
    network = MODELS[name]()
    exported = export(network, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    expected = runs_in_torch(network)
    for count, height, width in ((1, 30, 41), (3, 64, 64), (1, 9, 100)):
        pixels = pictures(network.card.input_shape[0], count, height, width)
        found = exported.run(pixels)
        assert found.dtype == np.float32
        assert found.shape == (count, len(CLASSES))
        assert found == pytest.approx(expected(pixels), abs=1e-6)


@pytest.mark.parametrize("tta", ["flip", "five_crop"])
def test_several_networks_and_views_of_a_picture_are_one_graph(tta, tmp_path):
    networks = [transfer("torchvision", name) for name in ("mobilenet_v3_small", "squeezenet1_1")]
    models = [
        Model(each, each.card.model_copy(update={"temperature": 1.5}))  # type: ignore[union-attr]
        for each in networks
    ]
    model = combined(models, tta)
    model.network.card = model.card  # type: ignore[assignment]
    exported = export(model.network, tmp_path)
    pixels = pictures(3, 2, 90, 71)
    assert exported.run(pixels) == pytest.approx(runs_in_torch(model.network)(pixels), abs=1e-6)


@pytest.mark.parametrize("format_name", ["torch_export", "torch", "safetensors"])
def test_other_formats_give_the_checkpoints_probabilities(format_name, tmp_path):
    network = own()
    exported = export(network, tmp_path, format=format_name)
    for size in ((1, 30, 41), (2, 64, 64), (1, 1, 1)):
        pixels = pictures(3, *size)
        expected = runs_in_torch(network)(pixels)
        assert exported.run(pixels) == pytest.approx(expected, abs=1e-6)


def test_the_temperature_is_in_the_file(tmp_path):
    network = mlp()
    found = export(network, tmp_path, temperature=2.5).run(pictures(1, 2, 28, 28))
    expected = runs_in_torch(network, 2.5)(pictures(1, 2, 28, 28))
    assert found == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(found, runs_in_torch(network)(pictures(1, 2, 28, 28)))


def test_the_onnx_file_describes_the_model(tmp_path):
    path = export(mlp(), tmp_path, sha256="ab" * 32).path
    said = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert json.loads(said["class_names"]) == CLASSES
    assert said["discern_format"] == "1"
    assert said["checkpoint_sha256"] == "ab" * 32
    assert said["data_fingerprint"] == "0" * 64
    assert said["weights_licence"] == "not stated"


def test_the_onnx_file_names_no_file_of_the_machine(tmp_path):
    content = export(own(), tmp_path).path.read_bytes()
    assert b"/src/" not in content
    assert b".py" not in content


def test_torch_reads_the_state_dict_without_pickle(tmp_path):
    network = mlp()
    export(network, tmp_path, format="torch")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state.keys() == network.state_dict().keys()
    assert json.loads((tmp_path / "model.json").read_text())["class_names"] == CLASSES


def test_safetensors_alone_reads_weights_and_card(tmp_path):
    network = mlp()
    export(network, tmp_path, format="safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(network.state_dict())
        assert json.loads(file.metadata()["card"])["class_names"] == CLASSES


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(DiscernError, match=r"linalg_inv.*, an operator that ONNX"):
        export(inverse(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_onnx_has_in_part_is_named(tmp_path):
    with pytest.raises(DiscernError, match=r"uses adaptive_max_pool2d, .*\(.*put size.*export ke"):
        export(small(PlacesOfMaxima), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Branching, OneByOne, Counting, Noisy, Nearest])
def test_a_graph_that_is_not_the_network_is_refused(kind, tmp_path):
    with pytest.raises(DiscernError, match="does not give the model's probabilities"):
        export(small(kind), tmp_path)


def test_torch_export_that_fails_says_so_in_a_sentence_alone(tmp_path, capfd):
    with pytest.raises(DiscernError, match="format=torch_export is not possible for this model: "):
        export(small(Branching), tmp_path, format="torch_export")
    assert capfd.readouterr() == ("", "")
    assert not any(tmp_path.iterdir())


def test_weights_keep_their_names_where_they_are_computed(tmp_path):
    network = small(Spectral)
    path = export(network, tmp_path, format="torch").path
    assert torch.load(path, weights_only=True).keys() == network.state_dict().keys()


def test_a_format_that_does_not_exist_has_a_neighbour(tmp_path):
    with pytest.raises(DiscernError, match="did you mean onnx"):
        export(mlp(), tmp_path, format="onx")


def test_openvino_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("discern.exports.openvino_file.is_installed", lambda: False)
    with pytest.raises(DiscernError, match=r"discern\[openvino\]"):
        export(mlp(), tmp_path, format="openvino")
