"""Mixtures of two images and their labels, for training."""

from collections.abc import Callable

from torch import Tensor

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images (N, C, H, W) and labels int64 (N,) -> mixed images and shares (N, num_classes)."""


def mixing(num_classes: int, mixup: float, cutmix: float) -> Mixing | None:
    """Mixup (Zhang et al., 2018), CutMix (Yun et al., 2019), or for each batch either; or None.

    They draw from torch's global generator, whose state a continued run restores.

    Args:
        num_classes: length of a label's shares.
        mixup, cutmix: parameter of the Beta distribution of the shares; 0 for none.
    """
    from torchvision.transforms import v2

    kinds: list[Mixing] = []
    if mixup:
        kinds.append(v2.MixUp(alpha=float(mixup), num_classes=num_classes))
    if cutmix:
        kinds.append(v2.CutMix(alpha=float(cutmix), num_classes=num_classes))
    if not kinds:
        return None
    chosen: Mixing = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # Features (N, F) that are served in the place of images pass as images of one pixel.
        mixed, shares = chosen(images if images.ndim == 4 else images[:, :, None, None], labels)
        return mixed.reshape(images.shape), shares

    return mix
