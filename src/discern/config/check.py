"""Checking a composed config.

Each error is one sentence with the setting, its value and what is allowed; all are found at once.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from discern.config.allowed import allowed, options, type_of
from discern.config.models_meant import check_models, is_ensemble
from discern.config.schema import (
    EXTRAS,
    IF_INSTALLED,
    NUMBERS,
    PARTS,
    SCHEMAS,
    WITHOUT_SCHEMA,
    EvaluationSettings,
    ExportSettings,
    InspectionSettings,
    PredictionSettings,
    RunSettings,
    SweepSettings,
    TrainerSettings,
)
from discern.config.settle import (
    Validator,
    leave_out,
    number_or_word,
    place_paths,
    read_interpolated,
)
from discern.config.typed import AsTyped
from discern.config.user_config import conf_dir
from discern.config.values import adapter_of, plain
from discern.data.published import onnxruntime_web
from discern.errors import (
    DiscernError,
    as_override,
    closest,
    did_you_mean,
    first_line,
    not_installed,
    raise_all,
)
from discern.files.places import is_folder, placed
from discern.files.walk import find_files
from discern.redaction import remember
from discern.runs.folder import find_checkpoint
from discern.runs.metric_table import check_mode


def check(cfg: DictConfig, command: str = "train") -> None:
    """Raise for the settings of a composed config that have a value which is not allowed.

    Args:
        cfg: the config.
        command: the one that it was composed for, a key of ``COMMANDS``.

    Raises:
        DiscernError: names each of these settings, its value, and what is allowed.
    """
    raise_all(faults(cfg, command).values())


Faults = dict[str, str]
"""Setting -> the sentence that says what is wrong with it."""


def faults(cfg: DictConfig, command: str) -> Faults:
    """The settings of a composed config that are wrong; paths and interpolations are settled.

    Raises:
        DiscernError: an interpolation cannot be resolved, so that nothing else can be told.
    """
    leave_out(cfg)
    if command == "train":
        _restore_deleted_groups(cfg)
    settings, checks = COMMANDS[command]
    written = _written(cfg)
    try:
        read_interpolated(cfg, written, _validators(written, settings))
        place_paths(cfg, as_typed_settings())
        values = {
            str(key): "???" if OmegaConf.is_missing(cfg, key) else plain(cfg[key])
            for key in cfg
            if key != "hydra"
        }
    except OmegaConfBaseException as error:
        raise DiscernError(f"The config cannot be resolved: {first_line(error)}.") from error
    remember(values)
    found = dict(_large_numbers(values, ""))
    sources = [_part_faults(settings, values, ""), _faults_of_parts(values)]
    if command == "train":
        sources.insert(0, _unknown_names(cfg))
    for setting, sentence in itertools.chain(*sources):
        found.setdefault(setting, sentence)
    for setting in [each for each in found if _referred(written, each) in found]:
        del found[setting]
    wrong = {setting.partition(".")[0] for setting in found}
    for about, look in checks:
        if wrong.isdisjoint(about):
            try:
                look(cfg)
            except DiscernError as error:
                found[about[0]] = str(error)
    return found


def _written(cfg: DictConfig) -> dict[str, object]:
    """The settings as they are written, interpolations unresolved; without Hydra's own part."""
    written = cfg.items_ex(resolve=False)
    return {str(key): plain(part, resolve=False) for key, part in written if key != "hydra"}


def _referred(written: object, setting: str) -> str | None:
    """The other setting whose value a setting takes by an interpolation; None if it does not."""
    for name in setting.split("."):
        written = written.get(name) if isinstance(written, dict) else None
    match = re.fullmatch(r"\$\{([\w.]+)\}", written) if isinstance(written, str) else None
    return None if match is None else match[1]


LARGEST = 2**63 - 1
"""The largest integer of 64 bits: no library takes a larger one."""


