"""``discern card``: a model as a folder that a hub takes: README.md and model.safetensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from discern.commands import words
from discern.console import for_terminal, loading, say
from discern.errors import DiscernError
from discern.files.places import is_there
from discern.files.writing import write_whole
from discern.runs.all_or_none import all_or_none
from discern.runs.claim import claim_folder, new_folder
from discern.runs.folder import OUTPUTS, WORDS, Run, checkpoint_in
from discern.sweeps.select import selected
from discern.text import decoded

if TYPE_CHECKING:
    from torch import nn

HELP = """\
A model's card: README.md in the form that model hubs read, beside the model's weights.

Usage: discern card RUN [out=FOLDER] [license=NAME] [dir=FOLDER]

A RUN is the folder of a run; SWEEP/3, for job 3 of a sweep; SWEEP/best; last, the newest run; or
best, that with the lowest val/loss.

  out=FOLDER    where README.md and model.safetensors are written, a new or an empty folder
                (outputs/DATE/TIME_card)
  license=NAME  the licence under which the model is published, as hubs name it, such as apache-2.0
                or mit (unknown)
  dir=FOLDER    where last and best are looked for (outputs)

The card says what the model is and how it was trained, with the command, and what it reached on the
test images, with intervals, calibration and confusions. What it is meant for and where it fails is
left for a person to fill in. Secrets and paths are left out. The folder can be uploaded as it is:

  hf upload NAME/MODEL FOLDER
"""

README = "README.md"


def license_name(name: str, value: str) -> str:
    """A licence as hubs name it."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,39}", value):
        raise DiscernError(
            f"{name}={for_terminal(value)} must be a licence's name in small letters, such as "
            "apache-2.0, mit or cc-by-4.0."
        )
    return value


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern card``.

    Attributes:
        out: the folder for the files.
        license: the licence of the model.
        dir: the folder of the runs.
    """

    out: Annotated[Path | None, words.path] = None
    license: Annotated[str, license_name] = "unknown"
    dir: words.Folder = OUTPUTS


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern card``."""
    return words.starting(typed.rpartition(" ")[2], words.settings_of(Settings), *WORDS)


def run(arguments: list[str]) -> None:
    """Run ``discern card`` with these arguments.

    Raises:
        DiscernError: a word does not name one run with a checkpoint, or files cannot be written.
    """
    asked, named = words.read(Settings, arguments)
    for word in named:
        if "=" in word and not is_there(word):
            raise words.unknown(word, "discern card", words.settings_of(Settings))
    runs = selected(named, asked.dir)
    if len(runs) != 1:
        said = for_terminal(" ".join(named)) or "no word"
        raise DiscernError(f"discern card is of one run, and {said} means {len(runs)}.")
    checkpoint = checkpoint_in(runs[0].folder)
    if checkpoint is None:
        shown = for_terminal(decoded(runs[0].folder))
        raise DiscernError(f"{shown} has no checkpoint, and so no model to describe.")
    with loading("torch"):
        from discern.models.saved import load
    network = load(checkpoint)
    folder = new_folder(asked.dir, "card") if asked.out is None else claim_folder(asked.out, "out")
    try:
        write_card(runs[0], network, asked.license, folder)
    except OSError as error:
        raise DiscernError(
            f"out={for_terminal(decoded(folder))} cannot be written: {error.strerror}."
        ) from error
    say(f"Card: {for_terminal(decoded(folder / README))}")
    say("What the model is meant for and where it fails is left for you to fill in.")


def write_card(run: Run, network: nn.Module, license_: str, folder: Path) -> None:
    """Write README.md and model.safetensors, both or neither.

    Args:
        run: its folder's contents.
        network: of its checkpoint, as :func:`discern.load` gives it.
        license_: for the header.
        folder: an empty one.

    Raises:
        OSError: a file cannot be written.
    """
    from discern.models.card import CARD, Card
    from discern.models.checkpoint import STATE, write
    from discern.reports.model_card import WEIGHTS, ModelCard
    from discern.reports.run_facts import read_facts

    card: Card = network.card  # type: ignore[assignment]
    parameters = sum(weight.numel() for weight in network.parameters())
    made = ModelCard(read_facts(run.folder), card, license_, parameters)
    with all_or_none(folder) as begun:
        # The weights whole, also those of a backbone that checkpoints leave out.
        write({STATE: network.state_dict(), CARD: card.model_dump()}, begun / WEIGHTS)
        with write_whole(begun / README) as file:
            file.write(made.text())
