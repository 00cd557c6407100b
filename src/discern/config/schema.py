"""The schemas of the settings, one for each part of a config.

Nothing heavy is imported here, so that a wrong setting is reported in the time that Python and
Hydra take to start. A ``_target_`` without a schema, such as a user's own class, is not checked.

A type says what is allowed, and :func:`discern.config.allowed.allowed` puts it into words. A
description takes the place of those words where the type alone would not say enough.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from discern.config.durations import seconds_of
from discern.config.typed import AsTyped
from discern.errors import as_override
from discern.runs.folder import WORDS
from discern.schema import Strict

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1, description="a fraction above 0, at most 1")]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[BelowOne, Field(description="a probability, 0 or above and below 1")]
# AsTyped marks paths and other texts that may hold characters with a meaning to Hydra.
_Path = Annotated[str, AsTyped(), Field(min_length=1)]
_Checkpoint = Annotated[str, AsTyped(words=WORDS), Field(min_length=1)]
CHECKPOINT = "a checkpoint's path, a run's folder, last for the newest run or best for the best one"
_Model = Annotated[_Checkpoint, Field(description=CHECKPOINT)]
_OneOfSeveral = Annotated[str, AsTyped(words=WORDS, several=True), Field(min_length=1)]
_Models = Annotated[
    _OneOfSeveral | Annotated[list[_OneOfSeveral], Field(min_length=1, max_length=1000)],
    Field(description=f"{CHECKPOINT}, or a list of these such as [RUN,RUN]"),
]
_Best = Annotated[
    str,
    Field(pattern="^top[1-9][0-9]{0,3}$", description="top3 for the three best jobs of a sweep"),
]
_Views = Annotated[int, Field(ge=1, le=1000, description="a number of random views, 1 to 1000")]
_Folder = Annotated[_Path, Field(description="a folder's path")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Engine = Literal["auto", "torch", "onnxruntime", "openvino"]
Monitor = Annotated[str, Field(min_length=1, description="a metric's name, such as val/loss")]
_Metric = Annotated[str, Field(pattern=r"^(val|train)/.+")]
Mode = (
    Literal["min", "max"]
    | Annotated[None, Field(description="null for the metric's own direction")]
)


def _where(is_allowed: Callable[[Any], bool]) -> AfterValidator:
    """The further condition of a type."""

    def check(value: object) -> object:
        if not is_allowed(value):
            raise ValueError("")
        return value

    return AfterValidator(check)


def _is_share(share: str) -> bool:
    part, parts = map(int, share.split("/"))
    return 1 <= part <= parts


_Entry = Annotated[
    dict[str, object],
    _where(lambda entry: "_target_" in entry),
    Field(description="a _target_ entry"),
]
_Built = Annotated[
    _Entry | list[_Entry] | None, Field(description="null, or a list of _target_ entries")
]
Group = Annotated[_Entry, Field(description="a choice of its group")]
_Entries = (
    Annotated[dict[str, object], Field(description="a choice of its group")]
    | Annotated[None, Field(description="null for nothing")]
)


class OpenSettings(Strict):
    """Settings of a library's class; further arguments are passed on unchecked."""

    model_config = ConfigDict(extra="allow")


class AnyModelSettings(OpenSettings):
    """Settings of every model; a user's own class may have others."""

    label_smoothing: Probability = 0.0
    class_weights: Annotated[
        Literal["auto"]
        | Annotated[list[PositiveFloat], Field(min_length=2)]
        | Annotated[dict[str | int, PositiveFloat], Field(min_length=2)]
        | None,
        Field(
            description="auto, a number above 0 for each class, as {NAME:NUMBER,…} (in a file, "
            "yes, no, true and false in quotes) or as a list, or null"
        ),
    ] = None
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    init_from: _Model | None = None


_Widths = Annotated[
    list[Annotated[int, Field(ge=1, le=2**20)]],
    Field(
        max_length=1000,
        description="a list of whole numbers above 0, such as [128,64], at most 1000 and none "
        "above 1048576",
    ),
]


