"""What the settings may be: the config files' place, and the check of a composed config.

Nothing heavy is imported here, so that a wrong setting is reported in the time that Python and
Hydra take to start. A choice whose ``_target_`` has no schema here (a user's own class) is free.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)  # fmt: skip
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from discern.config.activations import ACTIVATIONS
from discern.config.settle import leave_out, place_paths, read_interpolated
from discern.config.typed import AsTyped
from discern.errors import DiscernError, first_line
from discern.files.walk import find_files
from discern.nearest import closest, did_you_mean
from discern.redaction import remember
from discern.runs.folder import find_checkpoint
from discern.runs.metric_table import check_mode


def conf_dir() -> Path:
    """The folder of the config groups: the installed package's, else the repository's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def _one_of(names: Any) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            close = closest(name, names)
            raise ValueError(f" (did you mean {close}?)" if close else "")
        return name

    return AfterValidator(check)


# The description of a field says what is allowed; it ends the error's sentence.
PositiveInt = Annotated[int, Field(ge=1, description="a whole number above 0")]
NonNegativeInt = Annotated[int, Field(ge=0, description="a whole number, 0 or above")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NonNegativeFloat = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="a number, 0 or above")
]
Probability = Annotated[
    float, Field(ge=0, lt=1, description="a probability, 0 or above and below 1")
]
Flag = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="a text")]
# A setting that is a path is marked with AsTyped, and so are other texts with marks of Hydra's.
_Path = Annotated[str, AsTyped(), Field(min_length=1)]
_Checkpoint = Annotated[str, AsTyped(words=("last", "best")), Field(min_length=1)]
_Folder = Annotated[_Path, Field(description="a folder's path")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")]
Engine = Annotated[
    Literal["auto", "torch", "onnxruntime", "openvino"],
    Field(description="auto, torch, onnxruntime or openvino"),
]
Monitor = Annotated[str, Field(min_length=1, description="a metric's name, such as val/loss")]
_Metric = Annotated[str, Field(pattern=r"^(val|train)/.+")]
Mode = Annotated[
    Literal["min", "max"] | None,
    Field(description="min or max, or null for the metric's own direction"),
]


def _is_share(share: str) -> str:
    part, _, parts = share.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise ValueError("")
    if not 1 <= int(part) <= int(parts):
        raise ValueError("")
    return share


def _has_target(choice: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in choice:
        raise ValueError("")
    return choice


Group = Annotated[
    dict[str, Any], AfterValidator(_has_target), Field(description="a choice of its group")
]


_Entries = Annotated[
    dict[str, Any] | None, Field(description="a choice of its group, or null for nothing")
]


class Settings(BaseModel):
    """Settings that are all named here: another key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class OpenSettings(BaseModel):
    """Settings of a class of a library: its further arguments are passed on unchecked."""

    model_config = ConfigDict(extra="allow", strict=True)


_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AnyModelSettings(OpenSettings):
    """What every model has besides its own settings, which are a user's own class's."""

    label_smoothing: Probability = 0.0
    class_weights: Annotated[
        Literal["auto"]
        | Annotated[list[_Weight], Field(min_length=2)]
        | Annotated[dict[str | int, _Weight], Field(min_length=2)]
        | None,
        Field(
            description="auto, a number above 0 for each class, as {NAME:NUMBER,…} (in a file, "
            "yes, no, true and false in quotes) or as a list, or null"
        ),
    ] = None
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    init_from: Annotated[_Path | None, Field(description="a checkpoint's path, or null")] = None


_Widths = Annotated[
    list[Annotated[int, Field(ge=1, le=2**20)]],
    Field(
        max_length=1000,
        description="a list of whole numbers above 0, such as [128,64], at most 1000 and none "
        "above 1048576",
    ),
]


class LayersSettings(AnyModelSettings):
    """What fully connected layers have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    activation: Annotated[
        str, _one_of(ACTIVATIONS), Field(description=f"one of {', '.join(ACTIVATIONS)}")
    ]
    dropout: Probability
    norm: Annotated[Literal["none", "batch"], Field(description="none or batch")]


class MLPSettings(LayersSettings):  # noqa: D101
    hidden: _Widths


class TransferSettings(LayersSettings):  # noqa: D101
    library: Annotated[
        Literal["torchvision", "timm", "efficientnet_lite"],
        Field(description="torchvision, timm or efficientnet_lite"),
    ]
    backbone: Annotated[str, Field(min_length=1, description="the name of a backbone")]
    weights: Annotated[
        Annotated[str, AsTyped(words=("default",)), Field(min_length=1)] | None,
        Field(description="default, a file's path, or null for random ones"),
    ]
    head: _Widths
    unfreeze: Annotated[
        Literal["head", "last_block", "all"], Field(description="head, last_block or all")
    ]
    train_bn: Flag
    lr_factor: Annotated[float, Field(gt=0, le=1, description="a number above 0, at most 1")]


class AnyDataSettings(OpenSettings):
    """What ``discern evaluate`` knows of a data set that only the checkpoint will name."""

    dir: _Folder | None = None
    strict: Flag | None = None


_Size = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)],
    Field(description="a count, 0 or above, or a fraction below 1"),
]
_Fraction = Annotated[float, Field(gt=0, le=1, description="a fraction above 0, at most 1")]


