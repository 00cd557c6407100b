"""The formats of ``discern export``: one module each writes a file and runs it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from discern.errors import DiscernError, did_you_mean
from discern.exports.bundle import Bundle
from discern.exports.running import Run
from discern.models.card import Card

Write = Callable[[Bundle, Card, Mapping[str, str], Path], Path]
"""A bundle, its card, the facts and a folder -> the file that was written."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        write: writes a model into a folder.
        run: runs the file that was written, for the proof.
    """

    write: Write
    run: Callable[[Path, Bundle], Run]


_FUNCTIONS = {
    "onnx": ("onnx_file", "write", "run"),
    "torch_export": ("torch_export_file", "write", "run"),
    "torch": ("weights_file", "write_torch", "run_torch"),
    "openvino": ("openvino_file", "write", "run"),
    "safetensors": ("weights_file", "write_safetensors", "run_safetensors"),
    "web": ("web_page", "write", "run"),
}

FORMATS = tuple(_FUNCTIONS)
"""All formats."""


def format_of(name: str) -> Format:
    """The format of that name; its module is imported now.

    Raises:
        DiscernError: there is none.
    """
    if name not in _FUNCTIONS:
        raise DiscernError(f"format={name} is not a format; {did_you_mean(name, FORMATS)}")
    module, write, run = _FUNCTIONS[name]
    found = import_module(f"discern.exports.{module}")
    return Format(getattr(found, write), getattr(found, run))
