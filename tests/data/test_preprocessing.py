from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812 - its usual name

from discern.data.pictures import PictureError
from discern.data.preprocessing import Preprocessing
from photos import oriented, photo, smooth

HALVES = (0.5, 0.5, 0.5)


def prepare(image_size=32, resize=37, interpolation="bilinear") -> Preprocessing:
    return Preprocessing(image_size, resize, interpolation, HALVES, HALVES)


def torchvisions(image: Image.Image, target: Preprocessing) -> np.ndarray:
    """What torchvision's transforms make of an image."""
    mode = InterpolationMode(target.interpolation)
    image = F.resize(ImageOps.exif_transpose(image), target.resize, mode, antialias=True)
    pixels = np.asarray(F.center_crop(image, target.image_size).convert("RGB"))
    return pixels.transpose(2, 0, 1).astype(int)


def assert_as_torchvision(pixels, image: Image.Image, target: Preprocessing) -> None:
    assert pixels.shape == target.shape
    difference = np.abs(pixels.numpy().astype(int) - torchvisions(image, target))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


SIZES = [
    *[(1, 1), (1, 2), (2, 1), (3, 1), (1, 50), (50, 1), (40, 30), (30, 40), (37, 37), (36, 38)],
    *[(32, 32), (100, 99), (200, 99), (201, 100), (300, 100), (100, 301), (640, 480)],
    *[(1001, 100), (99, 2003), (123, 457)],  # very long
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("image_size", "resize"), [(32, 37), (32, 32), (8, 9), (33, 48)])
def test_an_image_is_scaled_and_cut_as_by_torchvision(image_size, resize, interpolation):
    target = prepare(image_size, resize, interpolation)
    for size in SIZES:
        image = photo(0.3, "noise", size)
        assert_as_torchvision(target.centre(image), image, target)


@pytest.mark.parametrize("size", [(500, 25), (25, 500), (3, 400)])
def test_a_very_long_picture_that_is_magnified_is_as_by_torchvision_but_for_rounding(size):
    # Pillow scales a part of it in another order than all of it.
    image = photo(0.3, "noise", size)
    for target in (prepare(), prepare(interpolation="bicubic")):
        pixels = target.centre(image).numpy().astype(int)
        assert np.abs(pixels - torchvisions(image, target)).mean() < 0.5


def test_a_very_long_picture_takes_no_more_memory_than_its_middle():
    # Scaled as a whole it would have 37 x 3,700,000 pixels.
    pixels = prepare().centre(Image.new("RGB", (1, 100_000), (10, 20, 30)))
    assert pixels.flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_is_turned_upright(tmp_path, orientation, suffix):
    target = prepare()
    path = oriented(photo(0.3, "noise", (61, 40)), tmp_path / f"a.{suffix}", orientation)
    assert_as_torchvision(target.read(path), Image.open(path), target)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(600, 480), (601, 487), (487, 1207), (121, 130), (304, 152)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path, size, orientation):
    target = prepare(26, 30)
    path = oriented(smooth(size), tmp_path / "large.jpg", orientation, quality=95)
    assert target.reduction(*size) >= 2
    image = Image.open(path)
    difference = np.abs(target.read(path).numpy().astype(int) - torchvisions(image, target))
    assert difference.mean() < 0.5
    assert difference.max() <= 8


@pytest.mark.parametrize("resize", [1, 10, 37, 256])
def test_what_is_left_is_twice_what_is_needed(resize):
    target = prepare(1, resize)
    for side in (1, resize, 2 * resize - 1, 2 * resize, 5 * resize, 40 * resize):
        reduction = target.reduction(side, 3 * side)
        assert reduction == target.reduction(3 * side, side)
        assert reduction <= 1 or side / reduction >= 2 * resize


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(PictureError, match="not a picture"):
        prepare().read(tmp_path / "text.jpg")
