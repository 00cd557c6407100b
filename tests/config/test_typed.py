"""Settings whose text is taken as it was typed: paths as people have them."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from discern.config.check import COMMANDS, as_typed_settings
from discern.config.experiment_file import is_path
from discern.config.settle import place_paths
from discern.config.typed import for_hydra, parsed, quoted
from discern.config.user_config import conf_dir
from run_files import composed, composed_by_hydra

SETTINGS = as_typed_settings()

# What has to be chosen for a setting to be there, where it is not there without.
NEEDS = {
    "model.weights": ("train", "model=densenet_transfer"),
    "data.csv": ("train", "data=image_folder"),
    "data.url": ("train", "data=catdog"),
    "trainer.profiler.dirpath": ("train", "debug=profiler"),
    "logger.wandb.save_dir": ("train", "logger=wandb"),
    "logger.mlflow.tracking_uri": ("train", "logger=mlflow"),
    "input": ("predict",),
    "out": ("predict",),
}
AWKWARD = [
    "a=b, c [d] 'e' #f", "lr=0.1,dropout=0.2/checkpoints/best.x", "it's", "a ", " a", "a  b",
    "(x)", "{x:1}", "[a,b]", "'", '"', "a'b\"c", "x\\", "a\\,b", "a\\'b", "\\", "-m", "--cfg",
    "2024", "1e3", "0x10", "true", "False", "NULL", "inf", "~", "~/a=b", "a/~/b",
    "~nobody-of-that-name/x", "$HOME/x", "${", "a${b", "$", "a\nb", "a\tb", "größte", "写真",
    "a:b", "a@b", "???",
    "choice(a,b)", "https://host/a.zip?dl=1&x=a,b#c", "/a=b/", "..", "a;b|c&d", "*", "photos/*.png",
    "<left out>!", "\\${x}", "a\\\\${x", "+a", "=", "==a",
]  # fmt: skip

TEXTS = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.sampled_from(string.punctuation + " ab1~\n\té写"), min_size=1),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
)


def means_something_else(text: str) -> bool:
    """What Hydra goes on reading: null, a text in quotes, an interpolation."""
    override = parsed(f"x={text}")
    in_quotes = text.strip()[:1] in ("'", '"') and override is not None
    return text == "null" or in_quotes or ("${" in text and "}" in text)


def meant(name: str, text: str) -> str:
    """What is to arrive."""
    home = SETTINGS[name].is_path
    expanded = os.path.expanduser(text) if home else text  # noqa: PTH111
    return "./???" if expanded == "???" else expanded


@given(name=st.sampled_from(sorted(set(SETTINGS) - {"experiment"})), text=TEXTS)
def test_a_text_arrives_as_it_was_typed(name, text):
    if means_something_else(text):
        return
    (told,) = for_hydra([f"{name}={text}"], SETTINGS, multirun=False)
    assert for_hydra([told], SETTINGS, multirun=False) == [told]
    if name.startswith("hydra."):
        override = parsed(told)
        assert OmegaConf.create({"x": override.value()}).x == meant(name, text)
        return
    command, *choices = NEEDS.get(name, ("train",))
    cfg = composed(*choices, told, command=command)
    place_paths(cfg, SETTINGS)
    found = OmegaConf.select(cfg, name)
    if "." in text or "/" in text:  # a/./b is a/b
        assert Path(found) == Path(meant(name, text))
    else:
        assert found == meant(name, text)


@given(text=TEXTS.filter(lambda text: not means_something_else(text) and "${" not in text))
@example("a=b, c [d] 'e' #f.yaml")
def test_an_experiment_that_is_a_path_is_a_text(text):
    text = f"{text}/x.yaml"
    assert is_path(text)
    if not text.startswith("["):
        (told,) = for_hydra([f"experiment={text}"], SETTINGS, multirun=False)
        assert parsed(told).value() == meant("experiment", text)


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_sign_before_it_changes_nothing(sign):
    assert for_hydra([f"{sign}data.dir=a,b"], SETTINGS, False) == [f"{sign}data.dir='a,b'"]


@pytest.mark.parametrize(
    "override",
    ["seed=1,2", "~data.dir", "~data.dir=a,b", "model.hidden=[1,2]", "data.dir", "data=mnist",
     "data.dir='a b'", 'data.dir="a,b"', "ckpt_path=null",
     "experiment=mnist_best", "experiment=[a,b]", "tags=[a]"],
)  # fmt: skip
def test_what_hydra_reads_is_left_to_it(override):
    assert for_hydra([override], SETTINGS, multirun=False) == [override]


def test_an_interpolation_may_stand_beside_anything(monkeypatch):
    monkeypatch.setenv("D", "my photos")
    told = for_hydra(["data.dir=${oc.env:D}/a=b, [c]"], SETTINGS, False)
    assert composed(*told).data.dir == "my photos/a=b, [c]"


# Several values


def values(text: str, name: str = "data.dir") -> list[str]:
    override = parsed(for_hydra([f"{name}={text}"], SETTINGS, multirun=True)[0])
    if not override.is_sweep_override():
        return [override.value()]
    return [parsed(f"x={each}").value() for each in override.sweep_string_iterator()]


def test_commas_part_values_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert values("a,b") == ["a", "b"]
    assert values("a=b [x], it's, ~/c") == ["a=b [x]", "it's", f"{os.environ['HOME']}/c"]
    assert values("'a,b',\"c d\"") == ["a,b", "c d"]
    assert values("a\\,b,c") == ["a,b", "c"]
    assert values("choice(a,b)") == ["a", "b"]
    assert values("${oc.env:X,y},b") == ["${oc.env:X,y}", "b"]
    assert values("null,last", "ckpt_path") == [None, "last"]


def test_but_not_the_path_of_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1,drop=2", "lr=2,drop=3", "a,b,c"):
        (tmp_path / name).mkdir()
    assert values("lr=1,drop=2", "ckpt_path") == ["lr=1,drop=2"]
    assert values("lr=1,drop=2,lr=2,drop=3", "ckpt_path") == ["lr=1,drop=2", "lr=2,drop=3"]
    assert values("x,a,b,c,y") == ["x", "a,b,c", "y"]


@given(st.lists(TEXTS.filter(lambda text: not means_something_else(text)), min_size=2, max_size=4))
def test_each_value_of_a_sweep_is_a_text_of_its_own(texts):
    # Of several texts Hydra's marks may make something together.
    plain = [re.sub(r"[,\\\\]|\$\{", "", text).strip() or "x" for text in texts]
    plain = ["x" if means_something_else(text) or "(" in text or text[0] in "'\"" else text
             for text in plain]  # fmt: skip
    found = values(",".join(plain))
    assert [OmegaConf.create({"x": text}).x for text in found] == [
        meant("data.dir", text) for text in plain
    ]


def test_what_is_there_needs_no_quotes_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("'a'", "${x}", "null,2"):
        (tmp_path / name).mkdir()
        (told,) = for_hydra([f"data.dir={name}"], SETTINGS, multirun=False)
        assert composed(told).data.dir == name


@given(TEXTS)
def test_quoted_is_that_text(text):
    if text != "???":  # which OmegaConf has no text for
        assert OmegaConf.create({"x": parsed(f"a={quoted(text)}").value()}).x == text


# The list is complete


PATH_LIKE = (
    "dir", "path", "dirpath", "save_dir", "folder", "file", "csv", "weights", "init_from",
    "ckpt_path", "input", "out", "storage", "resume", "root", "url", "uri", "filename",
)  # fmt: skip
NO_PATHS = {f"{name}.filename" for name in (
    "callbacks.best_checkpoint", "callbacks.last_checkpoint", "trainer.profiler",
)}  # fmt: skip


@pytest.mark.parametrize("file", sorted(conf_dir().rglob("*.yaml")), ids=str)
def test_a_setting_that_looks_like_a_path_is_marked(file):
    content = yaml.safe_load(file.read_text()) or {}
    place = file.relative_to(conf_dir())
    is_global = "@package" in file.read_text().splitlines()[0]
    prefix = "" if is_global else "".join(f"{part}." for part in place.parent.parts)
    for name in names(content, prefix):
        last = name.rpartition(".")[2]
        looks = last in PATH_LIKE or last.endswith(("_dir", "_folder", "_path", "_file", "_uri"))
        if looks and name not in NO_PATHS:
            assert name in SETTINGS, name


def names(content: dict, prefix: str) -> list[str]:
    found = []
    for key, value in content.items():
        inside = names(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        found += [f"{prefix}{key}"] if inside is None else inside
    return found


def test_a_mark_is_of_a_setting_that_there_is():
    for name in set(SETTINGS) - {"experiment"}:
        if not name.startswith("hydra."):
            command, *choices = NEEDS.get(name, ("train",))
            cfg = composed_by_hydra(*choices) if command == "train" else composed(command=command)
            parent = OmegaConf.select(cfg, name.rpartition(".")[0] or "seed") or cfg
            last = name.rpartition(".")[2]
            assert last in (parent if OmegaConf.is_dict(parent) else cfg), name
    assert set(COMMANDS) == {"train", "evaluate", "export", "inspect", "predict"}
