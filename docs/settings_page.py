"""Write docs/settings.md, the reference of all settings, from conf/: ``make settings``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from discern.config.allowed import allowed, type_of
from discern.config.check import COMMANDS
from discern.config.schema import PARTS, SCHEMAS
from discern.config.user_config import GLOBAL, conf_dir

PAGE = Path(__file__).with_name("settings.md")

GROUPS = (
    "model", "data", "optimizer", "scheduler", "trainer", "accelerator", "callbacks", "logger",
    "debug", "experiment", "hparams_search",
)  # fmt: skip

TRAINER = "lightning.pytorch.Trainer"

HEAD = """\
# Settings

Every setting with its default, what it means and what is allowed. `GROUP=CHOICE` chooses
and `GROUP.SETTING=VALUE` sets.

```
python train.py model=dropout optimizer.lr=3e-3   # a choice and a setting
python train.py --cfg job                         # all of them as composed
discern schema                                    # for editors, which complete and check conf/
```

This page is written by `make settings` from the files in `conf/`, so that it is as they are.
"""


@dataclass
class Setting:
    """A setting in a file.

    Attributes:
        names: of this one and of those below it that the same comment is about, to their values.
        comment: what the lines above say.
    """

    names: dict[str, str] = field(default_factory=dict)
    comment: str = ""


def settings_in(text: str) -> Iterator[Setting]:
    """The settings in the text of a file, in its order, those of a part as ``part.setting``."""
    comments: list[str] = []
    part, last = "", None
    for line in text.splitlines():
        if match := re.fullmatch(r" *# ?(.*)", line):
            comments.append(match[1])
            continue
        match = re.fullmatch(r"( *)(\w+):(?: (.*))?", line)
        if match is None or match[2] in ("defaults", "_target_"):
            comments, last = [], None
            continue
        indent, name, value = match[1], match[2], (match[3] or "").strip()
        part = part if indent else ""
        if not value:
            part, comments, last = f"{name}.", [], None
            continue
        if last is None or comments:
            last = Setting(comment=" ".join(comments))
            yield last
        last.names[f"{part if indent else ''}{name}"] = value
        comments = []


def table(settings: list[Setting], prefix: str, schemas: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table.

    Args:
        settings: what it is about.
        prefix: what stands before their names in an override.
        schemas: part -> what the settings in it may be.
    """
    if not settings:
        return
    yield "| Setting | Default | Meaning | Allowed |"
    yield "| --- | --- | --- | --- |"
    for setting in settings:
        for number, (name, value) in enumerate(setting.names.items()):
            part, _, key = name.rpartition(".")
            fields = getattr(schemas.get(part), "model_fields", {})
            may_be = allowed(type_of(fields[key])) if key in fields else ""
            comment = "as above" if number and setting.comment else setting.comment
            cells = (f"`{prefix}{name}`", f"`{value}`", comment, may_be)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def target(group: str, node: dict[str, Any]) -> str | None:
    """The class of a choice, its own or that of the choice it builds on."""
    if "_target_" in node:
        return str(node["_target_"])
    bases = [name for name in node.get("defaults", []) if isinstance(name, str)]
    texts = [conf_dir() / group / f"{name}.yaml" for name in bases]
    found = [target(group, read(path)) for path in texts if path.is_file()]
    return found[0] if found else None


def read(path: Path) -> dict[str, Any]:
    """A file's settings."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def choice(group: str, path: Path) -> Iterator[str]:
    """The lines about a choice."""
    text, node = path.read_text(encoding="utf-8"), read(path)
    lines = text.splitlines()
    of_trainer = "# @package trainer" in lines
    lines = [line for line in lines if not line.startswith("# @package")]
    about = list(takewhile(lambda line: line.startswith("#"), lines))
    rest = lines[len(about) :]
    yield from (f"### `{group}={path.stem}`", "")
    if group in GLOBAL:
        yield from ("```yaml", *(line for line in lines if line.strip()), "```", "")
        return
    yield from (" ".join(line.removeprefix("#").strip() for line in about), "")
    bases = [name for name in node.get("defaults", []) if isinstance(name, str)]
    if bases:
        yield from (f"As {', '.join(f'`{group}={name}`' for name in bases)}, and:", "")
    schema = SCHEMAS.get(TRAINER if of_trainer else target(group, node) or "")
    prefix = "trainer." if of_trainer else f"{group}."
    yield from table(list(settings_in("\n".join(rest))), prefix, {"": schema})


def command(name: str) -> Iterator[str]:
    """The lines about a command's settings that belong to no choice."""
    text = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0]
    schemas = {"": COMMANDS[name][0], **PARTS}
    yield from (f"## `discern {name}`", "")
    yield from table(list(settings_in(text.partition("defaults:")[2])), "", schemas)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    lines += command("train")
    for group in GROUPS:
        lines += [f"## `{group}`", ""]
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            lines += choice(group, path)
    for name in ("evaluate", "predict", "export", "inspect"):
        lines += command(name)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
