"""Secrets are kept out of files, logs, pages and the terminal.

A secret is known by its place: the user and password of an address, the text after its ``?`` or
``#``, and any setting or environment variable with a name such as ``api_key`` or ``DB_PASSWORD``.
Such values are also remembered, and left out wherever else they appear.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

PLACEHOLDER = "left-out-as-secret"
"""Replaces a secret; commands, YAML and addresses can hold it."""

MIN_LENGTH = 6
"""Characters of a secret that is left out of any text; a shorter one may be a part of a word."""

# Bounded, so that the time for a stranger's text grows with its length only.
_BEGIN, _END = r"\w{0,60}", r"\w{1,60}"
_SECRET = (
    rf"(?:(?:{_BEGIN}[_-])?(?:passw(?:or)?d|passphrase|secret|credentials?|(?:api|access|private"
    r"|account|encryption|signing|shared|ssh)[_-]?key|connection[_-]?string)s?"
    rf"(?:[_-]{_END})?|{_BEGIN}(?:password|secret|apikey|token)"
    rf"|(?:{_BEGIN}[_-])?(?:tokens?|pwd|auth|authorization|bearer|cookie|sas|sig|signature|pass))"
)
_COUNTED = r".*tokens?"
"""Names of secrets that may also be names of numbers, such as ``num_tokens``."""

_NO_SECRETS = ("PWD", "OLDPWD")
"""Variables of every shell: its present and its previous folder."""

_SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"


def _user(end: str) -> str:
    """A pattern of user and password; ``end`` are characters that neither has."""
    # A port and a path, in which an @ means nothing, begin with digits and a slash.
    return rf"(?:(?:[^/?#@{end}]*@)+|[^:/?#@{end}]+:(?!\d{{1,5}}/)[^@{end}]*@)"


_AROUND = r"\s'\"<>"
# Of several addresses with commas, as in a sweep, each ends where the next begins.
_ADDRESS = (
    rf"(?<![a-z0-9+.-])({_SCHEME})({_user(_AROUND)})?((?:(?!,{_SCHEME})[^?#{_AROUND}])*)"
    rf"([?#](?:(?!,{_SCHEME})[^{_AROUND}])*)?"
)
_WHOLE = rf"\s*({_SCHEME})({_user('')})?([^?#]*)([?#].*)?"
_LOGIN = r"(?<![\w/:.-])[\w.-]{1,60}:[^\s/:@'\"]+@(?=[\w.-])"
_ASSIGNED = (
    rf"(?<![A-Za-z0-9_-])({_SECRET})(['\"]?\s{{0,9}}[=:]\s{{0,9}})"
    rf"((?:(?:bearer|basic)\s{{1,9}})?(?:'[^']*'|\"[^\"]*\"|[^\s,;&{{}}\[\]()'\"]+))"
)
_OVERRIDE = r"[+~]*([\w./@-]{1,500})=(.*)"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # On first use: every command imports this module, and most handle no secret.
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_known: set[str] = set()

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a setting or variable of this (dotted) name holds what may be secret."""
    return _compiled(_SECRET).fullmatch(re.split(r"[./@]", name)[-1]) is not None


def redacted(value: object) -> Any:
    """Plain values, of settings or of facts, with placeholders for secrets.

    Args:
        value: dicts and lists of texts and numbers; anything else in them stays as it is.
    """
    return _redacted(value, "", _all_known())


