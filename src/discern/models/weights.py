"""Weights of backbones: where the published ones are kept, and reading any file of them safely."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from discern.data.published.fetch import DownloadError, answering_mirrors, fetch
from discern.data.published.pretrained import SETTING, by_hand, not_a_file, not_to_be_had
from discern.errors import DiscernError, about, first_line
from discern.files.places import is_file, is_there
from discern.models import torch_file
from discern.models.shapes import check_shapes
from discern.models.torch_file import check_finite, check_state

# Under which key training scripts keep the weights: Lightning's and timm's, the tutorials' of
# PyTorch, torchvision's and DeiT's.
_WRAPPERS = ("state_dict", "model_state_dict", "model")

# What DataParallel and torch.compile put before every key.
_PREFIXES = ("module.", "_orig_mod.")

_OWN_PREFIX = "backbone.network."
"""Before the backbone's keys in a checkpoint of ``discern.models.transfer.TransferClassifier``."""

# Names of layers in files that torchvision publishes, where the classes of today have others.
_RENAMED = (
    # DenseNet: denselayer1.norm.1.weight -> denselayer1.norm1.weight
    (re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$"), r"\1\2"),
    # Vision transformers: mlp.linear_1.weight -> mlp.0.weight, mlp.linear_2.weight -> mlp.3.weight
    (re.compile(r"^(.*\.mlp)\.linear_1\.(\w+)$"), r"\1.0.\2"),
    (re.compile(r"^(.*\.mlp)\.linear_2\.(\w+)$"), r"\1.3.\2"),
)

# Batch normalisation counts its batches only since PyTorch 0.4.1; older files lack the count.
_COUNT = "num_batches_tracked"


# Published files


def published_file(url: str) -> Path:
    """The file at ``url`` in the checkpoints folder of torch.hub, downloaded if it is not there.

    Its SHA-256 begins as the file's own name says, as in ``resnet18-f37072fd.pth``.

    Raises:
        DiscernError: it is neither there nor to be had, or it is another file.
    """
    address, _, name = url.rpartition("/")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    match = torch.hub.HASH_REGEX.search(name)
    try:
        if not is_there(path):
            require_answer(f"{address}/", name)
        return fetch(url, path, sha256=match.group(1) if match else None)
    except DiscernError as error:
        if is_there(path):
            raise DiscernError(f"{SETTING}=default: {error}") from error
        raise not_to_be_had(name, by_hand(url, path), error) from error


def require_answer(address: str, name: str = "") -> None:
    """Raise a DownloadError within seconds where a server cannot be reached."""
    try:
        answering_mirrors((address,), name)
    except DownloadError as error:
        if "HTTP status" not in str(error):  # a server that refuses is there
            raise


# Files of weights


def read_weights(path: Path, rather: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights in a file, on the CPU.

    The file is a state dict, alone or within a checkpoint, or has safetensors' format. Prefixes of
    wrappers are taken off; of a checkpoint of a ``TransferClassifier`` only the backbone is taken.

    Args:
        path: the file.
        rather: keys of a checkpoint that are looked at before the usual ones.

    Raises:
        DiscernError: the file is missing, damaged, or holds anything but weights.
    """
    if not is_file(path):
        raise not_a_file(path)
    with about(SETTING):
        read = _read_safetensors if path.suffix == ".safetensors" else torch_file.read
        state: Any = read(path)
        if not isinstance(state, dict):
            raise DiscernError(f"{path} is not a file of weights: it holds no state_dict.")
        keys = (*rather, *_WRAPPERS)
        state = next((state[key] for key in keys if isinstance(state.get(key), dict)), state)
        check_state(path, state)
    return _without_prefixes(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DiscernError(
            f"{path} is not a whole safetensors file: {first_line(error)}."
        ) from error
    return state


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*_PREFIXES, *_PREFIXES):  # each may stand before the other
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    own = {key: tensor for key, tensor in state.items() if key.startswith(_OWN_PREFIX)}
    return {key.removeprefix(_OWN_PREFIX): tensor for key, tensor in own.items()} or state


def _todays_name(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def load_weights(network: nn.Module, path: Path, heads: Sequence[str]) -> None:
    """Give a backbone the weights in a file.

    Args:
        network: its state dict is filled, in its own dtypes and memory formats.
        path: see :func:`read_weights`.
        heads: modules whose weights in the file are left aside where ``network`` lacks them.

    Raises:
        DiscernError: the file cannot be read, any other layer differs, or a weight is not finite.
    """
    expected = network.state_dict()
    given = {key: tensor for key, tensor in expected.items() if key.endswith(_COUNT)}
    prefixes = tuple(f"{head}." for head in heads)
    for key, tensor in read_weights(path).items():
        name = key if key in expected else _todays_name(key)
        if name in expected or not name.startswith(prefixes):
            given[name] = tensor
    check_shapes(f"{SETTING}={path}", given, expected, "the backbone")
    with about(SETTING):
        check_finite(path, given)
    state = OrderedDict(given)
    # The layers' versions are those of the network, for the names are; MNASNet insists on one.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state)
