"""What the pages say is so: links lead somewhere, commands compose, settings are those of conf/."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import hydra
import nbformat
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import open_dict
from pages import DOCS, NAMES, PAGES, blocks, program, prose

from discern.commands.cli import COMMANDS
from discern.config.check import as_typed_settings, check
from discern.config.typed import for_hydra
from discern.config.user_config import conf_dir
from run_files import command as run_command

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

KNOWN_SITES = {"hydra.cc", "keepachangelog.com", "semver.org"}
"""Those that are linked to; another is a matter of deciding so."""


# Links


def anchors(text: str) -> set[str]:
    """As GitHub and MyST make them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {slug.replace(" ", "-") for slug in slugs}


def broken(path: Path, text: str) -> list[str]:
    wrong = []
    for link in LINK.findall(text):
        address = urlsplit(link)
        if address.scheme:
            if address.scheme != "https" or address.hostname not in KNOWN_SITES:
                wrong.append(link)
            continue
        target = path.parent / address.path if address.path else path
        known = target.exists()
        if known and address.fragment:
            known = address.fragment in anchors(target.read_text(encoding="utf-8"))
        if not known:
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(path):
    assert broken(path, prose(path.read_text(encoding="utf-8"))) == []


def test_the_links_of_the_tour_lead_somewhere():
    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert broken(DOCS / "tour.ipynb", "\n".join(texts)) == []
    assert any(LINK.findall(text) for text in texts)


def test_a_broken_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n")
    good = "[a](page.md) [b](#a-title-here) [c](page.md#a-title-here) ![d](https://semver.org/x)"
    assert broken(page, good) == []
    bad = ["no.md", "#no", "page.md#no", "no.png", "http://semver.org", "https://example.com/"]
    assert broken(page, " ".join(f"[x]({link})" for link in bad)) == bad


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^([\w.-]+)$", "\n".join(c for _, c in blocks(index)), re.MULTILINE))
    there = {path.stem for path in DOCS.glob("*.md")} | {"tour.ipynb"}
    assert listed == there - {"index"}


# Commands


