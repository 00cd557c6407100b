"""Reading saved models, also those of strangers.

A checkpoint is a safetensors file of tensors and plain values. Beside what Lightning keeps in it
stands a card, which says all that is needed to use the model without the run that made it. A file
may come from a stranger: reading it executes nothing, whatever it holds, and one that is not what
it should be is refused in one sentence. Of files of ``torch.save``, such as the course notes',
tensors and plain values are read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from discern.data.known import KnownImages, from_tensors, unknown
from discern.errors import DiscernError, first_line
from discern.files.places import is_file, placed
from discern.models import checkpoint, torch_file
from discern.models.card import CARD, MAX_CLASSES, Card, parsed
from discern.models.layers import shape_lazy_layers
from discern.models.registry import model_class
from discern.models.shapes import check_shapes
from discern.models.torch_file import check_state
from discern.runs.folder import CHECKPOINTS, LAST_SAVED, checkpoints_in, find_checkpoint

if TYPE_CHECKING:  # it imports this module's own parts
    from discern.models.backbones import Backbone

log = logging.getLogger(__name__)

Content = dict[str, Any]
"""What a checkpoint holds: plain values, and tensors, the network's under ``state_dict``."""

IMAGES = "images"
"""The key of what the run knew of its images."""

BACKBONE = "backbone."
"""What the keys of a backbone's weights begin with."""


def part_of(content: Mapping[str, object], *keys: str) -> object:
    """What stands in a checkpoint under nested keys; None where a file has no such part."""
    node: object = content
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def model_name(card: Card) -> str:
    """What a model is called in titles: its backbone's name, else its own."""
    return card.backbone.name if card.backbone else card.model.name


def load(path: str | Path) -> nn.Module:
    """The model in a checkpoint, in eval mode on the CPU, rebuilt from the file alone.

    Its attribute ``card`` (:class:`Card`) holds class names, preprocessing and the rest; ``epoch``
    is the one, from 1, after which it was saved, or None where the file does not say it. Also reads
    the dictionary that the course notes save: ``input_size``, ``output_size``, ``hidden_layers``,
    ``state_dict``.

    Args:
        path: a checkpoint's; a run's folder; ``last`` or ``best``, for the newest run in
            ``outputs`` or the best one. Of a run the best checkpoint is meant.

    Raises:
        DiscernError: there is no such file, or it is not a checkpoint of a registered model.
    """
    file = undamaged_checkpoint(str(path), "path")
    return rebuilt(file, read(file))


def undamaged_checkpoint(wanted: str, setting: str = "ckpt_path", *, goes_on: bool = False) -> Path:
    """As :func:`discern.runs.folder.find_checkpoint`, of the run's checkpoints that are whole.

    A damaged one gives way to the run's next, with a warning: the last to the one before it. So
    does the path of a run's ``last.safetensors`` where training goes on; any other file that is
    named is the one that is meant.

    Raises:
        DiscernError: there is none, or all of them are damaged; gives the reason of each.
    """
    found = find_checkpoint(wanted, setting, goes_on=goes_on)
    named = is_file(placed(wanted))
    if named and not (goes_on and found.name == LAST_SAVED and found.parent.name == CHECKPOINTS):
        return found
    flaws: dict[str, str] = {}
    for path in checkpoints_in(found.parent.parent, goes_on):
        if (why := checkpoint.flaw(path)) is None:
            if flaws:
                log.warning(
                    "%s cannot be used (%s): the checkpoint %s beside it is used.",
                    *(found, flaws[found.name], path.name),
                )
            return path
        flaws[path.name] = why
    if named:
        return found
    reasons = "; ".join(f"{name}: {why}" for name, why in flaws.items())
    raise DiscernError(f"{setting}={wanted} has no checkpoint that can be used ({reasons}).")


