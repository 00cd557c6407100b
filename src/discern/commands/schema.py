"""``discern schema``: JSON schemas, with which editors complete and check YAML files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from discern.commands import words
from discern.config.json_schema import files_of, schemas
from discern.console import say
from discern.errors import refusals_of_files
from discern.files.writing import write_whole
from discern.text import printable

HELP = """\
JSON schemas of the YAML files in conf/, with which editors complete and check them. Choices of your
own in ./conf are known: write the schemas anew after adding one.

Usage: discern schema [out=FOLDER]

Settings:
  out=schemas    the folder that they are written to

For VS Code, with the extension YAML by Red Hat, put what is printed into .vscode/settings.json.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern schema``."""

    out: Annotated[Path, words.path] = Path("schemas")


def run(arguments: list[str]) -> int:
    """Run ``discern schema`` with these arguments; the exit status.

    Raises:
        DiscernError: an argument is not known, or the folder cannot be written to.
    """
    folder = words.read_all(Settings, arguments, "discern schema").out
    made = schemas()
    with refusals_of_files():
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in made.items():
            with write_whole(folder / f"{name}.json") as file:
                json.dump(schema, file, indent=1, ensure_ascii=False)
                file.write("\n")
    say(f"{len(made)} schemas in {printable(folder)}. For VS Code, in .vscode/settings.json:\n")
    say("\n".join(_associations(folder, list(made))))
    return 0


def _associations(folder: Path, names: list[str]) -> Iterator[str]:
    """Schema -> files, a line each, as the YAML extension of VS Code reads it."""
    start = folder.as_posix() if folder.is_absolute() else f"./{folder.as_posix()}"
    yield '"yaml.schemas": {'
    for name in names:
        line = f"{json.dumps(f'{start}/{name}.json')}: {json.dumps(files_of(name))}"
        yield f"  {line}{'' if name == names[-1] else ','}"
    yield "}"


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern schema``."""
    return words.starting(typed.rpartition(" ")[2], words.settings_of(Settings))