class DataSettings(Settings):
    """What every data set of discern's own has."""

    dir: _Folder
    val_size: _Size
    batch_size: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="a whole number above 0, or auto"),
    ]
    eval_batch_size: PositiveInt
    sampler: Annotated[Literal["none", "balanced"], Field(description="none or balanced")]
    fraction: _Fraction
    folds: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(description="a whole number above 1, or null for no folds"),
    ]
    fold: Annotated[
        int, Field(ge=0, description="a fold's number, from 0 to one less than data.folds")
    ]
    seed: Seed
    strict: Flag

    @field_validator("fold")
    @classmethod
    def _is_one_of_the_folds(cls, fold: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if fold >= (folds or 1):
            raise ValueError(f" (data.folds={as_override(folds)})")
        return fold


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Each process takes memory and a second to start.
_Workers = Annotated[int, Field(ge=0, le=1024)]
# The augmentations' names; a test compares them with those that there are.
FOR_SMALL_IMAGES = ("none", "flip", "shift", "flip_shift")
FOR_PHOTOS = ("none", "notes", "light", "strong", "trivial")
_Three = Field(min_length=3, max_length=3)


class InMemorySettings(DataSettings):  # noqa: D101
    num_workers: Annotated[_Workers, Field(description="a whole number from 0 to 1024")]
    mean: Annotated[
        _Finite | Annotated[list[_Finite], Field(min_length=1)],
        Field(description="a number, or a list of one for each channel"),
    ]
    std: Annotated[
        _AboveZero | Annotated[list[_AboveZero], Field(min_length=1)],
        Field(description="a number above 0, or a list of one for each channel"),
    ]
    augment: Annotated[
        str,
        _one_of(FOR_SMALL_IMAGES),
        Field(description=f"one of {', '.join(FOR_SMALL_IMAGES)}"),
    ]


def _size_below(images: int) -> Any:
    """Part of so many images: a count that leaves one, or a fraction."""
    return Annotated[
        Annotated[int, Field(ge=0, lt=images)] | Annotated[float, Field(ge=0, lt=1)],
        Field(description=f"a count from 0 to {images - 1} or a fraction below 1"),
    ]


class CIFARSettings(InMemorySettings):  # noqa: D101
    val_size: _size_below(50_000)  # type: ignore[valid-type]


class MNISTSettings(InMemorySettings):  # noqa: D101
    val_size: _size_below(60_000)  # type: ignore[valid-type]
    source: Annotated[Literal["auto", "full", "sample"], Field(description="auto, full or sample")]


LARGEST_SIDE, LARGEST_RESIZE = 2048, 4096
"""Pixels of a side of what a network sees, and of the shorter side of the picture that it is cut
from. Backbones were trained with 224 to 600; with more, one image takes gigabytes."""


class PhotoSettings(DataSettings):
    """What data sets of photographs have; null is what the model's weights were trained with."""

    num_workers: Annotated[
        _Workers | None, Field(description="a whole number from 0 to 1024, or null")
    ]
    image_size: Annotated[
        Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None,
        Field(description=f"a whole number from 1 to {LARGEST_SIDE}, or null"),
    ]
    resize: Annotated[
        Annotated[int, Field(ge=1, le=LARGEST_RESIZE)] | None,
        Field(description=f"a whole number from 1 to {LARGEST_RESIZE}, or null"),
    ]
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None, Field(description="bilinear, bicubic or null")
    ]
    mean: Annotated[
        Annotated[list[_Finite], _Three] | None,
        Field(description="a list of three numbers, or null"),
    ]
    std: Annotated[
        Annotated[list[_AboveZero], _Three] | None,
        Field(description="a list of three numbers above 0, or null"),
    ]
    augment: Annotated[
        str,
        _one_of(FOR_PHOTOS),
        Field(description=f"one of {', '.join(FOR_PHOTOS)}"),
    ]
    max_bad: Annotated[float, Field(ge=0, le=1, description="a fraction from 0 to 1")]

    @field_validator("resize")
    @classmethod
    def _holds_the_image(cls, resize: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("image_size")
        if resize is not None and size is not None and resize < size:
            raise ValueError(f" that is at least data.image_size={size}")
        return resize


def _has_train(parts: dict[Any, Any]) -> dict[Any, Any]:
    if "train" not in parts:
        raise ValueError("")
    return parts


def _stays_below(folder: str) -> str:
    path = PurePath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("")
    return folder


_Below = Annotated[str, Field(min_length=1), AfterValidator(_stays_below)]


class FolderSettings(PhotoSettings):  # noqa: D101
    csv: Annotated[
        Annotated[str, AsTyped(from_start=False), Field(min_length=1)] | None,
        Field(description="a file's name in data.dir, or null"),
    ]
    test_size: _Size
    parts: Annotated[
        Literal["none"]
        | Annotated[dict[Literal["train", "val", "test"], _Below], AfterValidator(_has_train)]
        | None,
        Field(
            description="none, {train:FOLDER,val:FOLDER,test:FOLDER} with folders in data.dir, of "
            "which train is there, or null"
        ),
    ] = None


class CatDogSettings(FolderSettings):  # noqa: D101
    url: Annotated[
        str, AsTyped(is_path=False), Field(min_length=1, description="an archive's address")
    ]
    sha256: Annotated[
        Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None,
        Field(description="64 hexadecimal digits, or null"),
    ]


class OptimizerSettings(OpenSettings):  # noqa: D101
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = 0.0
    betas: Annotated[
        list[Probability],
        Field(min_length=2, max_length=2, description="two numbers, each 0 or above and below 1"),
    ] = [0.9, 0.999]
    eps: PositiveFloat = 1e-8
    nesterov: Flag = False
    amsgrad: Flag = False
    maximize: Flag = False
    differentiable: Annotated[
        Literal[False], Field(description="false: training changes the weights in place")
    ] = False


class SchedulerSettings(OpenSettings):  # noqa: D101
    interval: Annotated[Literal["step", "epoch"], Field(description="step or epoch")]
    monitor: Monitor = "val/loss"
    mode: Mode = None
    total_as: Text = ""
    eta_min: NonNegativeFloat = 0.0
    step_size: PositiveInt = 1
    gamma: Annotated[float, Field(gt=0, le=1, description="a number above 0, at most 1")] = 1.0
    factor: Annotated[float, Field(gt=0, lt=1, description="a number above 0 and below 1")] = 0.1
    patience: NonNegativeInt = 0
    pct_start: Annotated[
        float, Field(gt=0, lt=1, description="a fraction, above 0 and below 1")
    ] = 0.3


class PlateauSettings(SchedulerSettings):  # noqa: D101
    interval: Annotated[
        Literal["epoch"], Field(description="epoch, at whose end the metric is known")
    ]


class EarlyStoppingSettings(OpenSettings):  # noqa: D101
    monitor: Monitor
    mode: Mode = None
    patience: NonNegativeInt
    min_delta: Annotated[float, Field(allow_inf_nan=False, description="a number")] = 0.0
    check_finite: Flag = True


class EMASettings(Settings):  # noqa: D101
    decay: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Field(description="a number above 0 and below 1, or null for no averaging"),
    ]
    update_every_n_steps: PositiveInt


