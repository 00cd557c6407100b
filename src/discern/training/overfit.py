"""Whether a network can overfit the few batches that it was trained on repeatedly."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from discern.data.module import ImageDataModule
from discern.models.classifier import Classifier

NEAR_ZERO, NO_LESS = 0.1, 0.99
"""Parts of the loss without a look at the images: what counts as none of it, and as all."""


@dataclass(frozen=True)
class Overfit:
    """The loss of a network on the images that it was trained on.

    Attributes:
        images, classes: how many there are.
        loss: its mean cross-entropy on them after training, in nats, without label smoothing.
        loss_of_frequencies: what the frequencies of the classes reach, and so the biases of a
            network that ignores its input, whatever the labels of the single images.
    """

    images: int
    classes: int
    loss: float
    loss_of_frequencies: float

    @property
    def can(self) -> bool:
        """Whether the loss is nearly 0, which needs the images."""
        return self.loss < NEAR_ZERO * self.loss_of_frequencies

    @property
    def verdict(self) -> str:
        """One sentence."""
        of = f"{self.images} images of {self.classes} class{'' if self.classes == 1 else 'es'}"
        reached = f"its loss on {of} has come to {self.loss:.4f}"
        alone = f"the frequencies of the classes alone give {self.loss_of_frequencies:.4f}"
        if self.classes == 1:
            return (
                f"Whether the network can overfit cannot be decided: its {of} need no look at them."
            )
        if self.can:
            return f"The network can overfit: {reached}, and {alone}."
        if self.loss < NO_LESS * self.loss_of_frequencies:
            return (
                f"The network has not overfitted yet: {reached}, and {alone}; more epochs "
                "(trainer.max_epochs) or another optimizer.lr may do it."
            )
        return f"The network cannot overfit as it was trained: {reached}, and {alone}."

    def facts(self) -> dict[str, object]:
        """The facts for the summary."""
        return {"can": self.can, "verdict": self.verdict, **asdict(self)}


def judge(trainer: Trainer, model: Classifier, data: ImageDataModule) -> Overfit:
    """Measure a trained model on the batches that ``trainer.overfit_batches`` has repeated."""
    batches = int(trainer.num_training_batches) * trainer.world_size
    device = trainer.strategy.root_device
    network = model.network.to(device)
    before = network.training
    logits, labels = [], []
    network.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in itertools.islice(data.train_dataloader(), batches):
            images, truth = trainer.precision_plugin.convert_input(batch)
            logits.append(network(images.to(device)).double().cpu())
            labels.append(truth.cpu())
    network.train(before)
    return of(torch.cat(logits), torch.cat(labels))


def of(logits: Tensor, labels: Tensor) -> Overfit:
    """The result for logits (N, K) and labels (N,)."""
    counts = labels.bincount()
    shares = counts[counts > 0].double() / len(labels)
    return Overfit(
        images=len(labels),
        classes=len(shares),
        loss=float(cross_entropy(logits, labels)),
        loss_of_frequencies=float(-(shares * shares.log()).sum()),
    )
