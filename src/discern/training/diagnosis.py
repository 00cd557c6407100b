"""Finds training that cannot learn, or measures too little to say so, and says what to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from discern.data.images import Images, labels_of
from discern.data.module import ImageDataModule
from discern.models.classifier import Batch, Classifier
from discern.models.transfer import TransferClassifier
from discern.runs.state import Ended, State
from discern.training.divergence import finite_weights
from discern.training.history import Row
from discern.training.seam import callback_of, settings_of

SEEN, MIN_SEEN = 32, 8
"""Images of which not one differs from the first, before they are called the same; of a smaller
training split so many suffice."""

SAME = 1e-5
"""The largest difference between features that are called the same, as a share of the largest."""

UNMOVED = 1e-6
"""The change of every parameter, as a share of its norm, below which training has not moved it. A
step of a thousandth of a usual learning rate is larger; the precision of float32 is 6e-8."""

SMALL = 1e-3
"""The size of a weight that counts as small; the usual ones are ten times as large."""

SAMPLE = 4096
"""Weights of each parameter that are compared."""

MIN_EPOCHS, MIN_STEPS = 2, 10
"""How long a training loss must have been there before it can be called constant."""

LEARNT, FALLEN = 0.02, 0.002
"""Shares of the loss of guessing: a run that was better by the first has learnt something, and one
whose loss has fallen by the second is learning."""


def warnings_about(data: ImageDataModule, validated: bool) -> list[str]:
    """Sentences on splits of one class, before training.

    Args:
        data: the data module, set up.
        validated: whether training measures itself on the validation split.
    """
    splits = {"train": data.train_dataset} | ({"val": data.val_dataset} if validated else {})
    only = {split: _only_class(images) for split, images in splits.items()}
    found = []
    if only["train"] is not None and data.num_classes > 1:
        found.append(
            f"All {len(data.train_dataset):,} training images are of the class "
            f"{data.class_names[only['train']]}: nothing can be learnt but to say it always; look "
            f"at the labels (discern inspect) and at data.dir."
        )
    elif only.get("val") is not None and data.num_classes > 1:
        count, name = len(data.val_dataset), data.class_names[only["val"]]  # type: ignore[index]
        found.append(
            f"{'All' if count > 1 else 'The'} {count:,} validation image{'s' * (count > 1)} "
            f"{'are' if count > 1 else 'is'} of the class {name}: val/loss and val/accuracy say "
            "nothing about the other classes; look at data.val_size and at the part for validation."
        )
    return found


def _only_class(images: object) -> int | None:
    """The class of all images of a split; None where there are several, none, or unknown ones."""
    if not isinstance(images, Images) or not len(images):
        return None
    labels = labels_of(images)
    first = int(labels[0])
    return first if bool((labels == first).all()) else None


class Diagnosis(Callback):
    """Looks at the first images and their features, and at how far training moves the weights.

    Attributes:
        found: sentences on what was noticed.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._images = _Constant()
        self._features = _Constant()
        self._hook: RemovableHandle | None = None
        self._weights: list[Tensor] = []
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the weights, and begin to look at features."""
        self._weights, self._steps = _trained(pl_module), trainer.global_step
        # Where features are served, they are what a batch holds.
        self._images.open = getattr(settings_of(trainer).datamodule, "features", None) is None
        network = getattr(pl_module, "network", None)
        if isinstance(network, TransferClassifier):
            self._hook = network.head.register_forward_pre_hook(self._look_at_features)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Look at the images of the first batches."""
        if self._images.open:
            self._images.look(batch[0])

    def _look_at_features(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if head.training and self._features.open:
            self._features.look(arguments[0].detach())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the first epoch has shown."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        images, features = self._images.count_of_same(), self._features.count_of_same()
        self._images, self._features = _Constant(False), _Constant(False)
        if images:
            self.found.append(
                f"The first {images} training images are all the same: nothing in them tells the "
                "classes apart; look at them with discern inspect."
            )
        elif features:
            self.found.append(
                f"The backbone gives the same features for each of the first {features} training "
                "images: the head can only guess; look at the images (discern inspect), data.mean, "
                "data.std and model.weights."
            )

    def at_end(self, trainer: Trainer, rows: Sequence[Row]) -> list[str]:
        """All that was noticed, with what the whole training shows.

        Args:
            trainer: which has trained.
            rows: the metrics of each epoch.
        """
        module, steps = trainer.lightning_module, trainer.global_step - self._steps
        if not finite_weights(module):
            return [
                *self.found,
                "The weights that training ended with are not finite (on_nan=continue): the "
                "metrics and the checkpoints are from before.",
            ]
        moved = _moved(self._weights, _trained(module))
        rate = rows[-1].get("train/lr") if rows else None
        at = "" if rate is None else f", at a learning rate of {rate:.3g}"
        if steps and moved is not None and moved < UNMOVED:
            self.found.append(
                f"{steps:,} steps have hardly moved the weights: by {moved:.1g} of their size{at}; "
                "look at optimizer.lr and at the scheduler."
            )
        elif isinstance(module, Classifier) and trainer.global_step >= MIN_STEPS:
            guess = _loss_of_guessing(module, trainer)
            if guess is not None and _stays_at(rows, *guess):
                self.found.append(
                    f"The training loss has not moved from that of guessing, {guess[0]:.4g}, in "
                    f"{len(rows)} epochs{at}: look at optimizer.lr (find_lr=true suggests one), at "
                    "the labels (discern inspect), and for dead units at model.activation."
                )
        return self.found


class _Constant:
    """Whether all rows of the first tensors are the same."""

    def __init__(self, is_open: bool = True) -> None:
        self.open = is_open
        self._seen = 0
        self._first: Tensor | None = None

    def look(self, rows: Tensor) -> None:
        """Compare rows (N, …) with the first of all."""
        if not len(rows):
            return
        first = rows[0].clone() if self._first is None else self._first
        self._first = first
        if first.shape != rows.shape[1:]:
            self._seen, self.open = 0, False
            return
        if not bool((rows - first).abs().max() <= SAME * first.abs().max()):
            self._seen, self.open = 0, False
            return
        self._seen += len(rows)
        self.open = self._seen < SEEN

    def count_of_same(self) -> int:
        """How many rows there were, if they are enough and all the same; else 0."""
        return self._seen if self._seen >= MIN_SEEN else 0


def _trained(module: nn.Module) -> list[Tensor]:
    """Some weights of each parameter that is trained, as they are now, float32 on the CPU."""
    parameters = (p for p in module.parameters() if p.requires_grad)
    return [p.detach().flatten()[:SAMPLE].float().cpu().clone() for p in parameters]


def _moved(before: Sequence[Tensor], now: Sequence[Tensor]) -> float | None:
    """The largest change of a parameter as a share of its norm; None if that is not known."""
    if not before or [len(part) for part in before] != [len(part) for part in now]:
        return None
    changes = []
    for one, other in zip(before, now, strict=True):
        # Of one that began as zeros any change is as large as itself.
        least = SMALL * math.sqrt(len(one))
        size = max(float(one.norm()), float(other.norm()), least)
        changes.append(float((other - one).norm()) / size if len(one) else 0.0)
    return max(changes)


def _loss_of_guessing(module: Classifier, trainer: Trainer) -> tuple[float, float] | None:
    """The lowest training loss of the same answer to all images, and the lowest of any answer."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, ImageDataModule):
        return None
    counts = getattr(data, "train_class_counts", None)  # a data set of a user's own may have none
    if counts is None:
        return None
    counts = counts.double()
    if data.sampler == "balanced":
        counts = (counts > 0).double()
    guess, least = module.bounds_of_loss(counts)
    return (guess, least) if guess > least else None


def _stays_at(rows: Sequence[Row], guess: float, least: float) -> bool:
    """Whether the training loss was never better than guessing, and is not about to be."""
    losses = [row.get("train/loss", float("nan")) for row in rows]
    if len(losses) < MIN_EPOCHS:
        return False
    # At first the loss falls to that of guessing.
    later = losses[len(losses) // 2 :] if len(losses) > MIN_EPOCHS else losses
    gain = guess - least
    return guess - min(losses) <= LEARNT * gain and later[0] - later[-1] <= FALLEN * gain


def diagnosis(trainer: Trainer, rows: Sequence[Row], ended: Ended) -> list[str]:
    """What the trainer's :class:`Diagnosis` has to say of a fit that has ended."""
    watching = callback_of(trainer, Diagnosis)
    if watching is None:
        return []
    return watching.at_end(trainer, rows) if ended.state is State.DONE else watching.found
