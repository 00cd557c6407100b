from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from discern.models.threads import SMALL_IMAGE, SMALL_NETWORK, limit_threads, use_threads


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr("discern.models.threads._own_accord", 2)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("parameters", "shape", "expected"),
    [
        (10, (1, 28, 28), 1),
        (SMALL_NETWORK, (3, 64, 64), 1),
        (SMALL_NETWORK + 1, (1, 28, 28), 2),
        (10, (1, 1, SMALL_IMAGE + 1), 2),
    ],
)
def test_a_small_network_on_small_images_gets_one_thread(parameters, shape, expected):
    use_threads(nn.Linear(parameters, 1, bias=False), shape)
    assert torch.get_num_threads() == expected


def test_a_large_network_after_a_small_one_has_all_threads_again():
    use_threads(nn.Linear(10, 1), (1, 28, 28))
    use_threads(nn.Linear(SMALL_NETWORK, 2), (1, 28, 28))
    assert torch.get_num_threads() == 2


def test_a_process_that_shares_the_cores_has_its_part_of_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads(1)
    use_threads(nn.Linear(SMALL_NETWORK, 2), (1, 28, 28))
    assert torch.get_num_threads() == 1


def test_a_number_is_that_number():
    use_threads(nn.Linear(10, 1), (1, 28, 28), setting=2)
    assert torch.get_num_threads() == 2
