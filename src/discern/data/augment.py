"""Augmentation of small images a batch at a time, as a function of seed, epoch and index alone.

An image that an epoch draws again (``data.sampler=balanced``) is changed in another way each time.

No generator is used, so that any image seen in training can be computed again for any number of
workers, batch size and order, and a continued run sees the same images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def random_words(
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    draw: int,
    repeats: NDArray[np.int64] | None = None,
) -> Words:
    """Uniform 64-bit words (B,), a function of the arguments.

    Each word is the output of SplitMix64 (Steele, Lea & Flood, 2014) at a state that is mixed from
    the numbers in turn.

    Args:
        seed, epoch: of all of them.
        indices: int64 (B,).
        draw: separates independent uses.
        repeats: how often the epoch has had each index before, int64 (B,); None for never.
    """
    state = np.zeros(len(indices), np.uint64)
    for part in (seed, epoch, draw, indices):
        state = mix(state + np.asarray(part).astype(np.uint64))
    if repeats is None or not repeats.any():
        return state
    return np.where(repeats > 0, mix(state + repeats.astype(np.uint64)), state)


VIEWS = 1
"""Raised when the same seed, epoch and image give another view than before."""


@dataclass(frozen=True)
class View:
    """What an epoch of training shows of images.

    Attributes:
        augmentation: changes the images; its ``repr`` names all that it depends on.
        seed, epoch: decide, together with each image, how it is changed.
    """

    augmentation: object = field(hash=False)  # a dataclass of a user need not be hashable
    seed: int
    epoch: int

    @classmethod
    def of(cls, augmentation: object, seed: int, epoch: int) -> View | None:
        """The view, or None without an augmentation."""
        return None if augmentation is None else cls(augmentation, seed, epoch)

    def ids(self, contents: Words) -> Words:
        """IDs of the views of images, (N, 2), from the IDs of their contents, (N, 2)."""
        facts = f"{VIEWS}|{version('torchvision')}|{self.augmentation!r}|{self.seed}|{self.epoch}"
        words = np.frombuffer(hashlib.sha256(facts.encode()).digest()[:16], dtype="<u8")
        return mix(contents ^ words)


def mix(state: Words) -> Words:
    """SplitMix64's output at each state, (N,): another word for another state."""
    # Overflow is the arithmetic modulo 2^64 that the algorithm is made of.
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image that keep its class.

    Attributes:
        flip: mirror every other image, left to right.
        shift: largest shift in pixels along each axis; uncovered pixels are black.
    """

    flip: bool = False
    shift: int = 0

    def __call__(
        self,
        images: NDArray[np.uint8],
        seed: int,
        epoch: int,
        indices: NDArray[np.int64],
        repeats: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Changed copies of ``images``, uint8 (B, C, H, W); for the others see ``random_words``."""
        if self.shift:
            images = self._shifted(images, random_words(seed, epoch, indices, 0, repeats))
        if self.flip:
            mirrored = random_words(seed, epoch, indices, 1, repeats) % 2 == 1
            images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        return images

    def _shifted(self, images: NDArray[np.uint8], words: Words) -> NDArray[np.uint8]:
        margin, choices = self.shift, np.uint64(2 * self.shift + 1)
        padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
        down, right = words % choices, (words // choices) % choices
        return windows[np.arange(len(images)), :, down.astype(np.intp), right.astype(np.intp)]


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "flip": Augmentation(flip=True),
    "shift": Augmentation(shift=2),
    "flip_shift": Augmentation(flip=True, shift=2),
}
"""Values of ``data.augment`` for images in memory."""
