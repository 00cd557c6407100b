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
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from discern.errors import DiscernError, as_override

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",  # beside other types
    list: "a list",
    tuple: "a list",
    dict: "a dictionary",
}
"""What people type for a value of a type."""


def check_types(setting: str, kind: Any, arguments: Mapping[str, Any]) -> None:
    """Raise for an argument of another type than ``kind`` declares for it.

    What it declares no plain type for is free, and so are its defaults.

    Raises:
        DiscernError: names the argument, its value and what is allowed.
    """
    declared = _declared(kind)
    for name, value in arguments.items():
        if name not in declared or not _is_plain(value) or _is_of(value, *declared[name]):
            continue
        raise DiscernError(
            f"{setting}.{name}={as_override(value)} is not allowed; "
            f"it must be {_in_words(declared[name][0])}."
        )


def _is_plain(value: Any) -> bool:
    """Whether it is a value of a config, and nothing that is or will be built."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_of(value: Any, hint: Any, default: Any) -> bool:
    # A config has lists only, and hands them to whoever wants a tuple.
    for candidate in (value, tuple(value)) if isinstance(value, list) else (value,):
        try:
            _adapter(hint).validate_python(candidate)
            return True
        except ValidationError:
            if type(candidate) is type(default) and candidate == default:
                return True
    return False


@functools.lru_cache(maxsize=1024)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True))


@functools.lru_cache(maxsize=256)
def _declared(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Argument -> its type and its default, for those that are of a plain type."""
    make = kind.__init__ if inspect.isclass(kind) else kind
    make = inspect.unwrap(make)
    module = sys.modules.get(getattr(make, "__module__", ""))
    names = vars(module) if module else {}
    declared = {}
    for name, parameter in inspect.signature(make).parameters.items():
        one = types.SimpleNamespace(__annotations__={name: parameter.annotation})
        try:
            # One by one: some are for type checkers alone, who know more names.
            hint = get_type_hints(one, dict(names), vars(collections.abc))[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
        plain = _plain(hint)
        if plain is not None and parameter.annotation is not parameter.empty:
            declared[name] = plain, parameter.default
    return declared


def _plain(hint: Any) -> Any:
    """The part of a type that a config can express; None where there is none, or no other part."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # What is neither a plain value nor null, such as a tensor, no config can give.
        kept = [plain for part in parts if (plain := _plain(part)) is not None]
        return None if not kept or Any in parts else Union[tuple(kept)]  # noqa: UP007
    if origin is Literal or hint in WORDS:
        return hint
    if origin in (collections.abc.Iterable, collections.abc.Sequence, list):
        inner = _plain(parts[0])
        return list if inner is None else list[inner]  # type: ignore[valid-type]
    if origin is tuple:
        return hint if all(part is ... or part in WORDS for part in parts) else tuple
    mappings = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
    return dict if origin in mappings else None


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = ["null" if part is type(None) else _in_words(part) for part in parts]
        return " or ".join(dict.fromkeys(named))
    if origin is Literal:
        return " or ".join(as_override(part) for part in parts)
    if parts and parts[0] in (int, float):
        count = f"{len(parts)} " if origin is tuple and ... not in parts else ""
        return f"a list of {count}{'whole ' if parts[0] is int else ''}numbers"
    if hint is type(None):  # beside something that is built
        return "null or a _target_ entry"
    return WORDS[origin or hint]