class LayersSettings(AnyModelSettings):
    """Settings of fully connected layers."""

    model_config = ConfigDict(extra="forbid")

    activation: Literal[
        "celu", "elu", "gelu", "hardswish", "leaky_relu", "mish", "relu", "relu6", "selu",
        "sigmoid", "silu", "softplus", "softsign", "tanh",
    ]  # fmt: skip
    dropout: Probability
    norm: Literal["none", "batch"]


class MLPSettings(LayersSettings):  # noqa: D101
    hidden: _Widths


class TransferSettings(LayersSettings):  # noqa: D101
    library: Literal["torchvision", "timm", "efficientnet_lite"]
    backbone: Annotated[str, Field(min_length=1, description="the name of a backbone")]
    weights: Annotated[
        Annotated[str, AsTyped(words=("default", *WORDS)), Field(min_length=1)] | None,
        Field(description=f"default, a file's path, {CHECKPOINT}, or null for random ones"),
    ]
    head: _Widths
    unfreeze: Literal["head", "last_block", "all"]
    train_bn: bool
    lr_factor: Annotated[float, Field(gt=0, le=1)]


class AnyDataSettings(OpenSettings):
    """Settings of every data set; in ``discern evaluate`` the checkpoint may name the class."""

    dir: _Folder | None = None
    strict: bool | None = None


_Size = Annotated[
    NonNegativeInt | BelowOne,
    Field(description="a count, 0 or above, or a fraction below 1"),
]


class DataSettings(AnyDataSettings):
    """Settings of every data set of discern's own."""

    model_config = ConfigDict(extra="forbid")

    dir: _Folder
    val_size: _Size
    batch_size: PositiveInt | Literal["auto"]
    eval_batch_size: PositiveInt
    sampler: Literal["none", "balanced"]
    fraction: Fraction
    folds: Annotated[int, Field(ge=2)] | Annotated[None, Field(description="null for no folds")]
    fold: Annotated[
        int, Field(ge=0, description="a fold's number, from 0 to one less than data.folds")
    ]
    seed: Seed
    strict: bool

    @field_validator("fold")
    @classmethod
    def _is_one_of_the_folds(cls, fold: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if fold >= (folds or 1):
            raise ValueError(f" (data.folds={as_override(folds)})")
        return fold


# Each process takes memory and a second to start.
_Workers = Annotated[int, Field(ge=0, le=1024)]


class InMemorySettings(DataSettings):  # noqa: D101
    num_workers: _Workers
    mean: Annotated[
        Finite | Annotated[list[Finite], Field(min_length=1)],
        Field(description="a number, or a list of one for each channel"),
    ]
    std: Annotated[
        PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)],
        Field(description="a number above 0, or a list of one for each channel"),
    ]
    augment: Literal["none", "flip", "shift", "flip_shift"]


def _size_below(images: int) -> object:
    """A count that leaves at least one of so many images, or a fraction."""
    return Annotated[
        Annotated[int, Field(ge=0, lt=images)] | BelowOne,
        Field(description=f"a count from 0 to {images - 1} or a fraction below 1"),
    ]


class CIFARSettings(InMemorySettings):  # noqa: D101
    val_size: _size_below(50_000)  # type: ignore[valid-type]


class MNISTSettings(InMemorySettings):  # noqa: D101
    val_size: _size_below(60_000)  # type: ignore[valid-type]
    source: Literal["auto", "full", "sample"]


LARGEST_SIDE, MAX_RESIZE = 2048, 4096
"""Largest side, in pixels, of a network's input, and of the shorter side of the picture that it is
cut from. Backbones were trained with 224 to 600; above that one image takes gigabytes."""


