"""The base of all schemas, and the messages about values that they refuse."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_KEY_LENGTH = 40
"""Characters of a key that a message shows."""


class Strict(BaseModel):
    """Every field is named, and no value is converted to another type."""

    model_config = ConfigDict(
        extra="forbid", strict=True, protected_namespaces=(), defer_build=True
    )


def check_schema(schema: type[BaseModel], value: object, place: str) -> None:
    """Raise a ValueError that names the first part of a value that its schema does not allow."""
    try:
        schema.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_fault(error, place)) from error


def first_fault(error: ValidationError, place: str = "") -> str:
    """The first fault of a value, as ``place.key: what is wrong``.

    Args:
        error: raised by pydantic.
        place: the name of the value; empty to leave it out.
    """
    wrong = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(filter(None, [place, *(str(part)[:MAX_KEY_LENGTH] for part in wrong["loc"])]))
    message = wrong["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
