"""A classifier on the features of a backbone that was trained before, on other images."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from discern.data.published.pretrained import PUBLISHED
from discern.errors import DiscernError
from discern.models.backbones import build
from discern.models.mlp import MLP

DEPTHS = ("head", "last_block", "all")
"""What ``unfreeze`` may be, each training more than the one before."""

LAST_BLOCK_SHARE = 0.15
"""The last block holds at least this share of the backbone's parameters."""

SMALL_SIDE = 64
"""Images with a shorter side than this many pixels are scaled up for the backbone."""

# A stage that would bring the last block above this share is taken apart instead.
MAX_LAST_BLOCK_SHARE = 0.9


class TransferClassifier(nn.Module):
    """A backbone and a multi-layer perceptron that maps its features to class logits.

    What is frozen stays as it is, to the bit: it gets no gradients, and is in eval mode also while
    the rest trains, so that its batch normalisations keep their statistics. A backbone that is
    frozen as a whole runs without recording anything for the backward pass.

    Grey images are repeated to three channels. Images of a data set of small ones, with a side
    below :data:`SMALL_SIDE` pixels, are scaled up bilinearly to the square of the backbone's own
    size, since its strides would leave a pixel or none of them.

    Built on the meta device it reads no weights: those are then to be assigned.

    Args:
        input_shape: (C, H, W) of an image.
        num_classes: number of logits.
        library: ``torchvision``, ``timm`` or ``efficientnet_lite``.
        backbone: the library's name of the architecture.
        weights: ``default`` for the published ones, None for random ones, or a file.
        head: units of each hidden layer of the perceptron; empty for one linear layer.
        activation: a class of ``torch.nn`` in lower case, such as ``relu`` or ``leaky_relu``.
        dropout: probability of zeroing a hidden unit of the head while training.
        norm: ``batch`` for batch normalisation in the head, or ``none``.
        unfreeze: what is trained beside the head: see :meth:`unfreeze`.
        train_bn: whether unfreezing includes the backbone's batch normalisations.

    Raises:
        DiscernError: the backbone or its weights cannot be had, or it does not take such images.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        library: str = "torchvision",
        backbone: str = "densenet121",
        weights: str | None = PUBLISHED,
        head: Sequence[int] = (256,),
        activation: str = "relu",
        dropout: float = 0.2,
        norm: str = "none",
        unfreeze: str = "head",
        train_bn: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        _check_channels(channels)
        elsewhere = torch.get_default_device().type == "meta"
        self.backbone = build(library, backbone, None if elsewhere else weights)
        if not self._is_small(height, width):
            self.backbone.features_for(height, width)
        features = (self.backbone.num_features, 1, 1)
        self.head = MLP(features, num_classes, head, activation, dropout, norm)
        self.train_bn = train_bn
        self.engine: Callable[[Tensor], Tensor] | None = None
        """Computes the features of a frozen backbone in its place, where there is a faster one."""
        self.unfreeze(unfreeze)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W), float32, normalised.

        Or of what :meth:`features` has made of them before, (N, F), while the backbone is frozen.
        """
        features = self.features(images) if images.ndim == 4 else images
        logits: Tensor = self.head(features)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the head sees of images (N, C, H, W): (N, F)."""
        # A gradient with respect to the images, as a saliency map asks for, needs the graph.
        if not self.frozen_backbone or (images.requires_grad and torch.is_grad_enabled()):
            return self.backbone(self.prepared(images))  # type: ignore[no-any-return]
        if self.engine is not None:
            return self.engine(images)
        with torch.inference_mode():
            features: Tensor = self.backbone(self.prepared(images))
        # The head saves its input for the backward pass, which tensors made inside forbid.
        return features.clone()

    def prepared(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) as the backbone takes them."""
        _, channels, height, width = images.shape
        _check_channels(channels)
        if channels == 1:
            images = images.expand(-1, 3, -1, -1)
        if self._is_small(height, width):
            side = self.backbone.image_size
            images = interpolate(images, (side, side), mode="bilinear", antialias=False)
        return images.contiguous(memory_format=torch.channels_last)

    def _is_small(self, height: int, width: int) -> bool:
        return min(height, width) < min(SMALL_SIDE, self.backbone.image_size)

    # What is trained

    @property
    def frozen_backbone(self) -> bool:
        """Whether only the head is trained."""
        return self.depth == "head"

    @property
    def stored_elsewhere(self) -> bool:
        """Whether the backbone is as it was published, so that a checkpoint need not hold it."""
        return self.frozen_backbone and self.backbone.provenance.weights == PUBLISHED

    def unfreeze(self, depth: str) -> None:
        """Set what is trained from now on; an optimizer must then be given the parameters anew.

        Args:
            depth: ``head``; ``last_block`` for the backbone's last stages too, which hold
                :data:`LAST_BLOCK_SHARE` of its parameters; ``all``. Batch normalisations of the
                backbone are left out without ``train_bn``.

        Raises:
            DiscernError: ``depth`` is none of these.
        """
        if depth not in DEPTHS:
            raise DiscernError(
                f"model.unfreeze={depth} is not allowed; it must be {', '.join(DEPTHS[:-1])} or "
                f"{DEPTHS[-1]}."
            )
        self.depth = depth
        if not self.frozen_backbone:
            self.engine = None  # it has the weights as they were
        trained = {id(p) for module in self._trained() for p in module.parameters(recurse=False)}
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            if id(parameter) not in trained:
                parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> "TransferClassifier":
        """As for any module, but the frozen part stays in eval mode."""
        if self.frozen_backbone and not any(part.training for part in self.backbone.modules()):
            # Its hundreds of parts are in eval mode already, and setting it again takes long.
            self.training = mode
            for child in self.children():
                if child is not self.backbone:
                    child.train(mode)
            return self
        super().train(mode)
        trained = set(self._trained())
        for module in self.backbone.modules():
            module.training = mode and module in trained
        return self

    def parameter_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Parameters in groups, for learning rates that fall towards the input.

        Returns:
            ``head``, ``last_block`` and ``rest``, each with its parameters, frozen ones included;
            those of the backbone's batch normalisations only with ``train_bn``.
        """
        last = list(_own_parameters(self._trained_at("last_block")))
        known = {id(parameter) for parameter in last}
        rest = [p for p in _own_parameters(self._trained_at("all")) if id(p) not in known]
        return [("head", list(self.head.parameters())), ("last_block", last), ("rest", rest)]

    def _trained(self) -> list[nn.Module]:
        return self._trained_at(self.depth)

    def _trained_at(self, depth: str) -> list[nn.Module]:
        """The backbone's modules that are trained, in order; each stands for itself alone."""
        if depth == "head":
            return []
        modules = list(self.backbone.modules())
        if depth == "last_block":
            last = {m for stage in last_stages(self.backbone.network) for m in stage.modules()}
            modules = [module for module in modules if module in last]
        return [m for m in modules if self.train_bn or not isinstance(m, _BatchNorm)]


def _own_parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    """The parameters of each module without its children's, each once."""
    own = (p for module in modules for p in module.parameters(recurse=False))
    return {id(parameter): parameter for parameter in own}.values()


def last_stages(network: nn.Module) -> list[nn.Module]:
    """The last stages that together hold :data:`LAST_BLOCK_SHARE` of a network's parameters.

    A stage is a child of the network; one that would make them nearly all of the network is taken
    apart into its own children. So it is layer4 of a ResNet, denseblock4 and norm5 of a DenseNet,
    two layers of twelve and the norm of a ViT.
    """
    total = _size(network)
    stages: list[nn.Module] = []
    held = 0
    waiting = list(network.children())  # children stand in the order in which they run
    while waiting and held < LAST_BLOCK_SHARE * total:
        stage = waiting.pop()
        children = list(stage.children())
        if children and held + _size(stage) > MAX_LAST_BLOCK_SHARE * total:
            waiting.extend(children)
            continue
        stages.insert(0, stage)
        held += _size(stage)
    return stages


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise DiscernError(
            f"The data have images of {channels} channels; a backbone takes 1 (grey) or 3 "
            "(red, green, blue)."
        )