def _large_numbers(
    values: Mapping[str, object] | list[object], path: str
) -> Iterator[tuple[str, str]]:
    entries = enumerate(values) if isinstance(values, list) else values.items()
    for key, value in entries:
        here = f"{path}{key}"
        if isinstance(value, (dict, list)):
            yield from _large_numbers(value, f"{here}.")
        elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            yield here, f"{here}={value} is not allowed; {LARGEST} is the largest number."


def _restore_deleted_groups(cfg: DictConfig) -> None:
    """Turn ``~logger``, ``~callbacks`` and ``~scheduler`` into the choice ``none``."""
    with open_dict(cfg), read_write(cfg):
        for group in ("logger", "callbacks", "scheduler"):
            if group not in cfg:
                cfg[group] = {"_target_": None} if group == "scheduler" else {}


def _validators(written: Mapping[str, object], settings: type[BaseModel]) -> dict[str, Validator]:
    """Setting -> what raises ValueError for a value that is not allowed."""
    found: dict[str, Validator] = {
        name: adapter_of(settings, name).validate_python for name in settings.model_fields
    }
    for part, values in _parts(written):
        schema = _schema_of(part, values)
        if schema is None:
            continue
        if issubclass(schema, NUMBERS):
            found |= {f"{part}.{name}": number_or_word for name in values if name != "_target_"}
        for name in schema.model_fields:
            found[f"{part}.{name}"] = adapter_of(schema, name).validate_python
    return found


def _parts(
    values: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, dict[str, object]]]:
    """Name and settings of each part of a config, at any depth."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{prefix}{key}", value
            yield from _parts(value, f"{prefix}{key}.")


def _schema_of(part: str, values: Mapping[str, object]) -> type[BaseModel] | None:
    return SCHEMAS.get(str(values.get("_target_"))) or PARTS.get(part)


def check_names(cfg: DictConfig) -> None:
    """Raise for the names in a config of ``train`` that nothing reads, such as mistyped ones.

    A user's own setting is allowed if others refer to it, or if it is unlike any name.

    Raises:
        DiscernError: lists the names that exist.
    """
    raise_all(sentence for _, sentence in _unknown_names(cfg))


def _unknown_names(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    known = RunSettings.model_fields
    written = _written(cfg)
    for name, value in written.items():
        if name in known:
            continue
        if is_folder(conf_dir() / name):
            yield (
                name,
                f"{name} is a group, not a setting; a file chooses from it by a line "
                f"'- override /{name}: CHOICE' among its defaults.",
            )
            continue
        looks_wrong = isinstance(value, dict) or closest(name, known)
        if looks_wrong and not re.search(rf"\$\{{{re.escape(name)}\b", str(written)):
            yield name, f"{name} is not a setting; {did_you_mean(name, known)}"
    for group in ("callbacks", "logger"):
        parts = cfg.get(group)
        if not OmegaConf.is_dict(parts):  # the schema gives a better message
            continue
        built = [str(name) for name, part in parts.items() if _is_built(part)]
        for name, part in parts.items():
            if part is not None and not _is_built(part):
                others = did_you_mean(str(name), built) if built else "it needs one."
                yield f"{group}.{name}", f"{group}.{name} has no _target_; {others}"


def _is_built(part: object) -> bool:
    return isinstance(part, DictConfig) and part.get("_target_") is not None


def check_sweep(cfg: DictConfig) -> None:
    """Raise for the settings ``sweep.…`` of a sweep itself, which its jobs do not have.

    Raises:
        DiscernError: one has a value that is not allowed.
    """
    raise_all([sentence for _, sentence in _part_faults(SweepSettings, plain(cfg.sweep), "sweep.")])


def _faults_of_parts(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, part in _parts(values):
        schema, extra = _schema_of(name, part), EXTRAS.get(str(part.get("_target_")))
        try:
            if extra is not None and not part.get(IF_INSTALLED):
                _check_installed(name, extra, extra)
        except DiscernError as error:
            yield name, str(error)
        if schema is None:
            continue
        settings = {key: value for key, value in part.items() if key != "_target_"}
        yield from _part_faults(schema, settings, f"{name}.")
        monitor, mode = part.get("monitor"), part.get("mode")
        if "mode" in schema.model_fields and isinstance(monitor, str):
            try:
                check_mode(f"{name}.mode", mode if isinstance(mode, str) else None, monitor)
            except DiscernError as error:
                yield f"{name}.mode", str(error)


def _check_installed(setting: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise not_installed(setting, package, extra)


def check_given(target: str, settings: Mapping[str, object], prefix: str) -> None:
    """Check those settings of a class that are given; the others are left to the class.

    Args:
        target: a key of ``SCHEMAS``.
        settings: of the class.
        prefix: what they are called by in the message.

    Raises:
        ValueError: one is none of its settings, or has a value that is not allowed.
    """
    for _, fault in _part_faults(SCHEMAS[target], settings, f"{prefix}.", ignored="missing"):
        raise ValueError(fault.removesuffix("."))


def _part_faults(
    schema: type[BaseModel], values: Mapping[str, object], prefix: str, ignored: str = ""
) -> Iterator[tuple[str, str]]:
    """The wrong ones among the settings of a part, and a sentence on each."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            if fault["type"] != ignored:
                setting = f"{prefix}{fault['loc'][0]}"
                yield setting, _sentence(fault, schema, values, prefix)