def rebuilt(path: Path, content: Content) -> nn.Module:
    """As :func:`load`, of what was read from ``path``."""
    card, state = card_and_state(path, content)
    # On the meta device nothing is allocated, whatever sizes the file claims.
    network = _built(card, "meta", path)
    check_fits(network, state, path)
    state = _with_known_backbone(network, state, card, path)
    fill(network, state, path)
    if is_sketch(network):  # it has tensors that are not in its state, which it makes by itself
        network = _built(card, "cpu", path)
        fill(network, state, path)
    network.card = card  # type: ignore[assignment]
    network.epoch = epoch_of(content)  # type: ignore[assignment]
    return network.eval()


def is_sketch(network: nn.Module) -> bool:
    """Whether any tensor of a network is on the meta device, without values."""
    for module in network.modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(isinstance(t, Tensor) and t.is_meta for t in (*own, *vars(module).values())):
            return True
    return False


def _built(card: Card, device: str, path: Path) -> nn.Module:
    """The network of a card, before its weights are assigned."""
    settings = dict(card.model.settings)
    if card.backbone is not None and "weights" in settings:
        settings["weights"] = None
    try:
        with torch.device(device):
            network = model_class(card.model.name)(
                input_shape=card.input_shape, num_classes=len(card.class_names), **settings
            )
            shape_lazy_layers(network, card.input_shape)
    except DiscernError:
        raise
    except Exception as error:
        raise DiscernError(
            f"{path} describes a {card.model.name} that cannot be built: {first_line(error)}."
        ) from error
    return network


def epoch_of(content: Content) -> int | None:
    """The epoch, from 1, of a checkpoint of Lightning's."""
    epoch = content.get("epoch")
    return epoch + 1 if type(epoch) is int and 0 <= epoch < 2**31 else None


