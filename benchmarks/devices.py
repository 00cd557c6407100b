"""The time of a training batch on the CPU and on the GPU, where there is one.

    python benchmarks/devices.py

A step of a frozen DenseNet-121 with random weights: features of 32 images of 224 × 224 pixels, loss
of the head, backward pass, Adam.
"""

import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from discern.models.transfer import TransferClassifier

BATCH, STEPS, WARM_UP = 32, 5, 2


def main() -> None:
    """Print a line a device, and the ratio where there are two."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    elif torch.backends.mps.is_available():
        devices.append("mps")
    seconds = {name: step_seconds(torch.device(name)) for name in devices}
    for name, taken in seconds.items():
        print(f"{name:5} {taken:.3f} s a batch of {BATCH} ({BATCH / taken:.0f} images/s)")
    if len(devices) == 1:
        print("There is no GPU here that PyTorch can use.")
    else:
        print(f"The GPU is {seconds['cpu'] / seconds[devices[1]]:.1f} x as fast.")


def step_seconds(device: torch.device) -> float:
    """Median seconds of a training step."""
    torch.manual_seed(0)
    network = TransferClassifier((3, 224, 224), 2, backbone="densenet121", weights=None)
    network.to(device).train()
    optimizer = torch.optim.Adam(network.head.parameters(), lr=1e-3)
    images = torch.randn(BATCH, 3, 224, 224, device=device)
    labels = torch.randint(0, 2, (BATCH,), device=device)
    taken = []
    for _ in range(WARM_UP + STEPS):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # waits for the device
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[WARM_UP:])


if __name__ == "__main__":
    main()
