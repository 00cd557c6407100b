"""``format=torch`` and ``format=safetensors``: the weights alone, and what they are beside them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from discern.exports.bundle import Bundle
from discern.exports.running import Floats, Pixels, Run
from discern.files.writing import write_whole
from discern.models.card import Card

CARD = "model.json"
"""What the weights are: the checkpoint's card and the other facts."""


def write_torch(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write model.pt, a state dict for ``torch.load(…, weights_only=True)``, and its card."""
    path = folder / "model.pt"
    with write_whole(path, "wb") as file:
        torch.save(_state(bundle), file)
    _write_card(about, folder)
    return path


def write_safetensors(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write model.safetensors, with the facts in its metadata, and its card."""
    path = folder / "model.safetensors"
    with write_whole(path, "wb") as file:
        file.write(safetensors.torch.save(_state(bundle), metadata=dict(about)))
    _write_card(about, folder)
    return path


def run_torch(path: Path, bundle: Bundle) -> Run:
    """The weights that were just written to ``path`` in a network of their kind."""
    return _running(torch.load(path, weights_only=True), bundle)


def run_safetensors(path: Path, bundle: Bundle) -> Run:
    """The weights that were just written to ``path`` in a network of their kind."""
    return _running(safetensors.torch.load_file(path), bundle)


def _state(bundle: Bundle) -> dict[str, Tensor]:
    # Copies: weights that two layers share would be refused.
    state = bundle.network.state_dict()
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _running(state: Mapping[str, Tensor], bundle: Bundle) -> Run:
    again = copy.deepcopy(bundle)
    again.network.load_state_dict(state)

    def run(pixels: Pixels) -> Floats:
        with torch.inference_mode():
            found: Floats = again(torch.from_numpy(pixels)).numpy()
        return found

    return run


def _write_card(about: Mapping[str, str], folder: Path) -> None:
    values: dict[str, object] = dict(about)
    for key in ("class_names", "card"):
        values[key] = json.loads(about[key])
    with write_whole(folder / CARD) as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")
