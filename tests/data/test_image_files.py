from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from discern.data.augment import View
from discern.data.image_files import ImageFiles
from discern.data.images import AugmentedImages
from discern.data.loader import ImageLoader
from discern.data.pictures import read_picture
from discern.data.preprocessing import Preprocessing
from discern.data.views import PHOTO_AUGMENTATIONS
from discern.errors import DiscernError
from photos import oriented, photo, photo_folder

TARGET = Preprocessing(16, 18, "bilinear", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
CHANGING = [name for name in PHOTO_AUGMENTATIONS if name != "none"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return photo_folder(tmp_path / "photos", per_class=5)


def images_of(files: list[Path], target: Preprocessing = TARGET) -> ImageFiles:
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    rows = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return ImageFiles(files, torch.arange(len(files)), rows, target)


def all_of(folder: Path) -> ImageFiles:
    return images_of(sorted(path for path in folder.rglob("*") if path.is_file()))


def views(images: ImageFiles, name="strong", seed=1, epoch=0, indices=None) -> torch.Tensor:
    chosen = np.arange(len(images)) if indices is None else np.array(indices)
    return images.augmented(chosen, View.of(PHOTO_AUGMENTATIONS[name], seed, epoch))[0]


# As in evaluation


def test_an_image_is_prepared_and_normalised(folder):
    images = all_of(folder)
    batch, labels = images.__getitems__([3, 0])
    assert labels.tolist() == [3, 0]
    assert batch.dtype == torch.float32
    for row, index in zip(batch, (3, 0), strict=True):
        pixels = TARGET.read(Path(images.names()[index])).double() / 255
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (TARGET.mean, TARGET.std))
        assert torch.allclose(row.double(), (pixels - mean) / std, atol=1e-5)
    image, label = images[3]
    assert torch.equal(image, batch[0])
    assert label == 3


def test_smaller_images_show_the_same_in_fewer_pixels(folder):
    images = all_of(folder)
    small = images.smaller(8)
    batch, labels = small.__getitems__([3, 0])
    assert batch.shape == (2, 3, 8, 8)
    assert labels.tolist() == [3, 0]
    large = torch.nn.functional.avg_pool2d(images.__getitems__([3, 0])[0], 2)
    assert (batch - large).abs().mean() < 0.1
    assert images.smaller(16) is images
    assert images[3][0].shape == (3, 16, 16)


def test_a_subset_serves_those_it_names(folder):
    images = all_of(folder)
    part = images.subset(torch.tensor([7, 2]))
    assert len(part) == 2
    assert part.names() == [images.names()[index] for index in (7, 2)]
    assert torch.equal(part.__getitems__([0, 1])[0], images.__getitems__([7, 2])[0])
    assert part[1][1] == 2
    assert torch.equal(views(part), views(images, indices=[7, 2]))
    assert len(images) == 10


def test_names_of_any_bytes_are_read_and_can_be_written(tmp_path):
    file = tmp_path / os.fsdecode(b"\xff\xe9.png")
    photo(0.3, "a").save(file)
    images = images_of([file])
    assert images[0][0].shape == TARGET.shape
    assert images.names() == [f"{tmp_path}/\\xff\\xe9.png"]


# As in training


@pytest.mark.parametrize("name", CHANGING)
def test_a_view_is_a_function_of_seed_epoch_and_content(folder, name):
    images = all_of(folder)
    torch.manual_seed(1)
    first = views(images, name)
    torch.manual_seed(2)
    assert torch.equal(views(images, name), first)
    for seed, epoch in ((1, 1), (2, 0)):
        other = views(images, name, seed, epoch)
        assert sum(not torch.equal(*pair) for pair in zip(first, other, strict=True)) >= 9


@pytest.mark.parametrize("name", CHANGING)
def test_an_image_keeps_its_view_whatever_else_there_is(folder, name):
    images = all_of(folder)
    before = dict(zip(images.names(), views(images, name, epoch=3), strict=True))
    photo_folder(folder, ["bird"], per_class=3)
    (folder / "cat" / "0.jpg").rename(folder / "moved.jpg")
    more = all_of(folder)
    after = dict(zip(more.names(), views(more, name, epoch=3), strict=True))
    before[str(folder / "moved.jpg")] = before.pop(str(folder / "cat" / "0.jpg"))
    assert len(after) == 13
    for file, view in before.items():
        assert torch.equal(after[file], view)
    # Nor does the batch matter that it comes in.
    one = views(more, name, epoch=3, indices=[4])
    assert torch.equal(one[0], after[more.names()[4]])


def test_images_of_one_epoch_have_views_of_their_own(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, file in enumerate(files):
        note = PngInfo()
        note.add_text("number", str(number))  # the same pixels in other bytes
        photo(0.4, "same").save(file, pnginfo=note)
    made = views(images_of(files), "light")
    assert len({view.numpy().tobytes() for view in made}) >= 7


def test_files_of_the_same_content_have_the_same_view(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file in files:
        photo(0.4, "same").save(file)
    first, second = views(images_of(files), "strong")
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", CHANGING)
def test_the_global_random_numbers_are_left_alone(folder, name):
    images = all_of(folder)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    views(images, name)
    (folder / "cat" / "0.jpg").unlink()
    views(images, name)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", PHOTO_AUGMENTATIONS)
def test_processes_that_load_change_nothing(folder, name):
    data = AugmentedImages(all_of(folder), PHOTO_AUGMENTATIONS[name], seed=5)
    places = [10 * 10 * 3 + place for place in (4, 0, 9, 2, 7, 1, 10 + 7)]  # in epoch 3
    batches = [
        [
            images.clone()
            for images, _ in ImageLoader(data, batch_size=4, sampler=places, num_workers=workers)
        ]
        for workers in (0, 1, 3)
    ]
    for others in batches[1:]:
        assert torch.equal(torch.cat(others), torch.cat(batches[0]))


@pytest.mark.parametrize("name", CHANGING)
def test_an_image_that_comes_again_in_an_epoch_is_in_another_view(folder, name):
    data = AugmentedImages(all_of(folder), PHOTO_AUGMENTATIONS[name], seed=5)
    shown, labels = data.__getitems__([10 * (10 * 3 + repeat) + 7 for repeat in range(9)])
    assert set(labels.tolist()) == {7}
    assert torch.equal(shown[0], views(all_of(folder), name, seed=5, epoch=3, indices=[7])[0])
    assert len({image.numpy().tobytes() for image in shown}) == 9


def test_without_augmentation_training_sees_what_evaluation_does(folder):
    images = all_of(folder)
    assert torch.equal(views(images, "none", epoch=2), images.__getitems__([*range(10)])[0])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_view_of_a_large_jpeg_is_upright(tmp_path, orientation):
    image = Image.new("RGB", (640, 480), "white")
    image.paste("black", (0, 0, 640, 240))
    file = oriented(image, tmp_path / "a.jpg", orientation)
    expected = read_picture(file, 3).resize((16, 16), Image.Resampling.BOX)
    images = images_of([file], Preprocessing(16, 18, "bilinear", (0, 0, 0), (1, 1, 1)))
    seen = sum(views(images, "light", seed, epoch=1)[0] for seed in range(40)) / 40
    if orientation == 6:
        expected = np.asarray(expected) / 2 + np.asarray(expected)[:, ::-1] / 2  # flipped by halves
    difference = np.abs(seen.permute(1, 2, 0).numpy() * 255 - np.asarray(expected))
    assert difference[[0, -1]].mean() < 40
    assert difference.mean() < 60


# Files that go


@pytest.fixture
def lacking(folder) -> ImageFiles:
    """Images of which the fourth file is gone and the sixth cut off."""
    images = all_of(folder)
    names = images.names()
    Path(names[3]).unlink()
    Path(names[5]).write_bytes(Path(names[5]).read_bytes()[:300])
    return images


@pytest.mark.parametrize("name", PHOTO_AUGMENTATIONS)
def test_training_leaves_out_what_can_no_longer_be_read(lacking, caplog, name):
    images, labels = lacking.augmented(np.arange(10), View.of(PHOTO_AUGMENTATIONS[name], 0, 0))
    assert labels.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert torch.equal(images, views(lacking, name, seed=0, indices=labels.tolist()))
    warnings = {record.getMessage() for record in caplog.records}
    assert len(warnings) == 2
    assert all("can no longer be read and is left out: " in warning for warning in warnings)
    assert any(lacking.names()[3] in warning for warning in warnings)


@pytest.mark.parametrize("name", ["none", "notes"])
def test_a_batch_of_which_nothing_is_left_has_another_image(lacking, name):
    images, labels = lacking.augmented(np.array([3]), View.of(PHOTO_AUGMENTATIONS[name], 0, 0))
    assert labels.tolist() == [4]
    assert torch.equal(images, views(lacking, name, seed=0, indices=[4]))
    part = lacking.subset(torch.tensor([8, 1, 3, 5]))
    assert part.augmented(np.array([2, 3]), None)[1].tolist() == [8]


def test_training_ends_when_no_file_is_left(lacking):
    for name in lacking.names():
        Path(name).unlink(missing_ok=True)
    with pytest.raises(
        DiscernError, match=r"dog/4\.jpg and all other training images can no longer"
    ):
        views(lacking)
    with pytest.raises(
        DiscernError, match=r"dog/0\.jpg and all other training images can no longer"
    ):
        views(lacking.subset(torch.tensor([5])))


# torch takes five seconds to end a process that failed.
@pytest.mark.parametrize(
    ("workers", "gone"), [(0, 3), (0, 5), pytest.param(1, 3, marks=pytest.mark.slow)]
)
def test_evaluation_says_in_a_sentence_what_can_no_longer_be_read(lacking, workers, gone):
    part = lacking.subset(torch.tensor([0, gone]))
    loader = ImageLoader(part, batch_size=2, num_workers=workers)
    with pytest.raises(DiscernError) as refused:
        list(loader)
    file = re.escape(lacking.names()[gone])
    assert re.fullmatch(rf"{file} can no longer be read: [^\n]+\.", str(refused.value))