class DashboardSettings(Settings):  # noqa: D101
    images_every: PositiveInt
    worst: PositiveInt
    pr_curves: NonNegativeInt
    graph: Flag
    projector: Annotated[int, Field(ge=0, le=10_000, description="a whole number from 0 to 10000")]
    sparing: Flag


class HistogramsSettings(Settings):  # noqa: D101
    every_n_epochs: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="a whole number above 0, or null for no histograms"),
    ]


_Epoch = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(description="an epoch's number, from 1, or null"),
]


class FinetuneSettings(Settings):  # noqa: D101
    last_block: _Epoch
    everything: _Epoch


class ModelCheckpointSettings(OpenSettings):  # noqa: D101
    monitor: Monitor | None
    mode: Mode = None


_Limit = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | None,
    Field(description="a count of batches, 0 or above, or a fraction from 0.0 to 1.0"),
]
_EpochLimit = Annotated[
    Annotated[int, Field(ge=-1)] | None,
    Field(description="a whole number, 0 or above, or -1 for no limit"),
]


def _is_time(time: str | dict[str, int]) -> str | dict[str, int]:
    if isinstance(time, str):
        days, hours, minutes, seconds = (int(part) for part in time.split(":"))
        parts = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
    else:
        parts = time
    try:
        span = timedelta(**parts)
    except (TypeError, OverflowError) as error:
        raise ValueError("") from error
    if not parts or span < timedelta(0):
        raise ValueError("")
    return time


_Time = Annotated[
    Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | dict[str, int],
    AfterValidator(_is_time),
]
_TimeSpan = Annotated[
    _Time | None, Field(description="a time DD:HH:MM:SS, or its parts such as {minutes:5}")
]
_Entry = Annotated[dict[str, Any], AfterValidator(_has_target)]


_PRECISIONS = (
    "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed",
    "bf16-mixed", "transformer-engine", "transformer-engine-float16",
)  # fmt: skip


