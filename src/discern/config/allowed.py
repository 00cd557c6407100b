"""The values that a type allows, in words, and their validation."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from discern.errors import as_override

PHRASES: Mapping[object, str] = {
    str: "a text",
    list: "a list",
    tuple: "a list",
    dict: "a dictionary",
}


def allowed(hint: object) -> str:
    """The values of a type, as the end of a sentence: ``a whole number above 0, or null``.

    The description of a pydantic field says it where there is one, else the type and its bounds.
    """
    *others, last = options(hint)
    if not others:
        return last
    return f"{', '.join(others)}{', or ' if ' ' in others[-1] else ' or '}{last}"


def options(hint: object) -> list[str]:
    """The alternatives of a type: each is a word to type, or a phrase."""
    base, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    fields = [mark for mark in marks if isinstance(mark, FieldInfo)]
    described = [field.description for field in fields if field.description]
    if described:
        return described[-1:]
    origin, parts = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return list(dict.fromkeys(option for part in parts for option in options(part)))
    if origin is Literal:
        return list(dict.fromkeys(map(as_override, parts)))
    words = {bool: ["true", "false"], types.NoneType: ["null"]}.get(base)
    if words is not None:
        return words
    bounds = [*marks, *(bound for field in fields for bound in field.metadata)]
    if base in (int, float):
        return [_number(base is int, bounds)]
    return [_list(parts, bounds) if parts and origin in (list, tuple) else PHRASES[origin or base]]


def _number(is_whole: bool, bounds: Sequence[object]) -> str:
    at_least, above = _bound(bounds, "ge"), _bound(bounds, "gt")
    at_most, below = _bound(bounds, "le"), _bound(bounds, "lt")
    text = "a whole number" if is_whole else "a number"
    if at_least is not None and at_most is not None:
        return f"{text} from {at_least} to {at_most}"
    if is_whole and at_least is not None and at_least > 0:
        above, at_least = at_least - 1, None
    text += "" if above is None else f" above {above}"
    text += "" if at_least is None else f", {at_least} or above"
    text += "" if below is None else f" and below {below}"
    return text + ("" if at_most is None else f", at most {at_most}")


def _bound(bounds: Sequence[object], name: str) -> int | None:
    return next((getattr(bound, name) for bound in bounds if hasattr(bound, name)), None)


def _list(parts: tuple[object, ...], bounds: Sequence[object]) -> str:
    _, is_number, rest = options(parts[0])[0].partition("number")
    if not is_number:
        return "a list"
    whole = "whole " if int in (parts[0], *get_args(parts[0])) else ""
    length = (
        _bound(bounds, "min_length") if len(parts) == 1 else None if ... in parts else len(parts)
    )
    return f"a list of {'' if length is None else f'{length} '}{whole}numbers{rest}"


def type_of(field: FieldInfo) -> object:
    """The type of a schema's field, with its bounds and description."""
    return Annotated[field.annotation, field]


def adapter(hint: Any) -> TypeAdapter[object]:
    """What validates a value of a type without converting texts or numbers."""
    return TypeAdapter(hint, config=ConfigDict(strict=True, defer_build=True))
