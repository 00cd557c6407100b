from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from discern.exports.proof import prove
from discern.training.build import build_data
from photos import photo_folder
from run_files import composed


class AlwaysTheFirst(nn.Module):
    card = SimpleNamespace(class_names=["cat", "dog"])

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


def test_some_images_of_a_split_are_of_all_its_classes(tmp_path):
    """Files are sorted by class, and the first ones would be of one."""
    folder = photo_folder(tmp_path / "photos", per_class=10)
    settings = ("data=image_folder", f"data.dir='{folder}'", "data.test_size=8", "data.val_size=2")
    images = build_data(composed(*settings, "data.image_size=32"), None, "test").test_dataset

    def run(pictures) -> np.ndarray:
        return np.tile(np.float32([0.0, 1.0]), (len(pictures), 1))

    proof = prove(AlwaysTheFirst(), 1.0, run, images, most=4)
    assert (proof.images, proof.accuracy_before, proof.accuracy_after) == (4, 0.5, 0.5)
    everywhere = prove(AlwaysTheFirst(), 1.0, run, images)
    assert [each.index for each in everywhere.differences] == [*range(8)]
    listed = {(each.index, each.file, each.label) for each in everywhere.differences}
    assert {(each.index, each.file, each.label) for each in proof.differences} < listed