class TrainerSettings(Settings):
    """Every argument of ``lightning.Trainer``; a test compares the names with its signature."""

    accelerator: Annotated[
        str,
        _one_of(("auto", "cpu", "gpu", "cuda", "mps", "tpu")),
        Field(description="auto, cpu, gpu, cuda, mps or tpu"),
    ]
    devices: Annotated[
        int | str | list[int], Field(description="a count, a list of device numbers, or auto")
    ]
    strategy: Annotated[
        str | _Entry,
        Field(description="auto, a strategy's name such as ddp, or a _target_ entry"),
    ]
    num_nodes: PositiveInt
    precision: Annotated[
        Annotated[str, _one_of(_PRECISIONS)] | Literal[64, 32, 16] | None,
        Field(description=f"one of {', '.join(_PRECISIONS)}"),
    ]
    logger: Annotated[
        bool | _Entry | list[_Entry] | None,
        Field(description="false, or null for the group `logger`, or a _target_ entry"),
    ]
    callbacks: Annotated[
        _Entry | list[_Entry] | None,
        Field(description="null, or a list of _target_ entries"),
    ]
    fast_dev_run: Annotated[
        bool | Annotated[int, Field(ge=0)], Field(description="true, false or a count of batches")
    ]
    max_epochs: _EpochLimit
    min_epochs: NonNegativeInt | None
    max_steps: Annotated[int, Field(ge=-1, description="a whole number, -1 for no limit")]
    min_steps: NonNegativeInt | None
    max_time: _TimeSpan
    limit_train_batches: _Limit
    limit_val_batches: _Limit
    limit_test_batches: _Limit
    limit_predict_batches: _Limit
    overfit_batches: Annotated[
        Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)],
        Field(description="a count of batches, 0 or above, or a fraction from 0.0 to 1.0"),
    ]
    val_check_interval: Annotated[
        Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=0, le=1)] | _Time | None,
        Field(description="a count of batches, a fraction from 0.0 to 1.0, or a time DD:HH:MM:SS"),
    ]
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: Annotated[
        Annotated[int, Field(ge=-1)] | None,
        Field(description="a count of batches, -1 for all"),
    ]
    log_every_n_steps: NonNegativeInt | None
    enable_checkpointing: Flag | None
    enable_progress_bar: Flag | None
    enable_model_summary: Flag | None
    accumulate_grad_batches: PositiveInt
    gradient_clip_val: NonNegativeFloat | None
    gradient_clip_algorithm: Annotated[
        Literal["norm", "value"] | None, Field(description="norm or value")
    ]
    deterministic: Annotated[
        bool | Literal["warn"] | None, Field(description="true, false or warn")
    ]
    benchmark: Flag | None
    inference_mode: Flag
    use_distributed_sampler: Flag
    profiler: Annotated[
        Literal["simple", "advanced", "pytorch", "xla"] | _Entry | None,
        Field(description="simple, advanced, pytorch, xla or a _target_ entry"),
    ]
    detect_anomaly: Flag
    barebones: Flag
    plugins: Annotated[
        _Entry | list[_Entry] | None,
        Field(description="null, or a list of _target_ entries"),
    ]
    sync_batchnorm: Flag
    reload_dataloaders_every_n_epochs: NonNegativeInt
    default_root_dir: _Folder | None
    enable_autolog_hparams: Flag
    model_registry: Text | None


class CacheSettings(Settings):
    """The settings ``cache.…`` of a frozen backbone's features."""

    mode: Annotated[
        Literal["auto", "off", "refresh", "require"],
        Field(description="auto, off, refresh or require"),
    ]
    dir: _Folder | None
    max_gb: PositiveFloat
    views: PositiveInt
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        Field(description="float32, float16 or bfloat16"),
    ]
    on_full: Annotated[Literal["uncached", "stop"], Field(description="uncached or stop")]
    batch_size: PositiveInt
    shard: Annotated[
        Annotated[str, AfterValidator(_is_share)] | None,
        Field(description="a part such as 3/16, from 1/16 to 16/16, or null"),
    ]


class CheckpointSettings(Settings):  # noqa: D101
    full: Flag


class SweepSettings(Settings):
    """The settings ``sweep.…``."""

    resume: Annotated[
        Annotated[str, AsTyped(words=("last",)), Field(min_length=1)] | None,
        Field(description="a sweep's folder, last, or null"),
    ]
    study: Text | None
    name: Text | None
    trial: NonNegativeInt | None
    draws: Flag


AllowTargets = Annotated[
    list[str], Field(description="a list of modules, classes and functions, such as [mine.Net]")
]