def _redacted(value: object, name: str, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        inherited = name if is_secret(name) else ""
        return {k: _redacted(part, inherited or str(k), known) for k, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(part, name, known) for part in value]
    if is_secret(name) and _holds_one(name, value):
        return PLACEHOLDER
    # The name of a class, in _target_, is not a secret.
    if isinstance(value, str) and not name.startswith("_"):
        return _setting(value, known)
    return value


def _holds_one(name: str, value: object) -> bool:
    if isinstance(value, bool) or value in (None, ""):
        return False
    return not (isinstance(value, (int, float)) and _compiled(_COUNTED).fullmatch(name))


def redacted_setting(text: str) -> str:
    """A setting's text, or a typed override, without secrets; either may be an address."""
    return _setting(text, _all_known())


def _setting(text: str, known: Sequence[str]) -> str:
    typed = _compiled(_OVERRIDE).fullmatch(text)
    if typed is None:
        return _value(text, known)
    key, value = typed.groups()
    begin = text[: len(text) - len(value)]
    if is_secret(key) and _is_typed_out(key, value):
        return begin + PLACEHOLDER
    return begin + _value(value, known)


def _value(text: str, known: Sequence[str]) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[0] + _value(text[1:-1], known) + text[-1]
    whole = _compiled(_WHOLE).fullmatch(text) if text.count("://") == 1 else None
    return _text(text if whole is None else _cut(whole), known)


def redacted_text(text: str) -> str:
    """Any text without secrets: a message, a line of a log, a traceback."""
    return _text(text, _all_known())


def _text(text: str, known: Sequence[str]) -> str:
    # First, since only this knows where an address with spaces ends.
    for secret in known:
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", PLACEHOLDER, text)
    if "://" in text:
        text = _compiled(_ADDRESS).sub(_cut, text)
    if "@" in text:
        text = _compiled(_LOGIN).sub(f"{PLACEHOLDER}@", text)
    return _compiled(_ASSIGNED).sub(_assigned, text) if "=" in text or ":" in text else text


def _cut(address: re.Match[str]) -> str:
    scheme, user, path, rest = address.groups()
    user = f"{PLACEHOLDER}@" if user else ""
    rest = f"{rest[0]}{PLACEHOLDER}" if rest and rest[1:] else rest or ""
    return f"{scheme}{user}{path}{rest}"


def _assigned(found: re.Match[str]) -> str:
    name, equals, value = found.groups()
    return f"{name}{equals}{PLACEHOLDER}" if _is_typed_out(name, value) else found.group()


def _is_typed_out(name: str, value: str) -> bool:
    """Whether a text is a secret itself: not empty, not a count, not an interpolation."""
    bare = value.strip("'\"")
    if bare.lower() in ("", "null", "none", "true", "false") or bare.startswith("${"):
        return False
    return not (bare.isdecimal() and _compiled(_COUNTED).fullmatch(name.rpartition(".")[2].lower()))


# What is known to be secret


def remember(value: object, name: str = "") -> None:
    """Remember the secrets in settings, or in typed overrides, to leave them out of all texts."""
    _known.update(_long_enough(_secrets(value, name)))


def _long_enough(found: Iterable[str]) -> set[str]:
    each = {form for text in found for form in (text, unquote(text))}
    return {text for text in each if len(text) >= MIN_LENGTH and text != PLACEHOLDER}


def _secrets(value: object, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        inherited = name if is_secret(name) else ""
        for key, part in value.items():
            yield from _secrets(part, inherited or str(key))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _secrets(part, name)
    elif is_secret(name) and _holds_one(name, value):
        yield str(value)
    elif isinstance(value, str):
        typed = _compiled(_OVERRIDE).fullmatch(value)
        if typed is not None and is_secret(typed[1]) and _is_typed_out(typed[1], typed[2]):
            yield typed[2].strip("'\"")
        yield from _in_addresses(value if typed is None else typed[2].strip("'\""))


def _in_addresses(text: str) -> Iterator[str]:
    if "@" not in text and "://" not in text:
        return
    for login in _compiled(_LOGIN).findall(text):
        yield login[:-1].partition(":")[2]
    whole = _compiled(_WHOLE).fullmatch(text) if text.count("://") == 1 else None
    for found in [whole] if whole is not None else _compiled(_ADDRESS).finditer(text):
        _, user, _, rest = found.groups()
        if user:
            yield user[:-1].partition(":")[2] or user[:-1].rstrip(":")
        if rest:
            yield rest[1:]
            yield from (part.partition("=")[2] for part in re.split("[&;]", rest[1:]))


def _all_known() -> list[str]:
    """All known secrets, the longest first: one may be part of another."""
    return sorted(_known | _of_environment(tuple(os.environ.items())), key=len, reverse=True)


@functools.lru_cache(maxsize=1)
def _of_environment(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    found: set[str] = set()
    for name, value in variables:
        if name not in _NO_SECRETS:
            found |= _long_enough(_secrets(value, name))
    return frozenset(found)


# Settings whose secrets were left out


def missing(value: object, name: str = "") -> list[str]:
    """The names of settings whose secrets were left out when they were written."""
    if isinstance(value, Mapping):
        inside = f"{name}." if name else ""
        return [each for key, part in value.items() for each in missing(part, f"{inside}{key}")]
    if isinstance(value, (list, tuple)):
        return [name] if any(missing(part, name) for part in value) else []
    return [name] if isinstance(value, str) and PLACEHOLDER in value else []


def log_missing(names: Iterable[str], level: int = logging.INFO) -> None:
    """Log the settings that must be typed again if their secrets are needed."""
    for name in names:
        log.log(level, "%s was kept without what may be secret; type it again if needed.", name)
