"""The pixels that a graph makes of a picture are those of discern's own path, to the bit."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from models_to_export import with_card
from PIL import Image, ImageOps
from torch import Tensor, nn

from discern.data.preprocessing import Preprocessing
from discern.exports.pixels import Prepare

SHAPES: list[tuple[tuple[int, int, int], dict[str, Any]]] = [
    ((1, 28, 28), {}),
    ((3, 20, 30), {}),
    ((3, 32, 32), {"resize": 40, "interpolation": "bilinear"}),
    ((3, 56, 56), {"resize": 56, "interpolation": "bicubic"}),
    ((3, 130, 130), {"resize": 150, "interpolation": "bicubic"}),  # in several parts
]


class _Resized(nn.Module):
    def __init__(self, prepare: Prepare) -> None:
        super().__init__()
        self.prepare = prepare

    def forward(self, pixels: Tensor) -> Tensor:
        return self.prepare.resized(pixels)


@cache
def graph(number: int) -> Any:
    shape, photos = SHAPES[number]
    prepare = Prepare(with_card(nn.Identity(), shape, "", **photos).card)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Resized(prepare), (torch.zeros(2, 37, 41, shape[0], dtype=torch.uint8),), file,
            dynamo=False, opset_version=18, input_names=["x"], dynamic_axes={"x": [0, 1, 2]},
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(file.getvalue(), options)


def by_discern(number: int, picture: np.ndarray) -> np.ndarray:
    """(C, H, W) as `discern predict` makes them."""
    (channels, height, width), photos = SHAPES[number]
    if photos:
        prepared = Preprocessing(height, **photos, mean=(0.0,) * 3, std=(1.0,) * 3)
        return prepared.centre(Image.fromarray(picture)).numpy()
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    fitted = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))
    return fitted.reshape(height, width, channels).transpose(2, 0, 1)


@pytest.mark.parametrize("number", range(len(SHAPES)))
@given(
    height=st.integers(1, 400) | st.integers(1, 30) | st.just(2000),
    width=st.integers(1, 400) | st.integers(1, 30),
    turned=st.booleans(),
    noisy=st.booleans(),
    seed=st.integers(0, 2**31),
)
@example(1, 1, False, True, 0)
@example(2000, 30, False, True, 0)
@example(2000, 30, True, True, 0)
@example(375, 500, False, True, 0)
@example(80, 40, False, True, 0)
@example(81, 40, True, True, 0)
@hypothesis_settings(max_examples=25)
def test_a_picture_of_any_size_has_the_same_pixels(number, height, width, turned, noisy, seed):
    if turned:
        height, width = width, height
    generator = np.random.default_rng(seed)
    channels = SHAPES[number][0][0]
    shape = (height, width, channels) if noisy else (1, 1, channels)
    picture = generator.integers(0, 256, shape, dtype=np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(picture, (height, width, channels)))
    expected = by_discern(number, picture)
    (found,) = graph(number).run(None, {"x": picture[None]})
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert np.array_equal(found[0], expected)
    else:  # there torch resizes in float32
        assert np.abs(found[0] - expected).max() <= 1


def test_pictures_of_a_batch_are_prepared_as_one_by_one():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 50, 37, 3), dtype=np.uint8)
    (together,) = graph(2).run(None, {"x": pictures})
    for picture, found in zip(pictures, together, strict=True):
        assert np.array_equal(graph(2).run(None, {"x": picture[None]})[0][0], found)


def test_torch_gives_the_same_pixels_as_the_graph():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 97, 20, 3), dtype=np.uint8)
    for number in (1, 2, 3, 4):
        shape, photos = SHAPES[number]
        prepare = Prepare(with_card(nn.Identity(), shape, "", **photos).card)
        found = prepare.resized(torch.from_numpy(pictures)).numpy()
        assert np.array_equal(found, graph(number).run(None, {"x": pictures})[0])