class RunSettings(OpenSettings):
    """The groups of training, and its settings that belong to no group."""

    model: Group
    data: Group
    optimizer: Group
    scheduler: Group
    trainer: Group
    callbacks: _Entries = None
    logger: _Entries = None
    cache: dict[str, Any]
    checkpoint: dict[str, Any]
    sweep: dict[str, Any]
    objective: Annotated[
        _Metric | Annotated[list[_Metric], Field(min_length=1)],
        Field(description="a metric of val or train, such as val/loss or val/accuracy, or a list"),
    ]
    engine: Engine
    seed: Seed
    threads: Annotated[
        Annotated[int, Field(ge=1, le=1024)] | Literal["auto"],
        Field(description="a whole number from 1 to 1024, or auto"),
    ]
    on_nan: Annotated[Literal["stop", "continue"], Field(description="stop or continue")]
    train: Flag
    test: Flag
    report: Flag
    find_lr: Annotated[bool | Literal["use"], Field(description="true, use or false")]
    ckpt_path: Annotated[_Checkpoint | None, Field(description="a checkpoint's path, or null")]
    tags: Annotated[list[str | int | float], Field(description="a list of words, such as [a,b]")]
    allow_targets: AllowTargets
    folder: _Folder | None


_Model = Annotated[
    _Checkpoint,
    Field(
        description="a checkpoint's path, a run's folder, or last or best for the newest run's",
    ),
]


class EvaluationSettings(Settings):
    """The settings of ``discern evaluate``; ``data`` is a group."""

    ckpt_path: _Model
    split: Annotated[
        str, _one_of(("test", "val", "train")), Field(description="test, val or train")
    ]
    data: dict[str, Any]
    engine: Engine
    seed: Seed
    allow_targets: AllowTargets
    folder: _Folder | None


class InspectionSettings(Settings):
    """The settings of ``discern inspect``; ``data`` is a group."""

    data: Group
    seed: Seed
    allow_targets: AllowTargets
    folder: _Folder | None


class PredictionSettings(Settings):
    """The settings of ``discern predict``."""

    ckpt_path: _Model
    input: Annotated[
        _Path,
        Field(
            description="a picture, a folder of pictures, or a pattern such as 'photos/*.png'",
        ),
    ]
    out: _Folder
    engine: Engine
    invert: Annotated[bool | Literal["auto"], Field(description="auto, true or false")]
    pictures: NonNegativeInt
    explain: Flag
    allow_targets: AllowTargets

    @field_validator("explain")
    @classmethod
    def _has_pictures(cls, explain: bool, info: ValidationInfo) -> bool:
        if explain and info.data.get("pictures") == 0:
            raise ValueError(", and false with pictures=0, which leaves none to explain")
        return explain


SCHEMAS: dict[str, type[BaseModel]] = {
    "discern.models.mlp.MLP": MLPSettings,
    "discern.models.transfer.TransferClassifier": TransferSettings,
    "discern.data.published.mnist.MNIST": MNISTSettings,
    "discern.data.published.mnist.FashionMNIST": MNISTSettings,
    "discern.data.published.cifar.CIFAR10": CIFARSettings,
    "discern.data.published.cifar.CIFAR100": CIFARSettings,
    "discern.data.image_folder.ImageFolder": FolderSettings,
    "discern.data.published.imagenet.ImageNetFolder": FolderSettings,
    "discern.data.published.catdog.CatDog": CatDogSettings,
    "discern.data.published.flowers.Flowers102": PhotoSettings,
    "discern.data.published.pets.OxfordPets": PhotoSettings,
    "torch.optim.SGD": OptimizerSettings,
    "torch.optim.Adam": OptimizerSettings,
    "torch.optim.AdamW": OptimizerSettings,
    "torch.optim.lr_scheduler.CosineAnnealingLR": SchedulerSettings,
    "torch.optim.lr_scheduler.StepLR": SchedulerSettings,
    "torch.optim.lr_scheduler.ReduceLROnPlateau": PlateauSettings,
    "torch.optim.lr_scheduler.OneCycleLR": SchedulerSettings,
    "lightning.pytorch.Trainer": TrainerSettings,
    "discern.training.ema.ema": EMASettings,
    "discern.reports.tensorboard.callback.Dashboard": DashboardSettings,
    "discern.training.finetune.Finetune": FinetuneSettings,
    "discern.reports.tensorboard.histograms.histograms": HistogramsSettings,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStoppingSettings,
    "lightning.pytorch.callbacks.ModelCheckpoint": ModelCheckpointSettings,
    "discern.training.checkpointing.RunCheckpoint": ModelCheckpointSettings,
}
"""``_target_`` of a group's choice -> what its settings may be."""

EXTRAS = {
    "discern.reports.tensorboard.logger.WeightsAndBiases": "wandb",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
}
"""``_target_`` -> the package it needs and the extra of that name."""

PARTS: dict[str, type[BaseModel]] = {
    "cache": CacheSettings,
    "checkpoint": CheckpointSettings,
    "sweep": SweepSettings,
}
"""Settings of a command that belong together without being a group."""

UNKNOWN: dict[str, type[BaseModel]] = {"model": AnyModelSettings, "data": AnyDataSettings}
"""Group -> what the settings of a ``_target_`` without a schema may be."""


GROUPS: dict[str, tuple[type[BaseModel], ...]] = {
    "model": (AnyModelSettings,),
    "data": (AnyDataSettings, DataSettings),
    "trainer": (TrainerSettings,),
}
"""Group -> the schemas, with those that build on them, of its choices that are paths in part."""