def _sentence(
    fault: ErrorDetails, schema: type[BaseModel], values: Mapping[str, object], prefix: str
) -> str:
    name = str(fault["loc"][0])
    setting = f"{prefix}{name}"
    if name not in schema.model_fields:
        return f"{setting} is not a setting; {did_you_mean(name, schema.model_fields)}"
    hint = type_of(schema.model_fields[name])
    if fault["type"] == "missing":
        return f"{setting} is missing; it must be {allowed(hint)}."
    value = values[name]
    words = [option for option in options(hint) if " " not in option]
    close = closest(value, words) if isinstance(value, str) else None
    more = f" (did you mean {close}?)" if close else ""
    if fault["type"] == "value_error":
        more = fault["msg"].removeprefix("Value error, ")
    return f"{setting}={as_override(value)} is not allowed; it must be {allowed(hint)}{more}."


# These checks come before the imports that take seconds.


def _check_resumption(cfg: DictConfig) -> None:
    if cfg.sweep.resume is not None:
        raise DiscernError(f"sweep.resume={cfg.sweep.resume} is for a sweep: add -m.")


def _check_beginning(cfg: DictConfig) -> None:
    if cfg.ckpt_path is not None:
        find_checkpoint(cfg.ckpt_path, goes_on=cfg.train)
    elif not cfg.train:
        raise DiscernError(
            "train=false leaves nothing to do without a model: give ckpt_path=FILE as well."
        )


def _check_searches(cfg: DictConfig) -> None:
    """Refuse a search for a learning rate or a batch size that another setting rules out."""
    searches = []
    if cfg.find_lr:
        searches.append(f"find_lr={as_override(cfg.find_lr)}")
    if cfg.data.get("batch_size") == "auto":
        searches.append("data.batch_size=auto")
    fast = cfg.trainer.get("fast_dev_run")
    reasons = {
        "train=false": not cfg.train and "with it nothing is trained",
        "ckpt_path": cfg.ckpt_path and "a continued run keeps its own",
        f"trainer.fast_dev_run={as_override(fast)}": fast and "it trains on too few batches",
        "cache.shard": cfg.cache.get("shard") and "with it nothing is trained",
    }
    for search in searches:
        for other, why in reasons.items():
            if why:
                raise DiscernError(f"{search} is not possible together with {other}: {why}.")
    lr = cfg.optimizer.get("lr")
    if cfg.find_lr and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or lr <= 0):
        optimizer = str(cfg.optimizer.get("_target_")).rpartition(".")[2]
        raise DiscernError(f"{searches[0]} needs optimizer.lr, and {optimizer} is given none here.")


