"""Make mnist.npz, the packaged sample, from a folder that has the four files of MNIST.

    python src/discern/data/published/sample/make.py FOLDER

The first images of each digit are taken, equally many, and kept in the order of the files.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.data.published import publication
from discern.data.published.mnist import read_files

TRAIN_IMAGES_PER_CLASS = 800
TEST_IMAGES_PER_CLASS = 150


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
    """Ascending indices of the first ``count`` labels of each class."""
    firsts = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(firsts))


def main(folder: Path) -> None:
    """Write mnist.npz beside this script and print its SHA-256."""
    files = publication.MNIST.find(folder)
    if files is None:
        sys.exit(f"{folder} does not have the four files of MNIST.")
    arrays = read_files(publication.MNIST, files)
    train = first_of_each_class(arrays[publication.TRAIN_LABELS], TRAIN_IMAGES_PER_CLASS)
    test = first_of_each_class(arrays[publication.TEST_LABELS], TEST_IMAGES_PER_CLASS)
    target = Path(__file__).with_name("mnist.npz")
    selected = {
        name: array[train if name.startswith("train") else test] for name, array in arrays.items()
    }
    np.savez_compressed(target, allow_pickle=False, **selected)
    print(hashlib.sha256(target.read_bytes()).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