WITHOUT_SCHEMA = {
    "experiment": AsTyped(is_choice=True),
    "hydra.run.dir": AsTyped(),
    "hydra.sweep.dir": AsTyped(),
    "hydra.sweep.subdir": AsTyped(from_start=False),
    "hydra.sweeper.storage": AsTyped(is_path=False),
    "hydra.launcher.submitit_folder": AsTyped(),
    "hydra.launcher.temp_folder": AsTyped(),
    "hydra.job_logging.handlers.file.filename": AsTyped(),
    "logger.csv.path": AsTyped(),
    "logger.tensorboard.save_dir": AsTyped(),
    "logger.wandb.save_dir": AsTyped(),
    "logger.mlflow.tracking_uri": AsTyped(is_path=False),
    "callbacks.best_checkpoint.dirpath": AsTyped(),
    "callbacks.last_checkpoint.dirpath": AsTyped(),
    "trainer.profiler.dirpath": AsTyped(),
}
"""Settings of Hydra's, and of classes that have no schema here, whose text is taken as typed."""


@functools.cache
def as_typed_settings() -> dict[str, AsTyped]:
    """Name -> mark of all settings whose text is taken as it was typed, of all commands."""
    schemas = [("", settings) for settings, _ in COMMANDS.values()]
    schemas += [(f"{name}.", schema) for name, schema in PARTS.items()]
    of_choices = {*SCHEMAS.values(), *UNKNOWN.values()}
    schemas += [
        (f"{group}.", schema)
        for group, bases in GROUPS.items()
        for schema in of_choices
        if issubclass(schema, bases)
    ]
    found = {
        f"{prefix}{name}": mark
        for prefix, schema in schemas
        for name, field in schema.model_fields.items()
        if (mark := _mark(field)) is not None
    }
    return {**found, **WITHOUT_SCHEMA}


def _mark(field: FieldInfo) -> AsTyped | None:
    """The mark of a setting, perhaps of one that may also be null."""
    inside = [meta for arg in get_args(field.annotation) for meta in get_args(arg)[1:]]
    return next((m for m in (*field.metadata, *inside) if isinstance(m, AsTyped)), None)


def check(cfg: DictConfig, command: str = "train") -> None:
    """Raise for the first setting of a composed config that has a value which is not allowed.

    Args:
        cfg: the config.
        command: the one that it was composed for, a key of ``COMMANDS``.

    Raises:
        DiscernError: names the setting, its value, and what is allowed.
    """
    leave_out(cfg)
    if command == "train":
        _put_in_deleted_groups(cfg)
    try:
        read_interpolated(cfg, _validators(cfg, command))
        place_paths(cfg, as_typed_settings())
        # `hydra` is Hydra's own and checked by it.
        values: dict[Any, Any] = {
            str(key): "???" if OmegaConf.is_missing(cfg, key) else plain(cfg[key])
            for key in cfg
            if key != "hydra"
        }
    except OmegaConfBaseException as error:
        raise DiscernError(f"The config cannot be resolved: {first_line(error)}.") from error
    remember(values)
    settings, check_files = COMMANDS[command]
    _check_numbers(values, "")
    if command == "train":
        check_names(cfg)
    _check_part(settings, values, "")
    for name, schema in PARTS.items():
        if isinstance(values.get(name), dict):
            _check_part(schema, values[name], f"{name}.")
    _check_targets(values, "")
    check_files(values)


LARGEST = 2**63 - 1
"""A whole number of 64 bits: no library takes more."""


def _check_numbers(values: Any, path: str) -> None:
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in entries:
        here = f"{path}{key}"
        if isinstance(value, (dict, list)):
            _check_numbers(value, f"{here}.")
        elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise DiscernError(f"{here}={value} is not allowed; {LARGEST} is the largest number.")


def _put_in_deleted_groups(cfg: DictConfig) -> None:
    """Have ``~logger``, ``~callbacks`` and ``~scheduler`` mean none, as people type them."""
    with open_dict(cfg), read_write(cfg):
        for group in ("logger", "callbacks", "scheduler"):
            if group not in cfg:
                cfg[group] = {"_target_": None} if group == "scheduler" else {}


