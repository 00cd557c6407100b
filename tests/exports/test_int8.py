"""8 bits: what is quantised, and that it gives the model's probabilities."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from models_to_export import PHOTOS, mlp, own, with_card
from torch import Tensor, nn

from discern.exports import int8, onnx_file
from discern.exports.export import export


class PreActivation(nn.Module):
    """As DenseNet's layers: what is normalised is no convolution's output, but several together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(8)
        self.second, self.output = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.weight, -2, 2)
        nn.init.uniform_(self.norm.bias, -1, 1)

    def forward(self, images: Tensor) -> Tensor:
        both = torch.cat([images[..., 1:-1, 1:-1], self.first(images)], 1)
        return self.output(self.second(self.norm(both).relu()).mean((2, 3)))


def pre_activation() -> nn.Module:
    torch.manual_seed(0)
    return with_card(PreActivation(), (3, 32, 32), "", **PHOTOS)


def pictures(count: int, channels: int, height: int = 44, width: int = 53) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 5, 5, channels)).repeat(11, 1).repeat(11, 2)
    return list(coarse[:, :height, :width].astype(np.uint8))


@pytest.mark.parametrize("network", [own, pre_activation, lambda: mlp(norm="batch")],
                         ids=["own", "pre-activation", "mlp"])  # fmt: skip
def test_it_gives_nearly_the_same_probabilities(network, tmp_path):
    made = network()
    exported = export(made, tmp_path)
    given = pictures(16, made.card.input_shape[0])
    small = onnx_file.run(int8.write(exported.path, given, exported.about), exported.bundle)
    for picture in given:
        found = small(picture[None])
        assert found == pytest.approx(exported.run(picture[None]), abs=0.05)


def test_a_normalisation_that_no_convolution_takes_in_is_in_8_bits_too(tmp_path):
    exported = export(pre_activation(), tmp_path)
    before = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert before.count("BatchNormalization") == 1
    model = onnx.load(int8.write(exported.path, pictures(8, 3), exported.about))
    assert "BatchNormalization" not in [node.op_type for node in model.graph.node]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    assert {made[node.input[0]] for node in convolutions} == {"DequantizeLinear"}
    assert len({each.name for each in model.graph.initializer}) == len(model.graph.initializer)


def test_preprocessing_stays_exact(tmp_path):
    exported = export(own(), tmp_path)
    model = onnx.load(int8.write(exported.path, pictures(8, 3), exported.about))
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len([name for name in quantised if name.startswith(int8.PREPARATION)]) == 1


def test_the_quantiser_logs_nothing_and_the_log_is_left_as_it_was(tmp_path, caplog):
    exported = export(mlp(norm="batch"), tmp_path)  # of which it says that an axis is out of range
    caplog.clear()
    logging.disable(logging.INFO)  # the caller's own choice
    try:
        int8.write(exported.path, pictures(8, 1), exported.about)
        assert logging.root.manager.disable == logging.INFO
        assert not caplog.records
        logging.warning("heard")
    finally:
        logging.disable(logging.NOTSET)
    assert caplog.messages == ["heard"]