def _check_models(cfg: DictConfig) -> None:
    check_models(plain(cfg.ckpt_path), cfg.ensemble)


def _check_out(cfg: DictConfig) -> None:
    if cfg.out is None:
        return
    if cfg.ensemble != "soup":
        raise DiscernError(f"out={cfg.out} is the checkpoint of a soup: it needs ensemble=soup.")
    if os.path.lexists(placed(cfg.out)):
        raise DiscernError(f"out={cfg.out} exists; it must be a new file's path.")


def _check_input(cfg: DictConfig) -> None:
    next(find_files(cfg.input))


def _check_explanation(cfg: DictConfig) -> None:
    if cfg.explain:
        several = cfg.tta != "none" or is_ensemble(plain(cfg.ckpt_path))
        if several:
            other = f"tta={cfg.tta}" if cfg.tta != "none" else "several models"
            raise DiscernError(
                f"explain=true is not possible together with {other}: it explains one answer of "
                "one model."
            )
        _check_installed("explain=true", "captum", "explain")


WEIGHTS_ALONE = ("torch", "safetensors")
"""Formats of ``discern export`` that hold a network's weights, and not what is done with them."""


def _check_format(cfg: DictConfig) -> None:
    if cfg.format in WEIGHTS_ALONE and (cfg.tta != "none" or is_ensemble(plain(cfg.ckpt_path))):
        other = f"tta={cfg.tta}" if cfg.tta != "none" else "several models"
        raise DiscernError(
            f"format={cfg.format} is not possible together with {other}: it holds the weights of "
            "one network alone; format=onnx is."
        )
    if cfg.format == "openvino":
        _check_installed("format=openvino", "openvino", "openvino")
    if cfg.format == "web":
        onnxruntime_web.check_available()


Check = tuple[tuple[str, ...], Callable[[DictConfig], None]]
"""The parts of a config that must be right, and what raises for what is wrong between them."""

SEARCHED = ("find_lr", "data", "train", "ckpt_path", "trainer", "cache", "optimizer")

COMMANDS: dict[str, tuple[type[BaseModel], tuple[Check, ...]]] = {
    "train": (
        RunSettings,
        (
            (("sweep",), _check_resumption),
            (("ckpt_path", "train"), _check_beginning),
            (SEARCHED, _check_searches),
        ),
    ),
    "evaluate": (
        EvaluationSettings,
        ((("ckpt_path", "ensemble"), _check_models), (("out", "ensemble"), _check_out)),
    ),
    "export": (
        ExportSettings,
        (
            (("ckpt_path", "ensemble"), _check_models),
            (("format", "tta", "ckpt_path"), _check_format),
        ),
    ),
    "inspect": (InspectionSettings, ()),
    "predict": (
        PredictionSettings,
        (
            (("ckpt_path", "ensemble"), _check_models),
            (("input",), _check_input),
            (("explain", "tta", "ckpt_path"), _check_explanation),
        ),
    ),
}
"""Command -> what its settings outside of groups may be, and the checks of what they mean
together and of the files that they name."""


@functools.cache
def as_typed_settings() -> dict[str, AsTyped]:
    """Name -> mark of all settings whose text is taken as it was typed, of all commands."""
    schemas = [("", settings) for settings, _ in COMMANDS.values()]
    bases: dict[str, type[BaseModel]] = {**PARTS, "trainer": TrainerSettings}
    schemas += [
        (f"{part}.", schema)
        for part, base in bases.items()
        for schema in (base, *SCHEMAS.values())
        if issubclass(schema, base)
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
    inside = [mark for part in get_args(field.annotation) for mark in get_args(part)[1:]]
    return next((mark for mark in (*field.metadata, *inside) if isinstance(mark, AsTyped)), None)
