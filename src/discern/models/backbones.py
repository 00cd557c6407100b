"""Backbones: networks of other libraries without their last layer, with weights that are known."""

import copy
import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from discern.data.preprocessing import Preprocessing
from discern.data.published.pretrained import PUBLISHED
from discern.data.stamps import version_of
from discern.errors import MAX_LISTED, DiscernError, closest, did_you_mean, first_line
from discern.files.places import expanded
from discern.models.card import Provenance
from discern.models.libraries import LIBRARIES, Library
from discern.models.torch_file import sha256_of
from discern.models.weights import load_weights

MAX_KEPT = 100_000_000
"""Parameters of a backbone up to which a process that builds it again keeps a copy, of 400 MB."""


class Backbone(nn.Module):
    """Maps images (N, 3, H, W), float32, normalised, to pooled features (N, num_features).

    Args:
        network: does so.
        provenance: of its weights.
        image_size: height and width of the images that the network is meant for.

    Raises:
        DiscernError: what the network gives are not features of the whole image.
    """

    def __init__(self, network: nn.Module, provenance: Provenance, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.provenance = provenance
        self.image_size = image_size
        self.num_features = self.features_for(image_size, image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, num_features) of images (N, 3, H, W)."""
        features: Tensor = self.network(images)
        return features

    def features_for(self, height: int, width: int) -> int:
        """The number of features of an image of that size.

        Raises:
            DiscernError: the network does not take such images.
        """
        name = f"model.backbone={self.provenance.name}"
        # The jobs of a sweep build the same network again and again.
        origin = self.provenance
        key = origin.library, origin.name, self.num_parameters, height, width
        try:
            if key not in _SHAPES:
                _SHAPES[key] = _output_shape(self.network, (1, 3, height, width))
            shape = _SHAPES[key]
        except Exception as error:  # each network has its own
            raise DiscernError(
                f"{name} does not take images of {height}×{width} pixels, but such of "
                f"{self.image_size}×{self.image_size} ({first_line(error)})."
            ) from error
        if len(shape) != 2:
            raise DiscernError(
                f"{name} gives no pooled features; it must be a network for classification."
            )
        return shape[1]

    @property
    def num_parameters(self) -> int:
        """The number of all weights that training could change."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values of all weights, whatever file they were in.

        It is that of the weights as they are now, and takes some 5 ms a million.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            # Flattened in the order of the indices, which no memory format changes.
            flat = tensor.detach().cpu().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


_SHAPES: dict[tuple[str, str, int, int, int], torch.Size] = {}
"""Library, name, parameters, height and width -> the shape of what the network gives."""


def _output_shape(network: nn.Module, shape: tuple[int, ...]) -> torch.Size:
    """The shape of a network's output in evaluation, without computing or changing anything."""
    tensors: dict[str, Tensor] = dict(network.named_buffers())
    tensors.update(network.named_parameters())
    meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(), torch.device("meta"):
            output: Tensor = torch.func.functional_call(network, meta, (torch.empty(shape),))
    finally:
        for module in training:
            module.training = True
    return output.shape


def backbone_preprocessing(library: str, backbone: str) -> Preprocessing:
    """The preprocessing for a backbone's published weights, without building the network.

    Raises:
        DiscernError: there is no such library or backbone, or its package is not installed.
    """
    return _library(library, backbone).preprocessing(backbone)


def build(library: str, backbone: str, weights: str | None = PUBLISHED) -> Backbone:
    """A backbone with its weights, on the CPU, the channels last in memory.

    Args:
        library: a key of :data:`discern.models.libraries.LIBRARIES`.
        backbone: a name that the library has.
        weights: ``default`` for the published ones, None for random ones, or the path of a file:
            see :func:`discern.models.weights.read_weights`.

    With random weights it is on torch's meta device where that is the default one, and takes no
    memory.

    Raises:
        DiscernError: there is no such library or backbone, its package is not installed, or the
            weights cannot be had or do not fit.
    """
    source = _library(library, backbone)
    # One number of the run's: what is drawn after it, such as a head's weights, depends neither on
    # those that a library draws, nor on whether the backbone had to be built.
    seed = int(torch.randint(2**62, (), device="cpu"))
    # A file's name means another one in another working directory.
    origin = weights if weights in (None, PUBLISHED) else expanded(weights).absolute()
    key = library, backbone, origin
    kept = _KEPT.get(key)
    if kept is not None and kept.backbone is not None and kept.signature == _signature(kept.file):
        return copy.deepcopy(kept.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        built, file = _built(source, library, backbone, weights)
    if file is not None:
        file = file.absolute()
        again = kept is not None and built.num_parameters <= MAX_KEPT
        _KEPT.clear()
        _KEPT[key] = _Kept(file, _signature(file), copy.deepcopy(built) if again else None)
    return built


@dataclass(frozen=True)
class _Kept:
    """The latest backbone built in this process; with a copy from the second time on."""

    file: Path
    signature: Hashable
    backbone: Backbone | None


_KEPT: dict[tuple[str, str, str | Path | None], _Kept] = {}
"""Library, backbone and weights -> the latest one. The jobs of a sweep have it again and again."""


def _signature(file: Path) -> Hashable:
    """Differs once the file has changed."""
    try:
        return version_of(file)
    except OSError:
        return None


def _built(
    source: Library, library: str, name: str, weights: str | None
) -> tuple[Backbone, Path | None]:
    """A backbone from its library, and the file that its weights were read from."""
    sketched = weights is None and torch.get_default_device().type == "meta"
    with _ConstantsOnCPU() if sketched else torch.device("cpu"):
        stripped = source.published(name) if weights == PUBLISHED else source.random(name)
        if weights not in (None, PUBLISHED):
            stripped.file = expanded(weights)
            load_weights(stripped.network, stripped.file, stripped.heads)
    file = stripped.file
    provenance = Provenance(
        library=library,
        name=name,
        weights=file.name if file and weights != PUBLISHED else weights,
        file_sha256=sha256_of(file) if file else None,
    )
    network = stripped.network
    if all(weight.ndim < 5 for weight in network.parameters()):
        # Convolutions are fastest so, on the CPU as well as on a GPU.
        network = network.to(memory_format=torch.channels_last)
    return Backbone(network, provenance, source.preprocessing(name).image_size), file


class _ConstantsOnCPU(TorchFunctionMode):
    """Lets libraries build on the meta device, and create small constants on the CPU.

    Stochastic depth, for one, reads the rates of its layers from them; meta tensors have no values.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Iterable[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in (torch.linspace, torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def _library(library: str, backbone: str) -> Library:
    """The library, if it has the backbone."""
    if library not in LIBRARIES:
        raise DiscernError(
            f"model.library={library} is not a library of backbones; "
            f"{did_you_mean(library, LIBRARIES)}"
        )
    source = LIBRARIES[library]()
    names = source.names()
    if backbone not in names:
        near = closest(backbone, names)
        hint = did_you_mean(backbone, names) if near or len(names) <= MAX_LISTED else ""
        raise DiscernError(
            f"model.backbone={backbone} is not a backbone of {library}; "
            f"{hint or f'its list_models() has all {len(names)}.'}"
        )
    return source
