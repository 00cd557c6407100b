"""From the images of a data set to Lightning's data loaders."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from discern.data.augment import AUGMENTATIONS
from discern.data.images import AugmentedImages, Batch, Images, labels_of
from discern.data.in_memory import InMemoryImages
from discern.data.loader import ImageLoader, ResumableDataLoader
from discern.data.sampler import EpochSampler, ShareSampler, mixed_order
from discern.data.served import Features, ServedFeatures
from discern.data.splits import stratified_folds, stratified_sample, stratified_split


@dataclass(frozen=True)
class Parts:
    """A data set in the parts that it comes in.

    Attributes:
        title: name for people.
        source_used: where it is from, in a word.
        digests: hex SHA-256 of all that training and test see, in a fixed order.
        train: images to train on and, where there is no part for it, to hold out of.
        val: images for validation, or None where the data set has no such part.
        test: images for the test.
    """

    title: str
    source_used: str
    digests: tuple[str, ...]
    train: Images
    val: Images | None
    test: Images


@dataclass(frozen=True)
class _Splits:
    loaded: Parts
    train: Images
    val: Images
    test: Images


class ImageDataModule(LightningDataModule, ABC):
    """Data module of labelled images, with a validation split that training never sees.

    A batch is a tuple: images, float32 (B, C, H, W), normalised, and labels, int64 (B,). The last
    batch of an epoch may be smaller, and one of validation or test empty where several processes
    share the images.

    Args:
        val_size: number (an int) or fraction (a float) of the training images that are held out,
            in equal proportion of each class, unless the data set has a part for validation; with
            0 there is no validation.
        batch_size: images in a training batch.
        eval_batch_size: images in a batch of validation or test.
        num_workers: processes that load batches; with 0 the training process does.
        augment: what is done to training images, a key of ``augmentations``.
        sampler: ``none`` to visit each training image once an epoch, ``balanced`` to draw as many,
            each class equally often on average.
        fraction: of the training images, what part is used, the same of each class.
        folds: with a number, the training images are divided into so many parts instead, and
            validation is on one of them.
        fold: that part, from 0.
        seed: decides which images are held out, the order of each epoch and the augmentation.
    """

    class_names: list[str]
    """Names of the classes, in the order of their labels."""

    input_shape: tuple[int, int, int]
    """Shape of an image: channels, height, width."""

    augmentations: ClassVar[Mapping[str, Any]]
    """What ``augment`` may name."""

    def __init__(
        self,
        *,
        val_size: int | float = 0.1,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        augment: str = "none",
        sampler: str = "none",
        fraction: float = 1.0,
        folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.val_size = val_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.augmentation = self.augmentations[augment]
        self.sampler = sampler
        self.fraction = fraction
        self.folds = folds
        self.fold = fold
        self.seed = seed
        self.omits_single_images = False
        """Whether training leaves out a last batch of one image."""
        self.features: Features | None = None
        """Serves features in the place of images, where there are any."""
        self._splits: _Splits | None = None

    @abstractmethod
    def _load_parts(self) -> Parts:
        """Find the images, and read them if they are to be in memory."""

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """What turns pixels into the network's input, for whoever has the model alone."""

    def setup(self, stage: str | None = None) -> None:
        """Find the data set and split it, once, whatever the stage."""
        if self._splits is not None:
            return
        loaded = self._load_parts()
        train, val = self._train_and_val(loaded)
        self._splits = _Splits(loaded, train, val, loaded.test)

    def _train_and_val(self, loaded: Parts) -> tuple[Images, Images]:
        everything, labels = loaded.train, loaded.train.labels
        if self.folds is not None:
            kept, held_out = stratified_folds(labels, self.folds, self.fold, self.seed)
            val = everything.subset(held_out)
        elif loaded.val is not None:
            kept, val = torch.arange(len(labels)), loaded.val
        else:
            kept, held_out = stratified_split(labels, self.val_size, self.seed)
            val = everything.subset(held_out)
        if self.fraction < 1:
            kept = kept[stratified_sample(labels[kept], self.fraction, self.seed)]
        return everything.subset(kept), val

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def title(self) -> str:
        """Name for people of the data that is used."""
        return self._set_up.loaded.title

    @property
    def source_used(self) -> str:
        """Where the data is from, such as ``full`` for the published data set."""
        return self._set_up.loaded.source_used

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 that changes with any pixel or label of the training or test images."""
        return hashlib.sha256("".join(self._set_up.loaded.digests).encode()).hexdigest()

    @property
    def train_dataset(self) -> Images:
        """The images trained on."""
        return self._set_up.train

    @property
    def val_dataset(self) -> Images:
        """The images held out of training; none with ``val_size`` 0."""
        return self._set_up.val

    @property
    def test_dataset(self) -> Images:
        """The images of the test set."""
        return self._set_up.test

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images in each split: ``train``, ``val``, ``test``."""
        splits = self._set_up
        return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}

    @property
    def train_class_counts(self) -> Tensor:
        """Number of training images of each class, int64 (num_classes,)."""
        return torch.bincount(labels_of(self.train_dataset), minlength=self.num_classes)

    @property
    def has_validation(self) -> bool:
        """Whether any image is held out."""
        return len(self.val_dataset) > 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order that the seed and the epoch decide; it resumes within an epoch."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning overfits on batches in a fixed order, and would replace the sampler. Images
            # may be sorted by class, and a batch of one class is learnt without a look at it.
            mixed = mixed_order(labels_of(self.train_dataset))
            indices = self.train_dataset.indices
            return self.sequential_loader(
                self.train_dataset.subset(mixed if indices is None else indices[mixed]),
                self.batch_size,
            )
        dataset = self._seen_in_training()
        sampler = EpochSampler(
            dataset,
            self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
            labels=labels_of(self.train_dataset) if self.sampler == "balanced" else None,
            places=isinstance(dataset, AugmentedImages),
        )
        return ResumableDataLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            batches_done=self._batches_done,
            drop_last=self.omits_single_images
            and len(sampler) > self.batch_size
            and len(sampler) % self.batch_size == 1,
            **self._loader_options(),
        )

    def _seen_in_training(self) -> Dataset[Any]:
        """The images trained on, as training sees them."""
        images = self._served(self.train_dataset)
        if self.augmentation is None:
            return images  # type: ignore[return-value]
        return AugmentedImages(images, self.augmentation, self.seed)

    def seen_in_epoch(self, indices: list[int], epoch: int) -> Batch:
        """Training images at ``indices`` as the network sees them in an epoch, from 0."""
        if self.augmentation is None:
            return self.train_dataset.__getitems__(indices)
        chosen = np.array(indices, dtype=np.int64)
        return self.train_dataset.augmented(chosen, self.augmentation, self.seed, epoch)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the images held out, in order; no loader at all where there are none."""
        if not self.has_validation:
            # Lightning takes an empty list to mean no validation, but wonders whether it is meant.
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
            return []
        return self._share_of(self.val_dataset)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images, in order."""
        return self._share_of(self.test_dataset)

    @property
    def _set_up(self) -> _Splits:
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__} knows its data only after setup()")
        return self._splits

    def sequential_loader(self, dataset: Images, batch_size: int) -> DataLoader[Any]:
        """Batches of ``dataset`` in order, as the network sees them in evaluation."""
        return self._loader(self._served(dataset), batch_size)

    def _share_of(self, images: Images) -> DataLoader[Any]:
        """Batches, in order, of those images that this process evaluates."""
        dataset: Any = self._served(images)
        trainer = self.trainer
        if trainer is None or trainer.world_size == 1:
            return self._loader(dataset, self.eval_batch_size)
        share = ShareSampler(dataset, trainer.world_size, trainer.global_rank)
        return self._loader(dataset, self.eval_batch_size, sampler=share)

    def _loader(self, dataset: Any, batch_size: int, **options: Any) -> DataLoader[Any]:
        return ImageLoader(dataset, batch_size=batch_size, **options, **self._loader_options())

    def _served(self, images: Images) -> Images | ServedFeatures:
        return images if self.features is None else ServedFeatures(images, self.features)

    def _loader_options(self) -> dict[str, Any]:
        # Features are read, not computed: processes for it would only cost.
        num_workers = self.num_workers if self.features is None else 0
        return {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
            # A loader draws from its generator whenever it is iterated. With the global one, how
            # often validation runs would change the random numbers that training gets.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _batches_done(self) -> int:
        """Batches of the current epoch that the model has been trained on."""
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return int(progress.current.processed)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class LoadedImages:
    """A whole data set in memory.

    Attributes:
        title: name for people.
        train_images: uint8 (N, C, H, W).
        train_labels: int64 (N,).
        test_images: uint8 (M, C, H, W).
        test_labels: int64 (M,).
        source_used: "full" or "sample", of a published data set.
        digests: hex SHA-256 of the images and labels of both parts, in a fixed order; computed
            where none are given.
    """

    title: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source_used: str = "full"
    digests: tuple[str, ...] = ()


class InMemoryDataModule(ImageDataModule):
    """Data module of images that fit in memory.

    Args:
        mean: subtracted from pixels scaled to [0, 1]; one number, or one per channel.
        std: what the difference is divided by; one number, or one per channel.
        **options: see ``ImageDataModule``.
    """

    augmentations = AUGMENTATIONS

    def __init__(
        self,
        *,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mean = mean
        self.std = std

    @abstractmethod
    def load_images(self) -> LoadedImages:
        """Read or make the data set; called once."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Mean and standard deviation."""
        return {"mean": self.mean, "std": self.std}

    def _load_parts(self) -> Parts:
        loaded = self.load_images()
        return Parts(
            loaded.title,
            loaded.source_used,
            loaded.digests or _digests(loaded),
            train=InMemoryImages(loaded.train_images, loaded.train_labels, self.mean, self.std),
            val=None,
            test=InMemoryImages(loaded.test_images, loaded.test_labels, self.mean, self.std),
        )


def _digests(loaded: LoadedImages) -> tuple[str, ...]:
    """Hex SHA-256 of shape and content of each array."""
    arrays = (
        loaded.train_images, loaded.train_labels, loaded.test_images, loaded.test_labels
    )  # fmt: skip
    return tuple(
        hashlib.sha256(str(tuple(array.shape)).encode() + array.numpy().tobytes()).hexdigest()
        for array in arrays
    )
