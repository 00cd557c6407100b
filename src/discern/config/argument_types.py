"""Whether the arguments for a library's class are of the types that it declares.

torch and Lightning take an argument of any type and fail in the middle of training, or worse, take
``abc`` for true.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from discern.config.allowed import adapter, allowed
from discern.errors import DiscernError, as_override

PLAIN_TYPES = (bool, int, float, str, types.NoneType, list, tuple, dict)
LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def check_types(setting: str, kind: Callable[..., object], arguments: Mapping[str, object]) -> None:
    """Raise for an argument of another type than ``kind`` declares for it.

    An argument without a plain type is not checked, and every default is allowed.

    Raises:
        DiscernError: names the argument, its value and what is allowed.
    """
    declared = _declared(kind)
    for name, value in arguments.items():
        if name not in declared or not _is_plain(value):
            continue
        hint, default, adapter_of_hint = declared[name]
        if _is_of(value, default, adapter_of_hint):
            continue
        # null alone stands beside a type that only a _target_ entry builds.
        may_be = "null or a _target_ entry" if hint is types.NoneType else allowed(hint)
        raise DiscernError(
            f"{setting}.{name}={as_override(value)} is not allowed; it must be {may_be}."
        )


def _is_plain(value: object) -> bool:
    """Whether it is a value of a config, and nothing that is or will be built."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_of(value: object, default: object, declared: TypeAdapter[object]) -> bool:
    # A config has no tuples: a list stands for one.
    for candidate in (value, tuple(value)) if isinstance(value, list) else (value,):
        if type(candidate) is type(default) and candidate == default:
            return True
        try:
            declared.validate_python(candidate)
            return True
        except ValidationError:
            continue
    return False


@functools.lru_cache(maxsize=256)
def _declared(kind: Callable[..., object]) -> dict[str, tuple[object, object, TypeAdapter[object]]]:
    """Argument -> its type, its default and what validates it, for those of a plain type."""
    make = inspect.unwrap(kind.__init__ if inspect.isclass(kind) else kind)
    names = vars(sys.modules.get(getattr(make, "__module__", ""), types))
    declared = {}
    for name, parameter in inspect.signature(make).parameters.items():
        one = types.SimpleNamespace(__annotations__={name: parameter.annotation})
        try:
            # One by one, since some names are there for type checkers only.
            hint = get_type_hints(one, dict(names), vars(collections.abc))[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
        plain = _plain(hint)
        if plain is not None and parameter.annotation is not parameter.empty:
            declared[name] = plain, parameter.default, adapter(plain)
    return declared


def _plain(hint: object) -> Any:
    """The part of a type that a config can express; None if there is none, or the type is Any."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # No config can give the other parts, such as a tensor.
        kept = [plain for part in parts if (plain := _plain(part)) is not None]
        return None if not kept or Any in parts else Union[tuple(kept)]  # noqa: UP007
    if origin is Literal or hint in PLAIN_TYPES:
        return hint
    if origin in LISTS:
        inner = _plain(parts[0])
        return list if inner is None else list[inner]  # type: ignore[valid-type]
    if origin is tuple:
        return hint if all(part is ... or part in PLAIN_TYPES for part in parts) else tuple
    return dict if origin in MAPPINGS else None
