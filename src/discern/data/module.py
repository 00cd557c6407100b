"""From a data set in memory to Lightning's data loaders."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from discern.data.augment import AUGMENTATIONS
from discern.data.in_memory import AugmentedImages, InMemoryImages, as_batch
from discern.data.loader import ResumableDataLoader
from discern.data.sampler import EpochSampler
from discern.data.splits import stratified_split


@dataclass(frozen=True)
class LoadedImages:
    """A whole data set.

    Attributes:
        title: name for people.
        source_used: "full" or "sample".
        digests: hex SHA-256 of the images and labels of both parts, in a fixed order.
        train_images: uint8 (N, C, H, W).
        train_labels: int64 (N,).
        test_images: uint8 (M, C, H, W).
        test_labels: int64 (M,).
    """

    title: str
    source_used: str
    digests: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class _Splits:
    loaded: LoadedImages
    train: InMemoryImages
    val: InMemoryImages
    test: InMemoryImages


class InMemoryDataModule(LightningDataModule, ABC):
    """Data module of images that fit in memory, with a validation split held out of training.

    A batch is a tuple: images, float32 (B, C, H, W), normalised, and labels, int64 (B,). The last
    batch of an epoch may be smaller.

    Args:
        val_size: number (an int) or fraction (a float) of the training images that are held out,
            in equal proportion of each class; with 0 there is no validation.
        batch_size: images in a training batch.
        eval_batch_size: images in a batch of validation or test.
        num_workers: processes that load batches; with 0 the training process does.
        mean: subtracted from pixels scaled to [0, 1]; one number, or one per channel.
        std: what the difference is divided by; one number, or one per channel.
        augment: what is done to training images, a key of ``AUGMENTATIONS``.
        seed: decides which images are held out, the order of each epoch and the augmentation.
    """

    class_names: list[str]
    """Names of the classes, in the order of their labels."""

    input_shape: tuple[int, int, int]
    """Shape of an image: channels, height, width."""

    def __init__(
        self,
        *,
        val_size: int | float,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        seed: int,
        augment: str = "none",
    ) -> None:
        super().__init__()
        self.augment = augment
        self.val_size = val_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.mean = mean
        self.std = std
        self.seed = seed
        self._splits: _Splits | None = None

    @abstractmethod
    def _load(self) -> LoadedImages:
        """Read the data set."""

    def setup(self, stage: str | None = None) -> None:
        """Read the data set and split it, once, whatever the stage."""
        if self._splits is not None:
            return
        loaded = self._load()
        kept, held_out = stratified_split(loaded.train_labels, self.val_size, self.seed)
        train = loaded.train_images, loaded.train_labels
        self._splits = _Splits(
            loaded,
            train=InMemoryImages(*train, self.mean, self.std, kept),
            val=InMemoryImages(*train, self.mean, self.std, held_out),
            test=InMemoryImages(loaded.test_images, loaded.test_labels, self.mean, self.std),
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What turns pixels into the network's input, for whoever has the model alone."""
        return {"mean": self.mean, "std": self.std}

    @property
    def title(self) -> str:
        """Name for people of the data that is used."""
        return self._set_up.loaded.title

    @property
    def source_used(self) -> str:
        """``full`` for the published data set, ``sample`` for the packaged sample."""
        return self._set_up.loaded.source_used

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 that changes with any pixel or label of the training or test images."""
        return hashlib.sha256("".join(self._set_up.loaded.digests).encode()).hexdigest()

    @property
    def train_dataset(self) -> InMemoryImages:
        """The images trained on."""
        return self._set_up.train

    @property
    def val_dataset(self) -> InMemoryImages:
        """The images held out of training; none with ``val_size`` 0."""
        return self._set_up.val

    @property
    def test_dataset(self) -> InMemoryImages:
        """The images of the published test set."""
        return self._set_up.test

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images in each split: ``train``, ``val``, ``test``."""
        splits = self._set_up
        return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}

    @property
    def has_validation(self) -> bool:
        """Whether any image is held out."""
        return len(self.val_dataset) > 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order that the seed and the epoch decide; it resumes within an epoch."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning overfits on batches in a fixed order, and would replace the sampler.
            return self._sequential_loader(self.train_dataset, self.batch_size)
        augmentation = AUGMENTATIONS[self.augment]
        dataset: Dataset[Any] = self.train_dataset
        if augmentation is not None:
            dataset = AugmentedImages(self.train_dataset, augmentation, self.seed)
        sampler = EpochSampler(
            dataset,
            self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
            places=augmentation is not None,
        )
        return ResumableDataLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            batches_done=self._batches_done,
            **self._loader_options(),
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the images held out, in order; no loader at all where there are none."""
        if not self.has_validation:
            # Lightning takes an empty list to mean no validation, but wonders whether it is meant.
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
            return []
        return self._sequential_loader(self.val_dataset, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images, in order."""
        return self._sequential_loader(self.test_dataset, self.eval_batch_size)

    @property
    def _set_up(self) -> _Splits:
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__} knows its data only after setup()")
        return self._splits

    def _sequential_loader(self, dataset: InMemoryImages, batch_size: int) -> DataLoader[Any]:
        return DataLoader(dataset, batch_size=batch_size, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
            "collate_fn": as_batch,
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
