from __future__ import annotations

import numpy as np
import pytest

from discern.data.published import mnist
from discern.data.published.publication import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from discern.errors import DiscernError


def test_the_sample_is_class_balanced_and_small():
    arrays = mnist.read_sample()
    assert arrays[TRAIN_IMAGES].shape == (8000, 28, 28)
    assert arrays[TEST_IMAGES].shape == (1500, 28, 28)
    assert np.bincount(arrays[TRAIN_LABELS]).tolist() == [800] * 10
    assert np.bincount(arrays[TEST_LABELS]).tolist() == [150] * 10
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    assert mnist.SAMPLE_FILE.stat().st_size < 2_000_000
    assert "CC BY-SA 3.0" in mnist.SAMPLE_FILE.with_name("LICENSE").read_text()


def test_the_sample_starts_like_the_published_files():
    # The first labels of MNIST, of which none is the 801st of its digit or the 151st.
    arrays = mnist.read_sample()
    assert arrays[TRAIN_LABELS][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert arrays[TEST_LABELS][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_images_belong_to_their_labels():
    # Ones have the least ink of all digits and zeros the most.
    arrays = mnist.read_sample()
    ink = [arrays[TRAIN_IMAGES][arrays[TRAIN_LABELS] == digit].mean() for digit in range(10)]
    assert np.argmin(ink) == 1
    assert np.argmax(ink) == 0


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_sample_is_refused(tmp_path, monkeypatch, damage):
    file = tmp_path / "mnist.npz"
    if damage == "changed":
        content = bytearray(mnist.SAMPLE_FILE.read_bytes())
        content[1000] ^= 1
        file.write_bytes(content)
    monkeypatch.setattr(mnist, "SAMPLE_FILE", file)
    mnist.read_sample.cache_clear()
    with pytest.raises(DiscernError, match=rf"^{file} .*reinstall discern\.$"):
        mnist.read_sample()