def with_floats(target: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which a whole number is a float where a float is meant.

    People type ``optimizer.betas=[0,0]``, which torch refuses.
    """
    schema = SCHEMAS.get(str(target))
    if schema is None:
        return settings
    known = settings.keys() & schema.model_fields.keys()
    return {**settings, **{name: _as_meant(schema, name, settings[name]) for name in known}}


def _as_meant(schema: type[BaseModel], name: str, value: Any) -> Any:
    try:
        return _adapter(schema, name).validate_python(value)
    except ValidationError:  # of a config that was not checked: building it tells better
        return value


@functools.cache
def _adapter(schema: type[BaseModel], name: str) -> TypeAdapter[Any]:
    annotation = schema.model_fields[name].rebuild_annotation()
    return TypeAdapter(annotation, config=ConfigDict(strict=True))


NUMBERS = (OptimizerSettings, SchedulerSettings, EarlyStoppingSettings)
"""Schemas of classes whose further arguments are numbers, true or false."""

_number = TypeAdapter(int | float | bool, config=ConfigDict(strict=True)).validate_python

NUMBERS_OF_HYDRA = (
    "hydra.launcher.n_jobs",
    "hydra.sweeper.max_batch_size",
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.n_trials",
)
"""Settings of sweeps that are numbers, or words."""


def settle_sweep(cfg: DictConfig) -> None:
    """Read what interpolations hand out for the settings of a sweep itself."""
    read_interpolated(cfg, dict.fromkeys(NUMBERS_OF_HYDRA, _number))


def _validators(cfg: DictConfig, command: str) -> dict[str, Callable[[Any], Any]]:
    """Setting -> what raises ValueError for a value that it may not have."""
    schemas = {"": COMMANDS[command][0]}
    schemas |= {f"{name}.": schema for name, schema in PARTS.items() if name in cfg}
    schemas |= dict(_schemas_of_choices(cfg, ""))
    found: dict[str, Callable[[Any], Any]] = {}
    for prefix, schema in schemas.items():
        if issubclass(schema, NUMBERS):
            names = map(str, OmegaConf.select(cfg, prefix[:-1]))
            found |= {f"{prefix}{name}": _number for name in names if name != "_target_"}
        for name in schema.model_fields:
            found[f"{prefix}{name}"] = _adapter(schema, name).validate_python
    return found


def _schemas_of_choices(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for key in cfg:
        node = cfg._get_node(key)  # of a class that is a number, by the number
        if key == "hydra" or not isinstance(node, DictConfig) or not node:
            continue
        name = f"{prefix}{key!s}"
        schema = SCHEMAS.get(str(node._get_node("_target_", validate_access=False))) or UNKNOWN.get(
            name
        )
        if schema is not None:
            yield f"{name}.", schema
        yield from _schemas_of_choices(node, f"{name}.")


def plain(node: Any) -> Any:
    """A config node as plain Python values, every interpolation resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def check_names(cfg: DictConfig) -> None:
    """Raise for a name in a config of ``train`` that stands for nothing, as a mistyped one does.

    A setting of one's own that others may refer to is no such name, unless it looks like one.

    Raises:
        DiscernError: says which names there are.
    """
    known = RunSettings.model_fields
    for key in cfg:
        name = str(key)
        if name in known or name == "hydra":
            continue
        if (conf_dir() / name).is_dir():
            raise DiscernError(
                f"{name} is a group, not a setting; a file chooses from it by a line "
                f"'- override /{name}: CHOICE' among its defaults."
            )
        looks_wrong = OmegaConf.is_dict(cfg._get_node(key)) or closest(name, known)
        if looks_wrong and not _is_referred_to(name, cfg):
            raise DiscernError(f"{name} is not a setting; {did_you_mean(name, known)}")
    for group in ("callbacks", "logger"):
        parts = cfg.get(group)
        if not OmegaConf.is_dict(parts):  # which the settings' own check tells better
            continue
        built = [str(name) for name, part in parts.items() if _is_built(part)]
        for name, part in parts.items():
            if part is not None and not _is_built(part):
                others = did_you_mean(str(name), built) if built else "it needs one."
                raise DiscernError(f"{group}.{name} has no _target_; {others}")


def _is_built(part: Any) -> bool:
    return OmegaConf.is_dict(part) and part.get("_target_") is not None


def _is_referred_to(name: str, cfg: DictConfig) -> bool:
    settings = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return re.search(rf"\$\{{{re.escape(name)}\b", OmegaConf.to_yaml(settings)) is not None


def _check_targets(values: dict[Any, Any], path: str) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            here = f"{path}{key}"
            schema = SCHEMAS.get(str(value.get("_target_"))) or UNKNOWN.get(here)
            settings = {name: part for name, part in value.items() if name != "_target_"}
            extra = EXTRAS.get(str(value.get("_target_")))
            if extra is not None:
                _check_installed(here, extra, extra)
            if schema is not None:
                _check_part(schema, settings, f"{here}.")
            if "mode" in (schema.model_fields if schema else ()) and settings.get("monitor"):
                check_mode(f"{here}.mode", settings.get("mode"), settings["monitor"])
            _check_targets(settings, f"{here}.")


def _check_installed(setting: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise DiscernError(
            f"{setting} needs the package {package}, which is not installed; "
            f"pip install 'discern[{extra}]' brings it."
        )


def _check_part(schema: type[BaseModel], values: dict[Any, Any], prefix: str) -> None:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        raise DiscernError(_sentence(error.errors()[0], schema, values, prefix)) from error


def check_given(target: str, settings: dict[str, Any], prefix: str) -> None:
    """Check settings of a class that has a schema, of which some may be left to the class.

    Args:
        target: the class.
        settings: of it.
        prefix: what they are called by in the message.

    Raises:
        ValueError: one is none of its settings, or has a value that is not allowed.
    """
    fields = SCHEMAS[target].model_fields
    is_open = SCHEMAS[target].model_config.get("extra") == "allow"
    for name, value in settings.items():
        if name not in fields:
            if is_open:  # an argument of the class, which checks it
                continue
            raise ValueError(f"{prefix}.{name} is not a setting; {did_you_mean(name, fields)}")
        try:
            _adapter(SCHEMAS[target], name).validate_python(value)
        except ValidationError as error:
            raise ValueError(
                f"{prefix}.{name}={as_override(value)[:100]} is not allowed; it must be "
                f"{allowed(fields[name])}"
            ) from error


def _sentence(
    error: ErrorDetails, schema: type[BaseModel], values: dict[Any, Any], prefix: str
) -> str:
    name = str(error["loc"][0])
    setting = f"{prefix}{name}"
    if error["type"] == "extra_forbidden":
        return f"{setting} is not a setting; {did_you_mean(name, schema.model_fields)}"
    may_be = allowed(schema.model_fields[name])
    if error["type"] == "missing":
        return f"{setting} is missing; it must be {may_be}."
    hint = error["msg"].removeprefix("Value error, ") if error["type"] == "value_error" else ""
    return f"{setting}={as_override(values[name])} is not allowed; it must be {may_be}{hint}."


def allowed(field: FieldInfo) -> str:
    """What a setting may be, as the end of a sentence."""
    if field.description:
        return field.description
    # `Annotated[int, Field(description=…)] | None`: the description is inside the union.
    metas = [meta for arg in get_args(field.annotation) for meta in get_args(arg)[1:]]
    parts = [meta.description for meta in metas if isinstance(meta, FieldInfo)]
    described = " or ".join(part for part in parts if part)
    return f"{described}, or null" if described else ""


def as_override(value: Any) -> str:
    """A plain value as one would type it in an override: ``[128,64]``, ``null``, ``true``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(as_override(item) for item in value)}]"
    if isinstance(value, dict):
        items = ",".join(f"{key}:{as_override(item)}" for key, item in value.items())
        return f"{{{items}}}"
    return str(value)


# The files that the settings name are there, before anything that takes seconds is imported, and
# what a setting needs is installed.


def _check_files_of_train(values: dict[Any, Any]) -> None:
    if values["sweep"]["resume"] is not None:
        raise DiscernError(f"sweep.resume={values['sweep']['resume']} is for a sweep: add -m.")
    if values["ckpt_path"] is not None:
        find_checkpoint(values["ckpt_path"])
    elif not values["train"]:
        raise DiscernError(
            "train=false leaves nothing to do without a model: give ckpt_path=FILE as well."
        )
    _check_searches(values)


def _check_searches(values: dict[Any, Any]) -> None:
    """Nothing stands in the way of what is to be found before training."""
    searches = []
    if values["find_lr"]:
        searches.append(f"find_lr={as_override(values['find_lr'])}")
    if values["data"].get("batch_size") == "auto":
        searches.append("data.batch_size=auto")
    fast = values["trainer"].get("fast_dev_run")
    reasons = {
        "train=false": not values["train"] and "with it nothing is trained",
        "ckpt_path": values["ckpt_path"] and "a continued run keeps its own",
        f"trainer.fast_dev_run={as_override(fast)}": fast and "it trains on too few batches",
        "cache.shard": values["cache"].get("shard") and "with it nothing is trained",
    }
    for search in searches:
        for other, why in reasons.items():
            if why:
                raise DiscernError(f"{search} is not possible together with {other}: {why}.")
    lr = values["optimizer"].get("lr")
    if values["find_lr"] and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or lr <= 0):
        optimizer = str(values["optimizer"]["_target_"]).rpartition(".")[2]
        raise DiscernError(f"{searches[0]} needs optimizer.lr, and {optimizer} is given none here.")


def _check_files_of_evaluate(values: dict[Any, Any]) -> None:
    find_checkpoint(values["ckpt_path"])


def _check_files_of_predict(values: dict[Any, Any]) -> None:
    find_checkpoint(values["ckpt_path"])
    next(find_files(values["input"]))
    if values["explain"]:
        _check_installed("explain=true", "captum", "explain")


def _no_files(values: dict[Any, Any]) -> None:
    """What the data set needs is looked for when it is built."""


COMMANDS: dict[str, tuple[type[BaseModel], Callable[[dict[Any, Any]], None]]] = {
    "train": (RunSettings, _check_files_of_train),
    "evaluate": (EvaluationSettings, _check_files_of_evaluate),
    "inspect": (InspectionSettings, _no_files),
    "predict": (PredictionSettings, _check_files_of_predict),
}
"""Command -> what its settings outside of groups may be, and the check of the files they name."""
