"""From the ``_target_`` of a config to an object."""

import functools
import inspect
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import MissingMandatoryValue, OmegaConf
from torch.optim.lr_scheduler import ReduceLROnPlateau

from discern.config.argument_types import check_types
from discern.config.user_config import make_importable
from discern.config.values import plain, with_floats
from discern.errors import DiscernError, first_line
from discern.runs.metric_table import metric_of


def build(setting: str, node: object, **arguments: object) -> Any:
    """Instantiate the ``_target_`` of a config.

    Raises:
        DiscernError: the class does not exist, a package is missing, an argument is wrong.
    """
    from hydra.errors import InstantiationException  # start-up time, here and below

    settings = plain(node)
    target = settings.get("_target_") if isinstance(settings, dict) else None
    if isinstance(target, str):
        make_importable(target)
        named = {name: value for name, value in settings.items() if name != "_target_"}
        settings = {"_target_": target, **with_floats(target, named)}
    try:
        if isinstance(target, str) and target.startswith(LIBRARIES):
            check_types(setting, _class_of(target).func, named)
        built = _instantiate(settings, arguments)
        if isinstance(built, functools.partial):
            # Or else a wrong argument would show only when training has begun.
            inspect.signature(built.func).bind_partial(**built.keywords)
        return built
    except (InstantiationException, MissingMandatoryValue, ModuleNotFoundError, TypeError) as error:
        # Under a debugger OmegaConf's own error has a cause too, which says less.
        wraps = not isinstance(error, MissingMandatoryValue)
        cause = (error.__cause__ if wraps else None) or error
        if isinstance(cause, DiscernError):
            raise cause from error
        # Hydra breaks the lines of what it says itself.
        hydras = isinstance(cause, InstantiationException)
        why = " ".join(str(cause).split()).rstrip(".") if hydras else first_line(cause)
        raise DiscernError(f"{setting}: {why}.") from error


def _instantiate(settings: Any, arguments: dict[str, object]) -> Any:
    """Call the target with the settings and further arguments, as Hydra does.

    Where these are mere values, Hydra only finds the target: it would make each value a node of a
    config, copy that and turn it back. A Trainer with its callbacks then takes 29 ms and not 43,
    and each job of a sweep builds one.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    given = {**settings, **arguments} if isinstance(settings, dict) else {}
    target = given.pop("_target_", None)
    # Names that begin with _ tell Hydra something, such as ``_partial_``.
    for_hydra = any(str(name).startswith("_") for name in given)
    if not isinstance(target, str) or for_hydra or _has_nodes(given):
        return instantiate(settings, _convert_="all", **arguments)
    try:
        return _class_of(target)(**given)
    except InstantiationException:
        raise
    except Exception as error:
        raise InstantiationException(first_line(error)) from error


LIBRARIES = ("discern.", "lightning.", "torch.")
"""Packages whose classes stay what they are in a process, unlike those of somebody's notebook."""


def _class_of(target: str) -> functools.partial[Any]:
    """The class or function of a ``_target_``, if Hydra allows it."""
    return (_imported_once if target.startswith(LIBRARIES) else _imported)(target)


def _imported(target: str) -> functools.partial[Any]:
    from hydra.utils import instantiate

    made: functools.partial[Any] = instantiate({"_target_": target, "_partial_": True})
    return made


_imported_once = functools.lru_cache(maxsize=256)(_imported)


def _has_nodes(value: object) -> bool:
    """Whether Hydra would build or refuse any part: a nested target, or ``???``."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_nodes, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_nodes, value))
    return OmegaConf.is_config(value) or (isinstance(value, str) and value == "???")


def build_all(setting: str, nodes: Any) -> list[Any]:
    """Instantiate each entry of a group except null ones."""
    nodes = plain(nodes)
    if not nodes:
        return []
    if isinstance(nodes, dict) and "_target_" in nodes:
        nodes = [nodes]
    items = nodes.items() if isinstance(nodes, dict) else enumerate(nodes)
    built = [
        build(f"{setting}.{name}", with_mode(node)) for name, node in items if node is not None
    ]
    # A factory may find in its settings that there is nothing to build.
    return [thing for thing in built if thing is not None]


def with_mode(settings: Any) -> Any:
    """Settings with ``mode`` filled in for a class that watches a metric."""
    if not isinstance(settings, dict) or settings.get("mode") is not None:
        return settings
    target, monitor = settings.get("_target_"), settings.get("monitor")
    if not isinstance(target, str) or not _watches(target):
        return settings
    others = {name: value for name, value in settings.items() if name != "mode"}
    return {**others, "mode": metric_of(monitor).mode} if isinstance(monitor, str) else others


def _watches(target: str) -> bool:
    """Whether a ``_target_`` is a class that watches a metric by ``monitor`` and ``mode``."""
    try:
        make_importable(target)
        kind = _class_of(target).func
    except Exception:  # building it gives the better message
        return False
    watching = EarlyStopping | ModelCheckpoint | ReduceLROnPlateau
    return inspect.isclass(kind) and issubclass(kind, watching)
