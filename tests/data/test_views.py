from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812 - its usual name

from discern.data.pictures import read_picture
from discern.data.preprocessing import Preprocessing
from discern.data.views import PHOTO_AUGMENTATIONS, Crop, PhotoAugmentation, reduction_of
from photos import photo, smooth

HALVES = (0.5, 0.5, 0.5)
TARGET = Preprocessing(24, 27, "bilinear", HALVES, HALVES)
SIZES = [(1, 1), (1, 40), (70, 1), (40, 30), (30, 41), (97, 64), (24, 24), (11, 150)]


def shown(augmentation: PhotoAugmentation, image: Image.Image, crop: Crop) -> np.ndarray:
    pixels = augmentation.show(image, crop, image.width, TARGET)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == TARGET.shape
    return pixels.numpy().astype(int)


def assert_alike(pixels: np.ndarray, expected: Image.Image) -> None:
    """Equal, but for rounding, and a few pixels whose centre is between two of the picture's."""
    difference = np.abs(pixels - np.asarray(expected).transpose(2, 0, 1).astype(int))
    assert difference.mean() < 0.6
    assert (difference > 1).mean() < 0.05


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize("size", SIZES)
def test_a_view_is_torchvisions_rotation_crop_scaling_and_flip(size, interpolation):
    augmentation = PHOTO_AUGMENTATIONS["notes"]
    target = Preprocessing(24, 27, interpolation.value, HALVES, HALVES)
    image = photo(0.4, "noise", size)
    for seed in range(25):
        torch.manual_seed(seed)
        view = augmentation.draw(*size)
        turned = F.rotate(image, view.angle, InterpolationMode.NEAREST)
        box = view.top, view.left, view.height, view.width
        expected = F.resized_crop(turned, *box, [24, 24], interpolation)
        if view.mirrored:
            expected = F.hflip(expected)
        assert_alike(augmentation.show(image, view, image.width, target).numpy(), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_notes_views_are_those_of_torchvisions_transforms(size):
    theirs = transforms.Compose(
        [
            transforms.RandomRotation(30),
            transforms.RandomResizedCrop(24),
            transforms.RandomHorizontalFlip(),
        ]
    )
    ours = PHOTO_AUGMENTATIONS["notes"]
    image = photo(0.4, "noise", size)
    for seed in range(25):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        assert_alike(shown(ours, image, ours.draw(*size)), expected)


@pytest.mark.parametrize("angle", [0.0, 90.0, -90.0, 180.0, 12.3, -45.0])
def test_any_angle_is_turned_as_by_torchvision(angle):
    image = photo(0.4, "noise", (40, 30))
    pixels = shown(PhotoAugmentation(), image, Crop(angle, 3, 2, 30, 25, False))
    turned = F.rotate(image, angle, InterpolationMode.NEAREST)
    assert_alike(pixels, F.resized_crop(turned, 2, 3, 25, 30, [24, 24]))


def test_draws_are_of_the_ranges_asked_for():
    augmentation = PhotoAugmentation(degrees=10, scale=(0.5, 1.0), ratio=(1.0, 1.5))
    views = [augmentation.draw(100, 80) for _ in range(300)]
    assert max(abs(view.angle) for view in views) <= 10
    assert min(view.angle for view in views) < 0 < max(view.angle for view in views)
    assert min(view.width * view.height for view in views) >= 0.48 * 100 * 80
    assert min(view.width / view.height for view in views) >= 0.98
    assert max(view.left + view.width for view in views) <= 100
    assert max(view.top + view.height for view in views) <= 80
    assert 100 < sum(view.mirrored for view in views) < 200


def jpeg(image: Image.Image, tmp_path) -> Image.Image:
    path = tmp_path / "picture.jpg"
    image.save(path, quality=98)
    return path


@pytest.mark.parametrize("size", [(400, 304), (403, 301), (307, 1209)])
def test_a_reduced_picture_shows_the_same_view(tmp_path, size):
    augmentation = PHOTO_AUGMENTATIONS["notes"]
    path = jpeg(smooth(size), tmp_path)
    whole, reductions, differences = read_picture(path, 3), set(), []
    for seed in range(40):
        torch.manual_seed(seed)
        view = augmentation.draw(*size)
        reduced = read_picture(path, 3, lambda w, h, view=view: reduction_of(view, 24))
        reductions.add(round(size[0] / reduced.width))
        assert min(view.width, view.height) * reduced.width / size[0] >= 23
        pixels = augmentation.show(reduced, view, size[0], TARGET).numpy().astype(int)
        differences.append(np.abs(pixels - shown(augmentation, whole, view)).mean())
    assert len(reductions) > 1
    # The box has as few as 24 pixels a side, and its edges are whole ones.
    assert np.mean(differences) < 5
    assert max(differences) < 15


def test_a_reduced_view_does_not_reach_beyond_the_picture(tmp_path):
    augmentation = PHOTO_AUGMENTATIONS["light"]
    for size in ((201, 203), (205, 199), (403, 397)):
        path = jpeg(Image.new("RGB", size, "white"), tmp_path)
        for seed in range(60):
            torch.manual_seed(seed)
            view = augmentation.draw(*size)
            reduced = read_picture(path, 3, lambda w, h, view=view: reduction_of(view, 24))
            assert augmentation.show(reduced, view, size[0], TARGET).min() >= 254


@pytest.mark.parametrize("name", [name for name in PHOTO_AUGMENTATIONS if name != "none"])
@pytest.mark.parametrize("size", [(1, 1), (40, 30), (3, 400)])
def test_every_augmentation_shows_pictures_of_any_size(name, size):
    augmentation = PHOTO_AUGMENTATIONS[name]
    image = photo(0.4, "noise", size)
    views = []
    for seed in range(20):
        torch.manual_seed(seed)
        views.append(shown(augmentation, image, augmentation.draw(*size)))
    if size == (40, 30):
        assert len({view.tobytes() for view in views}) > 15


def test_what_the_names_mean():
    assert PHOTO_AUGMENTATIONS["none"] is None
    assert list(PHOTO_AUGMENTATIONS) == ["none", "notes", "light", "strong", "trivial"]
    turned = [name for name, made in PHOTO_AUGMENTATIONS.items() if made and made.degrees]
    assert turned == ["notes"]
    coloured = [name for name, made in PHOTO_AUGMENTATIONS.items() if made and made.colour]
    assert coloured == ["strong", "trivial"]


def test_what_comes_in_at_the_corners_is_black():
    white = Image.new("RGB", (40, 40), "white")
    pixels = shown(PhotoAugmentation(), white, Crop(30.0, 0, 0, 40, 40, False))
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 12, 12].tolist() == [255, 255, 255]
