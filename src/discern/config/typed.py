"""Settings whose text is taken as it was typed, such as paths, are quoted for Hydra.

To Hydra ``=``, commas, brackets, quotes and spaces have a meaning. In a path they have none, so the
text after the first ``=`` is quoted where Hydra would read something else.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError

from discern.config.experiment_file import find_file, is_path
from discern.errors import DiscernError
from discern.files.places import expanded
from discern.text import printable

# Hydra is for commands that compose: others load a checkpoint, or list runs.
if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class AsTyped:
    """Marks a setting whose text is taken as it was typed.

    Attributes:
        is_path: whether ``~`` at its beginning is the home folder; not so in a URL.
        from_start: whether a relative path starts in the working directory.
        is_choice: whether it may also be a choice of its group, or a list of choices.
        words: values that are not paths.
        several: whether it may also be a list of such texts, ``[a,b]``.
    """

    is_path: bool = True
    from_start: bool = True
    is_choice: bool = False
    words: tuple[str, ...] = ()
    several: bool = False


ONE_VALUE = ("hydra.", "sweep.")
"""Prefixes of the settings of a sweep itself, which have one value."""


def for_hydra(
    overrides: Iterable[str], settings: Mapping[str, AsTyped], multirun: bool
) -> list[str]:
    """Overrides in Hydra's syntax; applying this twice changes nothing.

    The path of an existing file is taken literally. Otherwise ``null``, a text in quotes and an
    interpolation ``${…}`` keep their meaning to Hydra; with ``multirun`` a comma and functions such
    as ``choice(…)`` do so too.

    Args:
        overrides: as they were typed.
        settings: those that are taken as typed, by name.
        multirun: whether a setting may have several values.

    Raises:
        DiscernError: a path is not UTF-8, the encoding of configs.
    """
    quoted_for_hydra = []
    for override in overrides:
        key, equals, text = override.partition("=")
        name = key.lstrip("+")
        setting = settings.get(name)
        if equals and setting is not None:
            _check_encoding(name, text)
            several = multirun and not name.startswith(ONE_VALUE)
            override = f"{key}={_for_hydra(text, setting, several)}"
        quoted_for_hydra.append(override)
    return quoted_for_hydra


def command_line(overrides: Iterable[str], settings: Mapping[str, AsTyped]) -> str:
    """The shell command that trains with overrides in Hydra's syntax."""
    return shlex.join(["python", "train.py", *(_as_typed(each, settings) for each in overrides)])


def _as_typed(override: str, settings: Mapping[str, AsTyped]) -> str:
    """An override without Hydra's quotes, if :func:`for_hydra` would add them again."""
    key, _, value = override.partition("=")
    if key.lstrip("+") not in settings or "${" in value or not _is_quoted(value):
        return override
    read = parsed(override)
    assert read is not None
    typed = f"{key}={read.value()}"
    return typed if for_hydra([typed], settings, multirun=False) == [override] else override


def is_typed(setting: str, overrides: Iterable[str]) -> bool:
    """Whether an override sets a setting."""
    return any(override.lstrip("+").startswith(f"{setting}=") for override in overrides)


def quoted(text: str) -> str:
    """A text as the value of an override, which Hydra reads as just this text."""
    return _in_quotes(as_value(text))


def without_escapes(value: str) -> str:
    """A value of an override as one would type it, without the backslashes that Hydra writes."""
    override = parsed(f"x={value}")
    text = None if override is None or override.is_sweep_override() else override.value()
    if not isinstance(text, str) or "\\" not in value or _is_quoted(value):
        return value
    again = parsed(f"x={text}")
    return text if again is not None and again._value == text else _in_quotes(text)


def as_value(text: str) -> str:
    """A text with its ``${`` escaped, which OmegaConf resolves to just this text."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def as_text(value: str) -> str:
    """The text that OmegaConf resolves a value without an interpolation to."""
    return str(OmegaConf.create({"text": value})["text"])


def parsed(override: str) -> Override | None:
    """An override as Hydra reads it; None where it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _check_encoding(name: str, text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DiscernError(
            f"{name}={printable(Path(text))} is not UTF-8, in which settings are written; "
            "rename the file or folder, or use a link to it."
        )


def _for_hydra(text: str, setting: AsTyped, multirun: bool) -> str:
    if text in ("", "null"):
        return text
    if _exists(text, setting):
        return _quoted_if_needed(_expanded(text, setting))
    if _is_quoted(text) or (setting.is_choice and text.startswith("[")):
        return text
    if setting.several and text.startswith("[") and text.endswith("]"):
        one = replace(setting, several=False)
        each = [_for_hydra(value, one, multirun=False) for value in _values(text[1:-1], setting)]
        return f"[{','.join(each)}]"
    if multirun:
        if _FUNCTION.fullmatch(text):
            return text
        values = list(_values(text, setting))
        if len(values) > 1:
            return ",".join(_for_hydra(value, setting, multirun=False) for value in values)
    elif setting.is_choice and not is_path(text):
        return text
    text = _expanded(text, setting)
    return _in_quotes(text) if is_interpolated(text) else _quoted_if_needed(text)


def _exists(text: str, setting: AsTyped) -> bool:
    if setting.is_choice:
        return find_file(text) is not None
    return setting.is_path and setting.from_start and os.path.lexists(expanded(text))


def _expanded(text: str, setting: AsTyped) -> str:
    if setting.is_path and text.startswith("~"):
        text = os.path.expanduser(text)  # noqa: PTH111 - a Path would lose a slash at the end
    # To OmegaConf this marks a missing value.
    return "./???" if text == "???" else text


def _quoted_if_needed(text: str) -> str:
    """The text, in quotes unless Hydra reads and writes it unchanged."""
    override = None if "${" in text else parsed(f"x={text}")
    is_plain = override is not None and not override.is_sweep_override()
    if is_plain and override and override.value() == override.get_value_element_as_str() == text:
        return text
    return quoted(text)


def _in_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def _is_quoted(text: str) -> bool:
    from hydra.core.override_parser.types import QuotedString

    override = parsed(f"x={text}") if text.lstrip()[:1] in ("'", '"') else None
    return override is not None and isinstance(override._value, QuotedString)


_FUNCTION = re.compile(r"\s*(choice|range|interval|glob|sort|shuffle|tag)\s*\(.*\)\s*", re.DOTALL)

_VALUE = re.compile(
    r"""\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=,|\Z)|(?:\$\{[^}]*\}|\\.|[^,])*""",
    re.DOTALL,
)


def _values(text: str, setting: AsTyped) -> Iterator[str]:
    """The values between commas; not commas in quotes or in the path of an existing file."""
    parts, end = [], -1
    while end < len(text):
        found = _VALUE.match(text, end + 1)
        assert found is not None
        parts.append(found.group())
        end = found.end()
    while parts:
        counts = range(len(parts), 1, -1)
        count = next((n for n in counts if _exists(",".join(parts[:n]).strip(), setting)), 1)
        value = ",".join(parts[:count]).strip()
        # Hydra's way to write a comma that does not separate values.
        yield value.replace("\\,", ",") if count == 1 else value
        del parts[:count]


_INTERPOLATION = re.compile(r"(?<!\\)(\\\\)*\$\{")


def is_interpolated(text: str) -> bool:
    """Whether there is an interpolation that OmegaConf can read in a text."""
    if not _INTERPOLATION.search(text):
        return False
    try:
        grammar_parser.parse(text)
    except GrammarParseError:
        return False
    return True