class PhotoSettings(DataSettings):
    """Settings of data sets of photographs; null means as the model's weights were trained."""

    num_workers: _Workers | None
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None
    resize: Annotated[int, Field(ge=1, le=MAX_RESIZE)] | None
    interpolation: Literal["bilinear", "bicubic"] | None
    mean: Annotated[list[Finite], Field(min_length=3, max_length=3)] | None
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] | None
    augment: Literal["none", "notes", "light", "strong", "trivial"]
    max_bad: Annotated[float, Field(ge=0, le=1, description="a fraction from 0 to 1")]

    @field_validator("resize")
    @classmethod
    def _holds_the_image(cls, resize: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("image_size")
        if resize is not None and size is not None and resize < size:
            raise ValueError(f" that is at least data.image_size={size}")
        return resize


def _stays_below(folder: str) -> bool:
    path = PurePath(folder)
    return not path.is_absolute() and ".." not in path.parts


def _has_train(parts: dict[str, str]) -> bool:
    return "train" in parts


_Below = Annotated[str, Field(min_length=1), _where(_stays_below)]


_FileName = Annotated[
    str, AsTyped(from_start=False), Field(min_length=1, description="a file's name in data.dir")
]


class FolderSettings(PhotoSettings):  # noqa: D101
    csv: _FileName | None
    test_size: _Size
    parts: Annotated[
        Literal["none"]
        | Annotated[dict[Literal["train", "val", "test"], _Below], _where(_has_train)]
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
    sha256: (
        Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$", description="64 hexadecimal digits")]
        | None
    )


class OptimizerSettings(OpenSettings):  # noqa: D101
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = 0.0
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = Field([0.9, 0.999])
    eps: PositiveFloat = 1e-8
    nesterov: bool = False
    amsgrad: bool = False
    maximize: bool = False
    differentiable: Annotated[
        Literal[False], Field(description="false: training changes the weights in place")
    ] = False


class SchedulerSettings(OpenSettings):  # noqa: D101
    interval: Literal["step", "epoch"]
    monitor: Monitor = "val/loss"
    mode: Mode = None
    total_as: str = ""
    eta_min: NonNegativeFloat = 0.0
    step_size: PositiveInt = 1
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    factor: OpenFraction = 0.1
    patience: NonNegativeInt = 0
    pct_start: OpenFraction = 0.3


class PlateauSettings(SchedulerSettings):  # noqa: D101
    interval: Annotated[
        Literal["epoch"], Field(description="epoch, at whose end the metric is known")
    ]


class EarlyStoppingSettings(OpenSettings):  # noqa: D101
    monitor: Monitor
    mode: Mode = None
    patience: NonNegativeInt
    min_delta: Finite = 0.0
    check_finite: bool = True


class EMASettings(Strict):  # noqa: D101
    decay: OpenFraction | Annotated[None, Field(description="null for no averaging")]
    update_every_n_steps: PositiveInt


class DashboardSettings(Strict):  # noqa: D101
    images_every: PositiveInt
    worst: PositiveInt
    pr_curves: NonNegativeInt
    graph: bool
    projector: Annotated[int, Field(ge=0, le=10_000)]
    sparing: bool


class HistogramsSettings(Strict):  # noqa: D101
    every_n_epochs: PositiveInt | Annotated[None, Field(description="null for no histograms")]


_Epoch = Annotated[int, Field(ge=1, description="an epoch's number, from 1")]


class FinetuneSettings(Strict):  # noqa: D101
    last_block: _Epoch | None
    everything: _Epoch | None


class ModelCheckpointSettings(OpenSettings):  # noqa: D101
    monitor: Monitor | None
    mode: Mode = None


class CheckpointsSettings(Strict):  # noqa: D101
    dirpath: _Folder
    every_n_steps: PositiveInt | Annotated[None, Field(description="null for none")]
    every_minutes: PositiveFloat | Annotated[None, Field(description="null for none")]


_Batches = Annotated[
    NonNegativeInt | Annotated[float, Field(ge=0, le=1)],
    Field(description="a count of batches, 0 or above, or a fraction from 0.0 to 1.0"),
]
_Count = Annotated[int, Field(ge=-1, description="a whole number, 0 or above, or -1 for no limit")]


def _is_time(time: str | dict[str, int]) -> bool:
    if isinstance(time, str):  # DD:HH:MM:SS of digits is never negative
        return True
    try:
        return bool(time) and timedelta(**time) >= timedelta(0)
    except (TypeError, OverflowError):
        return False


_Time = Annotated[
    Annotated[str, Field(pattern=r"^\d{1,8}:\d\d:\d\d:\d\d$")] | dict[str, int],
    _where(_is_time),
    Field(description="a time DD:HH:MM:SS, or its parts such as {minutes:5}"),
]


class TrainerSettings(Strict):
    """Every argument of ``lightning.Trainer``; a test compares the names with its signature."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Annotated[
        int | str | list[int], Field(description="a count, a list of device numbers, or auto")
    ]
    strategy: Annotated[str, Field(description="auto, a strategy's name such as ddp")] | _Entry
    num_nodes: PositiveInt
    precision: (
        Literal[
            "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed",
            "bf16-mixed", "transformer-engine", "transformer-engine-float16", 64, 32, 16,
        ]
        | None
    )  # fmt: skip
    logger: Annotated[
        bool | _Entry | list[_Entry] | None,
        Field(description="false, or null for the group `logger`, or a _target_ entry"),
    ]
    callbacks: _Built
    fast_dev_run: bool | Annotated[int, Field(ge=0, description="a count of batches")]
    max_epochs: _Count | None
    min_epochs: NonNegativeInt | None
    max_steps: _Count
    min_steps: NonNegativeInt | None
    max_time: _Time | None
    limit_train_batches: _Batches | None
    limit_val_batches: _Batches | None
    limit_test_batches: _Batches | None
    limit_predict_batches: _Batches | None
    overfit_batches: _Batches
    val_check_interval: Annotated[
        PositiveInt | Annotated[float, Field(ge=0, le=1)] | _Time | None,
        Field(description="a count of batches, a fraction from 0.0 to 1.0, or a time DD:HH:MM:SS"),
    ]
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: (
        Annotated[int, Field(ge=-1, description="a count of batches, -1 for all")] | None
    )
    log_every_n_steps: NonNegativeInt | None
    enable_checkpointing: bool | None
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    accumulate_grad_batches: PositiveInt
    gradient_clip_val: NonNegativeFloat | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    deterministic: bool | Literal["warn"] | None
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | _Entry | None
    detect_anomaly: bool
    barebones: bool
    plugins: _Built
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: NonNegativeInt
    default_root_dir: _Folder | None
    enable_autolog_hparams: bool
    model_registry: str | None


_Share = Annotated[
    str,
    Field(pattern="^[0-9]{1,9}/[0-9]{1,9}$", description="a part such as 3/16, from 1/16 to 16/16"),
    _where(_is_share),
]


class CacheSettings(Strict):
    """The settings ``cache.…`` of a frozen backbone's features."""

    mode: Literal["auto", "off", "refresh", "require"]
    dir: _Folder | None
    max_gb: PositiveFloat
    views: PositiveInt
    precision: Literal["float32", "float16", "bfloat16"]
    on_full: Literal["uncached", "stop"]
    batch_size: PositiveInt
    shard: _Share | None


class CheckpointSettings(Strict):  # noqa: D101
    full: bool


_Sweep = Annotated[
    str, AsTyped(words=("last",)), Field(min_length=1, description="a sweep's folder, last")
]


class RollbackSettings(Strict):  # noqa: D101
    factor: OpenFraction
    times: PositiveInt


_Duration = Annotated[
    PositiveFloat | _Time,
    _where(lambda time: seconds_of(time) > 0),
    Field(
        description="a number of seconds above 0, a time DD:HH:MM:SS, or its parts such as "
        "{minutes:5}"
    ),
]


class SweepSettings(Strict):
    """The settings ``sweep.…``."""

    resume: _Sweep | None
    job_timeout: _Duration | None


AllowTargets = Annotated[
    list[str], Field(description="a list of modules, classes and functions, such as [mine.Net]")
]


class RunSettings(OpenSettings):
    """The groups of ``discern train``, and its settings outside of groups."""

    model: Group
    data: Group
    optimizer: Group
    scheduler: Group
    trainer: Group
    callbacks: _Entries = None
    logger: _Entries = None
    cache: dict[str, object]
    checkpoint: dict[str, object]
    sweep: dict[str, object]
    objective: Annotated[
        _Metric | Annotated[list[_Metric], Field(min_length=1)],
        Field(description="a metric of val or train, such as val/loss or val/accuracy, or a list"),
    ]
    engine: Engine
    seed: Seed
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    on_nan: Literal["stop", "skip", "rollback", "continue"]
    rollback: dict[str, object]
    train: bool
    test: bool
    print_config: bool = False
    report: bool
    find_lr: Annotated[bool | Literal["use"], Field(description="true, use or false")]
    ckpt_path: _Model | None
    auto_resume: bool = False
    tags: Annotated[list[str | int | float], Field(description="a list of words, such as [a,b]")]
    allow_targets: AllowTargets
    folder: _Folder | None


class InspectionSettings(Strict):
    """The settings of ``discern inspect``; ``data`` is a group."""

    data: Group
    seed: Seed
    allow_targets: AllowTargets
    folder: _Folder | None


class EvaluationSettings(InspectionSettings):
    """The settings of ``discern evaluate``; ``data`` may be the model's own."""

    ckpt_path: _Models
    ensemble: Literal["mean", "soup"] | _Best | Annotated[None, Field(description="null")]
    out: Annotated[_Path, Field(description="a file's path")] | None
    tta: Literal["none", "flip", "five_crop"] | _Views
    temperature: Literal["on", "off"]
    split: Literal["test", "val", "train"]
    data: dict[str, object]
    engine: Engine


class PredictionSettings(Strict):
    """The settings of ``discern predict``."""

    ckpt_path: _Models
    ensemble: Literal["mean"] | _Best | Annotated[None, Field(description="null")]
    tta: Literal["none", "flip", "five_crop"]
    temperature: Literal["on", "off"]
    input: Annotated[
        _Path,
        Field(description="a picture, a folder of pictures, or a pattern such as 'photos/*.png'"),
    ]
    out: _Folder
    engine: Engine
    invert: Literal["auto", True, False]
    pictures: NonNegativeInt
    explain: bool
    allow_targets: AllowTargets

    @field_validator("explain")
    @classmethod
    def _has_pictures(cls, explain: bool, info: ValidationInfo) -> bool:
        if explain and info.data.get("pictures") == 0:
            raise ValueError(", and false with pictures=0, which leaves none to explain")
        return explain


class ExportSettings(Strict):
    """The settings of ``discern export``; ``data`` may be the model's own."""

    ckpt_path: _Models
    ensemble: Literal["mean"] | _Best | Annotated[None, Field(description="null")]
    tta: Literal["none", "flip", "five_crop"]
    temperature: Literal["on", "off"]
    format: Literal["onnx", "torch_export", "torch", "openvino", "safetensors", "web"]
    quantize: Literal["none", "int8", "auto"]
    out: _Folder
    proof: bool
    split: Literal["test", "val", "train"]
    data: dict[str, object]
    images: PositiveInt | None
    seconds: NonNegativeFloat
    seed: Seed
    allow_targets: AllowTargets

    @field_validator("quantize")
    @classmethod
    def _is_of_onnx(cls, quantize: str, info: ValidationInfo) -> str:
        if quantize != "none" and info.data.get("format", "onnx") != "onnx":
            raise ValueError(f", and none with format={info.data['format']}: ONNX alone has 8 bits")
        return quantize


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
    "discern.training.checkpointing.within_epochs": CheckpointsSettings,
}
"""``_target_`` of a choice -> the schema of its settings."""

EXTRAS = {
    "discern.reports.tensorboard.logger.WeightsAndBiases": "wandb",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
}
"""``_target_`` -> the package that it needs, which the extra of that name installs."""

IF_INSTALLED = "if_installed"
"""Setting of such a ``_target_``: it is left out where the package is missing."""

PARTS: dict[str, type[BaseModel]] = {
    "model": AnyModelSettings,
    "data": AnyDataSettings,
    "cache": CacheSettings,
    "checkpoint": CheckpointSettings,
    "rollback": RollbackSettings,
    "sweep": SweepSettings,
}
"""Part of a config -> the schema of its settings, unless its ``_target_`` has one."""

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
    "callbacks.checkpoints.dirpath": AsTyped(),
    "trainer.profiler.dirpath": AsTyped(),
}
"""Settings of Hydra's, and of classes without a schema, whose text is taken as typed."""


NUMBERS = (OptimizerSettings, SchedulerSettings, EarlyStoppingSettings)
"""Schemas whose further arguments are numbers, true or false."""
