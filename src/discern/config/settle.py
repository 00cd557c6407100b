"""Settling a composed config: paths made absolute, interpolations read, left-out settings removed.

Texts from files, environment variables and interpolations are read as if they were typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from discern.config.allowed import adapter
from discern.config.typed import AsTyped, as_value, parsed
from discern.config.values import plain
from discern.files.places import expanded, placed

Validator = Callable[[object], object]
"""Raises ValueError for a value that is not allowed."""

LEFT_OUT = "<left out>"
"""The value that removes its setting, as ``~SETTING`` does on the command line."""


def leave_out(cfg: DictConfig) -> None:
    """Remove the settings with the value ``LEFT_OUT``."""
    if not cfg.keys():  # null, or a reference to another part
        return
    for key, value in list(cfg.items_ex(resolve=False)):
        if isinstance(value, DictConfig):
            leave_out(value)
        elif value == LEFT_OUT:
            with flag_override(cfg, ["struct", "readonly"], [False, False]):
                del cfg[key]


def place_paths(cfg: DictConfig, settings: Mapping[str, AsTyped]) -> None:
    """Resolve ``~`` and relative paths against the home folder and the working directory."""
    for name, setting in settings.items():
        value = _value(cfg, name)
        if setting.several and isinstance(value, list):
            paths: object = [_placed_text(each, setting) for each in value]
        else:
            paths = _placed_text(value, setting)
        if paths != value:
            _set(cfg, name, paths)


def _placed_text(value: object, setting: AsTyped) -> object:
    if not isinstance(value, str) or value in ("", *setting.words):
        return value
    return _placed(value, setting)


def _placed(value: str, setting: AsTyped) -> str:
    if not setting.is_path:
        # How MLflow writes the path of a folder.
        scheme, _, folder = value.partition("file:")
        is_relative = not scheme and folder and not folder.startswith("/")
        return f"file:{placed(folder)}" if is_relative else value
    path = placed(value) if setting.from_start else expanded(value)
    return value if path == Path(value) else str(path)


def read_interpolated(
    cfg: DictConfig, written: Mapping[str, object], validators: Mapping[str, Validator]
) -> None:
    """Read the results of interpolations as if they were typed.

    An environment variable is a text; ``optimizer.lr=${oc.env:LR}`` means the number in it.

    Args:
        cfg: the config.
        written: the same as plain values, interpolations unresolved.
        validators: of each setting.
    """
    found = {
        name: text for name in validators if (text := _interpolated(written, name)) is not None
    }
    # Resolvers first, so that a setting that refers to one has a number, too.
    for name in sorted(found, key=lambda name: ":" not in str(found[name])):
        value = _value(cfg, name)
        meant = _as_typed(value, found[name])
        if repr(meant) == repr(value):
            continue
        try:
            validators[name](meant)
        except ValueError:
            continue
        _set(cfg, name, meant)


def _interpolated(written: object, name: str) -> object:
    """What is written for a setting, or for a part it is in; None without an interpolation."""
    for key in name.split("."):
        if isinstance(written, Mapping):
            written = written.get(key)
    return written if _has_interpolation(written) else None


def _has_interpolation(written: object) -> bool:
    """Whether a value, or an item of a list, is an interpolation."""
    if isinstance(written, list):
        return any(map(_has_interpolation, written))
    return isinstance(written, str) and "${" in written


def _as_typed(value: object, written: object) -> object:
    """A value in which the results of interpolations are read as if they were typed."""
    if isinstance(value, list) and isinstance(written, list):
        return [_as_typed(item, each) for item, each in zip(value, written, strict=True)]
    if not isinstance(value, str) or not _has_interpolation(written):
        return value
    override = parsed(f"x={value}")
    return value if override is None or override.is_sweep_override() else override.value()


def _value(cfg: DictConfig, name: str) -> object:
    """A setting's value, resolved; None where there is none."""
    try:
        return plain(OmegaConf.select(cfg, name, throw_on_missing=False))
    except OmegaConfBaseException:  # the check reports it
        return None


def _set(cfg: DictConfig, name: str, value: object) -> None:
    parent, _, key = name.rpartition(".")
    above: DictConfig = OmegaConf.select(cfg, parent) if parent else cfg
    with flag_override(above, ["struct", "readonly"], [False, False]):
        above[key] = list(map(_literal, value)) if isinstance(value, list) else _literal(value)


def _literal(value: object) -> object:
    return as_value(value) if isinstance(value, str) else value


NUMBERS_OF_SWEEPS = (
    "hydra.launcher.n_jobs",
    "hydra.sweeper.max_batch_size",
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.n_trials",
    "sweep.job_timeout",
)
"""Settings of sweeps that are numbers, or words."""

number_or_word = adapter(int | float | bool).validate_python


def settle_sweep(cfg: DictConfig) -> None:
    """Read the results of interpolations in the settings of a sweep itself."""
    written = plain(cfg, resolve=False)
    read_interpolated(cfg, written, dict.fromkeys(NUMBERS_OF_SWEEPS, number_or_word))
