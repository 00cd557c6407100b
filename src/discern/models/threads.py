"""How many CPU threads an operation may use."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

SMALL_NETWORK, SMALL_IMAGE = 1_000_000, 64 * 64 * 3
"""Parameters and values of an image up to which one thread serves best."""

_own_accord = torch.get_num_threads()


def all_threads() -> int:
    """The default: all cores, or OMP_NUM_THREADS, or the limit set by a sweep."""
    return _own_accord


def limit_threads(count: int) -> None:
    """Set the default for this process, whose jobs share the cores with others."""
    global _own_accord
    _own_accord = count
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)  # of what is loaded later, and of other processes


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(
    network: nn.Module, input_shape: Sequence[int], setting: int | str = "auto"
) -> None:
    """Set the number of threads; ``auto`` is one for a small network on small images.

    Its operations are shorter than the threads' waiting for each other: the default MLP gains
    nothing from a second core, and falls from 60,000 to 2,000 images/s when another process wants
    that core. One thread also gives the same sums on every machine.
    """
    if setting == "auto":
        parameters = sum(parameter.numel() for parameter in network.parameters())
        small = parameters <= SMALL_NETWORK and math.prod(input_shape) <= SMALL_IMAGE
        # Set in either case: the job before in a sweep may have set it otherwise.
        setting = 1 if small else all_threads()
    torch.set_num_threads(int(setting))
