"""Random numbers that go on where a checkpoint left them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class Randomness(Callback):
    """Saves the state of torch's generators in checkpoints and restores it when training goes on.

    Lightning does not, so that a continued run would draw other dropout masks than the same run
    left undisturbed. Split, order and augmentation need nothing: they are functions of the seed.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The generators' states: of the CPU, a uint8 tensor, and of each CUDA device."""
        cuda: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts; setting up draws random numbers too."""
        self._state = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states."""
        if self._state is None:
            return
        torch.set_rng_state(self._state["cpu"].cpu())
        if len(self._state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._state["cuda"]])
        self._state = None