def commands(text: str) -> list[str]:
    """The commands of discern in a page's blocks, and those within lines that hold no gap."""
    lines = [line.strip() for _, block in blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`((?:python train\.py|discern) [^`]*)`", prose(text))
    found = [re.sub(r"^\$ ", "", line) for line in lines]
    found = [line for line in found if re.match(r"(python train\.py|discern) ", line)]
    gap = re.compile(r"…|\b(GROUP|SETTING|CHOICE|COMMAND|FOLDER|FILE|NAME|RUN|N)\b|\|")
    return [line for line in found if not gap.search(line.partition("  #")[0])]


COMMANDS_OF_PAGES = [
    (name, line) for path, name in zip(PAGES, NAMES, strict=True)
    for line in commands(path.read_text(encoding="utf-8"))
]  # fmt: skip

OWN = {"linear", "convnet", "stripes", "gradients"}
"""Choices that the pages add; their own test trains with them."""

WRONG_ON_PURPOSE = {"python train.py trainer.max_epoch=3"}


def one_value(override: Override) -> str:
    """Of an override that a sweep is made of, one without a sweep."""
    value = override.value()
    if not override.is_sweep_override():
        return str(override.input_line)
    if isinstance(value, (IntervalSweep, RangeSweep)):
        return f"{override.get_key_element()}={value.start}"
    first = next(override.sweep_string_iterator())
    return f"{override.get_key_element()}={first}"


def composed(command: str, overrides: list[str]) -> None:
    told = for_hydra(overrides, as_typed_settings(), multirun=False)
    parsed = OverridesParser.create().parse_overrides(told)
    chosen = [one_value(override) for override in parsed]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose(command, chosen, return_hydra_config=True)
    with open_dict(cfg):
        if "sweep" in cfg:
            cfg.sweep.resume = None
    check(cfg, command)


@pytest.fixture
def whatever_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that commands name are taken to be there."""
    monkeypatch.setattr("discern.config.check.find_checkpoint", lambda wanted, **_: Path(wanted))
    monkeypatch.setattr("discern.config.models_meant.find_checkpoint", lambda one: Path(one))
    monkeypatch.setattr("discern.config.models_meant.is_sweep", lambda one: "sweep" in one.name)
    monkeypatch.setattr("discern.config.check.find_files", lambda wanted: iter([Path(wanted)]))


def words_of(line: str) -> tuple[str, list[str]]:
    words = shlex.split(line, comments=True)
    command, rest = ("train", words[2:]) if words[0] == "python" else (words[1], words[2:])
    if "-p" in rest:
        del rest[rest.index("-p") + 1]
    if "--cfg" in rest:
        del rest[rest.index("--cfg") + 1]
    return command, [word for word in rest if not word.startswith("-")]


@pytest.mark.parametrize(("page", "line"), COMMANDS_OF_PAGES)
def test_every_command_is_one(page, line, whatever_files):
    command, overrides = words_of(line)
    if line in WRONG_ON_PURPOSE or command in ("-sc", "--help"):
        return
    assert command in COMMANDS
    if overrides and (conf_dir() / f"{command}.yaml").is_file():
        if {override.partition("=")[2] for override in overrides} & OWN:
            return
        # What is said of a setting in passing leaves out what the command cannot do without.
        needed = {
            "predict": ["ckpt_path=best", "input=photos"],
            "evaluate": ["ckpt_path=best"],
            "export": ["ckpt_path=best"],
        }
        composed(command, [*needed.get(command, []), *overrides])


def test_the_pages_have_commands_and_a_wrong_one_would_be_found(whatever_files):
    assert len(COMMANDS_OF_PAGES) > 30
    assert any("-m" in line.split() for _, line in COMMANDS_OF_PAGES)
    for line in (
        "python train.py modl=mlp",
        "discern predict inptu=x",
        "python train.py -m lr=1,2",
    ):
        with pytest.raises(Exception, match=r"."):
            composed(*words_of(line))


QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def unquoted(line: str) -> set[str]:
    """The characters of a command that a shell would replace by names of files, or refuse."""
    shown = re.sub(r"\s#.*", "", QUOTED.sub("", line))
    return set("[]{}()*?~") & set(shown)


def installs(text: str) -> list[str]:
    """The commands of other programs, in blocks and within lines."""
    lines = [line.strip() for _, block in blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`([^`]+)`", prose(text))
    return [line for line in lines if re.match(r"(make|docker|(\S*/)?pip install) \S", line)]


SHELL_COMMANDS = [
    *COMMANDS_OF_PAGES,
    *((name, line) for path, name in zip(PAGES, NAMES, strict=True)
      for line in installs(path.read_text(encoding="utf-8"))),
]  # fmt: skip


def test_no_command_holds_what_zsh_takes_for_a_pattern():
    found = [(page, line) for page, line in SHELL_COMMANDS if unquoted(line)]
    assert found == []


def test_a_bracket_without_quotes_would_be_found():
    assert unquoted("python train.py model.hidden=[256]") == {"[", "]"}
    assert unquoted("discern predict input=photos/*.jpg") == {"*"}
    assert not unquoted("python train.py 'model.hidden=[256]' seed=1  # [any] seed?")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_takes_commands_as_they_are_meant(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    lines = [line for _, line in SHELL_COMMANDS]
    options = {"bash": [], "zsh": ["-f", "-o", "interactive_comments"]}[shell]
    (tmp_path / "script").write_text("".join(f"printf '%s\\0' {line}\necho\n" for line in lines))
    done = run_command([shell, *options, "script"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = [words.split("\0")[:-1] for words in done.stdout.split("\n")[:-1]]
    assert found == [shlex.split(line, comments=True) for line in lines]


FIRST_SCREEN = 26
"""Lines of a page that are seen without scrolling."""

PICTURES = {
    "evaluate": "confusion_matrix.png", "figures": "fashion_dropout.png", "index": "report.png",
    "look": "report.png", "sweeps": "sweep.png", "train": "terminal.svg",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_the_first_screen_of_a_page_shows_a_command_and_its_picture(path):
    page = (DOCS.parent / "SECURITY.md") if path.stem == "security" else path
    top = "".join(page.read_text(encoding="utf-8").splitlines(keepends=True)[:FIRST_SCREEN])
    shown = r"^(?: {4}|```.*\n)(python |discern |make |docker |import discern)"
    assert re.search(shown, top, re.MULTILINE)
    assert path.stem not in PICTURES or f"(images/{PICTURES[path.stem]})" in top


def test_the_results_of_the_readme_are_among_all_that_is_measured():
    row = re.compile(r"^\|.*\| `python .*` \|$", re.MULTILINE)
    every = row.findall((DOCS / "measured.md").read_text(encoding="utf-8"))
    few = row.findall((DOCS.parent / "README.md").read_text(encoding="utf-8"))
    assert 5 <= len(few) <= 10
    assert set(few) < set(every)
    programs = {re.findall(r"`python (\S+?)[ `]", each.rpartition(" | ")[2])[0] for each in every}
    assert all((DOCS.parent / program).is_file() for program in programs)


def test_the_badges_are_those_of_the_project():
    page = program("badges").picture()
    same = (DOCS / "images" / "badges.svg").read_text(encoding="utf-8") == page
    assert same, "docs/images/badges.svg is not as pyproject.toml is: make settings writes it anew"


def test_each_habit_of_other_tools_has_an_answer():
    page = (DOCS / "how-do-i.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| There \| Here \|\n\|[ |-]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
        assert all(len(row) == 2 and all(row) for row in rows)
        assert sum(bool(commands(f"{ours}\n")) for _, ours in rows) > len(rows) / 2


# Settings


def test_the_reference_of_settings_is_that_of_conf():
    page = program("settings_page").page()
    same = (DOCS / "settings.md").read_text(encoding="utf-8") == page
    assert same, "docs/settings.md is not as conf/ is: make settings writes it anew"


def test_the_reference_has_every_setting_of_every_choice():
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train")
    leaves = [
        f"{group}.{key}"
        for group in ("model", "data", "optimizer", "trainer", "cache")
        for key in cfg[group]
        if key != "_target_"
    ]
    missing = [leaf for leaf in leaves if f"| `{leaf}` |" not in page]
    assert missing == []
    assert len(leaves) > 60
