"""Settings whose text is taken as it was typed, such as paths: what Hydra is told of them.

Hydra gives ``=``, commas, brackets, quotes and spaces a meaning of their own. In a path they have
none, so that what follows the first ``=`` of such a setting is quoted for Hydra where it would
read something else.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
        is_path: ``~`` at the beginning is the home; a URL has none.
        from_start: a relative path begins in the folder in which the command was started.
        is_choice: it may also name a choice of its group, or be a list of such.
        words: values that are no paths.
    """

    is_path: bool = True
    from_start: bool = True
    is_choice: bool = False
    words: tuple[str, ...] = ()


ONE_VALUE = ("hydra.", "sweep.")
"""Settings of a sweep itself, which has one value of each."""


def for_hydra(
    overrides: Iterable[str], settings: Mapping[str, AsTyped], multirun: bool
) -> list[str]:
    """Overrides as Hydra has to be told them.

    A path that exists is that path, whatever is in it. Of others ``null``, a text in quotes and an
    interpolation ``${…}`` mean what they mean to Hydra; with ``multirun`` a comma, and functions
    such as ``choice(…)``, too. What this returns may be given to it again.

    Args:
        overrides: as they were typed.
        settings: those that are taken as typed, by name.
        multirun: whether a setting may have several values.

    Raises:
        DiscernError: a name is no UTF-8, in which configs are written.
    """
    told = []
    for override in overrides:
        key, equals, text = override.partition("=")
        name = key.lstrip("+")
        setting = settings.get(name)
        if equals and setting is not None:
            _check_letters(name, text)
            several = multirun and not name.startswith(ONE_VALUE)
            override = f"{key}={_told(text, setting, several)}"
        told.append(override)
    return told


def command_line(overrides: Iterable[str], settings: Mapping[str, AsTyped]) -> str:
    """The command that trains with overrides, as Hydra was told them, for a shell."""
    return shlex.join(["python", "train.py", *(_by_hand(each, settings) for each in overrides)])


def _by_hand(override: str, settings: Mapping[str, AsTyped]) -> str:
    """An override without the quotes that are there for Hydra, if it means the same without."""
    key, _, value = override.partition("=")
    if key.lstrip("+") not in settings or "${" in value or not _is_quoted(value):
        return override
    read = parsed(override)
    assert read is not None
    typed = f"{key}={read.value()}"
    return typed if for_hydra([typed], settings, multirun=False) == [override] else override


def quoted(text: str) -> str:
    """A text as the value of an override that means this text and nothing else."""
    return _in_quotes(as_value(text))


def without_escapes(value: str) -> str:
    """A value of an override as one would type it: Hydra writes backslashes in it."""
    override = parsed(f"x={value}")
    text = None if override is None or override.is_sweep_override() else override.value()
    if not isinstance(text, str) or "\\" not in value or _is_quoted(value):
        return value
    again = parsed(f"x={text}")
    return text if again is not None and again._value == text else _in_quotes(text)


def as_value(text: str) -> str:
    """A text as OmegaConf is given it to hand out just that: without an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def as_text(value: str) -> str:
    """The text that OmegaConf hands out for a value without an interpolation."""
    return str(OmegaConf.create({"text": value})["text"])


def parsed(override: str) -> Override | None:
    """An override as Hydra reads it; None where it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _check_letters(name: str, text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DiscernError(
            f"{name}={printable(Path(text))} is not UTF-8, in which settings are written; give the "
            "file or folder another name, or a link to it."
        )


def _told(text: str, setting: AsTyped, multirun: bool) -> str:
    if text in ("", "null"):
        return text
    if _exists(text, setting):
        return _plainly(_expanded(text, setting))
    if _is_quoted(text) or (setting.is_choice and text.startswith("[")):
        return text
    if multirun:
        if _FUNCTION.fullmatch(text):
            return text
        values = list(_values(text, setting))
        if len(values) > 1:
            return ",".join(_told(value, setting, multirun=False) for value in values)
    elif setting.is_choice and not is_path(text):
        return text
    text = _expanded(text, setting)
    return _in_quotes(text) if is_interpolated(text) else _plainly(text)


def _exists(text: str, setting: AsTyped) -> bool:
    if setting.is_choice:
        return find_file(text) is not None
    return setting.is_path and setting.from_start and os.path.lexists(expanded(text))


def _expanded(text: str, setting: AsTyped) -> str:
    if setting.is_path and text.startswith("~"):
        text = os.path.expanduser(text)  # noqa: PTH111 - a Path would lose a slash at the end
    # OmegaConf takes this for a value that is to come.
    return "./???" if text == "???" else text


def _plainly(text: str) -> str:
    """The text as it is where Hydra reads just that and writes it so, else in quotes."""
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
    """What commas part; not those in quotes, nor those in the path of what exists."""
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
        # As Hydra has a comma that parts nothing.
        yield value.replace("\\,", ",") if count == 1 else value
        del parts[:count]


_INTERPOLATION = re.compile(r"(?<!\\)(\\\\)*\$\{")


def is_interpolated(text: str) -> bool:
    """Whether there is an interpolation in it that OmegaConf can read."""
    if not _INTERPOLATION.search(text):
        return False
    try:
        grammar_parser.parse(text)
    except GrammarParseError:
        return False
    return True