def read(path: str | Path) -> Content:
    """What a checkpoint holds: tensors and plain values, on the CPU.

    Raises:
        DiscernError: the file is missing, damaged, or holds anything else.
    """
    path = Path(path)
    if not is_file(path):
        raise DiscernError(f"{path} is not a file; it must be a checkpoint.")
    own = checkpoint.is_one(path)
    content = checkpoint.read(path) if own else torch_file.read(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise DiscernError(f"{path} is not a checkpoint: it holds no state_dict.")
    check_state(path, content["state_dict"])
    if not own:
        torch_file.check_finite(path, content["state_dict"])
    return content


def card_and_state(path: Path, content: Content) -> tuple[Card, dict[str, Tensor]]:
    """The card and the weights in what was read from ``path``; DiscernError without a card."""
    if CARD not in content and {"input_size", "output_size", "hidden_layers"} <= content.keys():
        content = _from_notes(content)
    if CARD not in content:
        raise DiscernError(f"{path} does not say what model it is; discern did not write it.")
    return parsed(content[CARD], path), content["state_dict"]


def known_images(path: Path, content: Content) -> KnownImages:
    """The images that the run of a checkpoint knew, from what was read from ``path``.

    Raises:
        DiscernError: it says them in another form than discern's.
    """
    card, _ = card_and_state(path, content)
    names = card.class_names if card.data else None
    if IMAGES not in content or card.split is None or names is None:
        return unknown(names, path)
    saved = content[IMAGES] if isinstance(content[IMAGES], dict) else {}
    return from_tensors(saved, card.split, names, card.data.get("fingerprint"), path)


def _from_notes(content: Content) -> Content:
    """The notes' dictionary as a checkpoint: an MLP with ``hidden_layers`` on 28 × 28 images."""
    inputs, outputs = content["input_size"], content["output_size"]
    state = {
        key.replace("hidden_layers.", "hidden.", 1): value
        for key, value in content["state_dict"].items()
    }
    card = {
        "model": {"name": "mlp", "settings": {"hidden": content["hidden_layers"]}},
        "class_names": [str(number) for number in range(min(int(outputs), MAX_CLASSES))],
        "input_shape": (1, 28, 28) if inputs == 784 else (1, 1, inputs),
        "preprocessing": {"mean": 0.5, "std": 0.5},
        "data": {},
    }
    return {CARD: card, "state_dict": state}


def has_backbone(state: dict[str, Tensor]) -> bool:
    """Whether a backbone's weights are among those of a state dict."""
    return any(key.startswith(BACKBONE) for key in state)


def with_backbone(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict, completed by the backbone of ``network`` if it lacks one."""
    backbone = getattr(network, "backbone", None)
    if backbone is None or has_backbone(state):
        return state
    return {**{BACKBONE + key: value for key, value in backbone.state_dict().items()}, **state}


def adopt_backbone(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load the backbone in a state dict into ``network``, if there is one.

    The backbone's provenance is then the checkpoint: it is no longer the published one, so that
    checkpoints hold it.

    Raises:
        DiscernError: it is of another architecture.
    """
    backbone = getattr(network, "backbone", None)
    if backbone is None or not has_backbone(state):
        return
    before = backbone.digest()
    fill(network, state, path)
    if backbone.digest() != before:
        changed = {"weights": path.name, "file_sha256": None}
        backbone.provenance = backbone.provenance.model_copy(update=changed)


def _with_known_backbone(
    network: nn.Module, state: dict[str, Tensor], card: Card, path: Path
) -> dict[str, Tensor]:
    """A checkpoint's weights completed by the published backbone that it names.

    Raises:
        DiscernError: the backbone cannot be had, or is not the one that was trained on.
    """
    if card.backbone is None or has_backbone(state) or not hasattr(network, "backbone"):
        return state
    from discern.models.backbones import build

    try:
        backbone = build(card.backbone.library, card.backbone.name)
    except DiscernError as error:
        raise DiscernError(f"{path} holds a head alone, without its backbone: {error}") from error
    check_backbone(backbone, card, path)
    return {**{BACKBONE + key: value for key, value in backbone.state_dict().items()}, **state}


def check_backbone(backbone: Backbone, card: Card, path: str | Path) -> None:
    """Raise a DiscernError where a head was trained on another backbone than this one."""
    if card.backbone is not None and (found := backbone.digest()) != card.backbone.digest:
        raise DiscernError(
            f"{path} holds a head for {card.backbone.name} with weights whose SHA-256 starts with "
            f"{card.backbone.digest[:12]}, and those at hand start with {found[:12]}."
        )


def fill(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Give ``network`` the weights of a state dict.

    Raises:
        DiscernError: names every layer that differs, with both shapes.
    """
    check_fits(network, state, path)
    # Assigned rather than copied, since the network's own may be on the meta device.
    expected = network.state_dict()
    own = {key: value.to(expected[key].dtype) for key, value in state.items()}
    # A backbone that is not in the state dict stays as it is; nothing else may be missing.
    network.load_state_dict(own, assign=True, strict=False)


def restore(network: nn.Module, content: Content, path: Path) -> None:
    """Give a network that has been trained the weights of an earlier checkpoint of its run.

    Raises:
        DiscernError: it has no card, or its published backbone cannot be had any more.
    """
    card, state = card_and_state(path, content)
    if not getattr(network, "frozen_backbone", True):  # a head's own may be as published no more
        state = _with_known_backbone(network, state, card, path)
    fill(network, state, path)


def check_fits(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Raise a DiscernError that names the layers that differ, with both shapes."""
    check_shapes(str(path), with_backbone(network, state), network.state_dict(), "the model")


def start_from(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a checkpoint.

    Raises:
        DiscernError: it is none, or of another architecture or backbone.
    """
    content = read(path)
    state = content["state_dict"]
    if CARD in content:
        match_backbone(network, card_and_state(path, content)[0], state, path)
    fill(network, state, path)


def match_backbone(network: nn.Module, card: Card, state: dict[str, Tensor], path: Path) -> None:
    """Load or check the backbone of a checkpoint.

    Raises:
        DiscernError: the checkpoint holds a head alone, which was trained on another backbone.
    """
    if has_backbone(state):
        adopt_backbone(network, state, path)
    elif (backbone := getattr(network, "backbone", None)) is not None:
        check_backbone(backbone, card, path)
