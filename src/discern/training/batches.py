"""How many batches there are, and which of them training can do nothing with."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from discern.data.module import ImageDataModule
from discern.errors import DiscernError, first_line
from discern.models.classifier import Classifier
from discern.training.seam import settings_of

log = logging.getLogger(__name__)


def batches_of(data: ImageDataModule, split: str, trainer: Trainer) -> int:
    """Batches of a split in each process; 0 where there is none, or no end."""
    try:
        size = int(data.batch_size if split == "train" else data.eval_batch_size)
        images = math.ceil(int(data.num_images[split]) / trainer.world_size)
    except (AttributeError, KeyError, TypeError):  # of a data module of a user's own
        return 0
    alone = split == "train" and data.omits_single_images and images > size
    return images // size if alone and images % size == 1 else math.ceil(images / size)


def omit_single_images(model: Classifier, data: ImageDataModule) -> None:
    """Omit a last batch of one image if the network has batch normalisation.

    torch has no statistics of one value, and refuses.
    """
    if any(isinstance(m, nn.BatchNorm1d) and m.training for m in model.network.modules()):
        data.omits_single_images = True


def say_what_is_omitted(data: ImageDataModule, trainer: Trainer) -> None:
    """Log that each epoch leaves one image out, where it does."""
    if not getattr(data, "omits_single_images", False) or settings_of(trainer).overfit_batches:
        return
    omitted = batches_of(data, "train", trainer)
    data.omits_single_images = False
    there = batches_of(data, "train", trainer)
    data.omits_single_images = True
    if omitted < there:
        log.info(
            "The last batch of an epoch would be one image, of which batch normalisation has no "
            "statistics: each epoch leaves one image out."
        )


@contextmanager
def refusals_of_training(data: ImageDataModule) -> Iterator[None]:
    """Turn errors of training that settings cause into one sentence.

    Raises:
        DiscernError: names the setting.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise DiscernError(f"trainer: {first_line(error)}.") from error
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        size = getattr(data, "batch_size", 1)
        raise DiscernError(
            f"data.batch_size={size} leaves a batch of one image, of which batch normalisation "
            "has no statistics; it must be another, above 1, or the network without batch "
            "normalisation (model.norm=none)."
        ) from error
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        raise DiscernError(f"trainer.detect_anomaly=true: {first_line(error)}.") from error
