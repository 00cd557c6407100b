from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from discern.reports.tensorboard.projector import Points, write_projector


def config(folder):
    parsed = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = parsed.embeddings
    return embedding


@pytest.mark.parametrize("channels", [1, 3])
def test_each_point_has_features_labels_and_a_thumbnail(tmp_path, channels):
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    pixels = np.zeros((5, channels, 20, 30), dtype=np.uint8)
    pixels[3] = 255
    columns = {"label": ["a", "b\tc", "", "d\ne", "é"], "file": list("vwxyz")}
    write_projector(Points(features, pixels, columns), "some features", tmp_path)
    found = config(tmp_path)
    assert found.tensor_name == "some features"
    assert np.loadtxt(tmp_path / found.tensor_path) == pytest.approx(features, rel=1e-3)
    rows = (tmp_path / found.metadata_path).read_text().splitlines()
    assert rows == ["label\tfile", "a\tv", "b c\tw", "-\tx", "d e\ty", "é\tz"]
    side = found.sprite.single_image_dim[0]
    sprite = Image.open(tmp_path / found.sprite.image_path)
    assert sprite.size == (3 * side, 3 * side)
    # Row by row: the fourth is the first of the second row.
    assert sprite.getpixel((side // 2, side + side // 2)) == (255, 255, 255)
    assert sprite.getpixel((side // 2 + side, side // 2)) == (0, 0, 0)


def test_a_single_column_has_no_header_as_tensorboard_wants_it(tmp_path):
    points = Points(np.ones((2, 3), np.float32), np.zeros((2, 1, 4, 4), np.uint8), {"label": "ab"})
    write_projector(points, "x", tmp_path)
    assert (tmp_path / config(tmp_path).metadata_path).read_text() == "a\nb\n"


def test_many_thumbnails_are_smaller_as_browsers_allow_no_larger_picture(tmp_path):
    count = 171**2 + 1
    pixels = np.broadcast_to(np.uint8(9), (count, 1, 2, 2))
    points = Points(np.ones((count, 1), np.float32), pixels, {"label": ["a"] * count})
    write_projector(points, "x", tmp_path)
    assert max(Image.open(tmp_path / "projector" / "thumbnails.jpg").size) <= 8192
