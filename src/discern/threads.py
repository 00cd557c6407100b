"""How many CPU threads to use with a saved model."""

import torch
from torch import nn

SMALL = 1_000_000
"""Parameters up to which one thread serves a network best."""


def use_threads(network: nn.Module) -> None:
    """Take one thread for a small network, else leave as many as there are cores.

    Threads wait for each other after each of the short operations: where another process wants a
    core, measuring the default MLP takes twice as long with two threads as with one.
    """
    if sum(parameter.numel() for parameter in network.parameters()) <= SMALL:
        torch.set_num_threads(1)
