"""What the settings may be: the config files' place, and the check of a composed config.

Nothing heavy is imported here, so that a wrong setting is reported in the time that Python and
Hydra take to start. A choice whose ``_target_`` has no schema here (a user's own class) is free.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)  # fmt: skip
from pydantic_core import CoreSchema, core_schema

from discern.config.activations import ACTIVATIONS
from discern.config.typed import AsTyped
from discern.errors import as_override, closest
from discern.runs.folder import WORDS


@dataclass(frozen=True, eq=False)
class _OneOf:
    """A text that is one of some names, in a JSON schema too."""

    names: Collection[str]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}

    def _checked(self, name: str) -> str:
        if name not in self.names:
            close = closest(name, self.names)
            raise ValueError(f" (did you mean {close}?)" if close else "")
        return name


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
_Checkpoint = Annotated[str, AsTyped(words=WORDS), Field(min_length=1)]
CHECKPOINT = "a checkpoint's path, a run's folder, last for the newest run or best for the best one"
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

    model_config = ConfigDict(
        extra="forbid", strict=True, protected_namespaces=(), defer_build=True
    )


class OpenSettings(BaseModel):
    """Settings of a class of a library: its further arguments are passed on unchecked."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)


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
    init_from: Annotated[_Checkpoint | None, Field(description=f"{CHECKPOINT}, or null")] = None


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

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    activation: Annotated[
        str, _OneOf(ACTIVATIONS), Field(description=f"one of {', '.join(ACTIVATIONS)}")
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
        Annotated[str, AsTyped(words=("default", *WORDS)), Field(min_length=1)] | None,
        Field(description=f"default, a file's path, {CHECKPOINT}, or null for random ones"),
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
        _OneOf(FOR_SMALL_IMAGES),
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


LARGEST_SIDE, MAX_RESIZE = 2048, 4096
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
        Annotated[int, Field(ge=1, le=MAX_RESIZE)] | None,
        Field(description=f"a whole number from 1 to {MAX_RESIZE}, or null"),
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
        _OneOf(FOR_PHOTOS),
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
        _OneOf(("auto", "cpu", "gpu", "cuda", "mps", "tpu")),
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
        Annotated[str, _OneOf(_PRECISIONS)] | Literal[64, 32, 16] | None,
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
    print_config: Flag = False
    report: Flag
    find_lr: Annotated[bool | Literal["use"], Field(description="true, use or false")]
    ckpt_path: Annotated[_Checkpoint | None, Field(description=f"{CHECKPOINT}, or null")]
    tags: Annotated[list[str | int | float], Field(description="a list of words, such as [a,b]")]
    allow_targets: AllowTargets
    folder: _Folder | None


_Model = Annotated[_Checkpoint, Field(description=CHECKPOINT)]


class EvaluationSettings(Settings):
    """The settings of ``discern evaluate``; ``data`` is a group."""

    ckpt_path: _Model
    split: Annotated[str, _OneOf(("test", "val", "train")), Field(description="test, val or train")]
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

IF_INSTALLED = "if_installed"
"""Setting of such a ``_target_``: it is left out where the package is missing."""

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


# The files that the settings name are there, before anything that takes seconds is imported, and
# what a setting needs is installed.
