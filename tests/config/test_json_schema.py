from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from omegaconf import OmegaConf

from discern.commands.cli import main
from discern.config.json_schema import files_of, schemas
from discern.config.user_config import conf_dir

MADE = schemas()

FILES = {
    path: name
    for name in MADE
    for pattern in files_of(name)
    for path in conf_dir().parent.glob(pattern)
}
"""File in conf/ -> the schema that it is for."""


@cache
def validator(name: str) -> Draft7Validator:
    return Draft7Validator(MADE[name])


def settings(text: str | Path) -> Any:
    config = OmegaConf.load(text) if isinstance(text, Path) else OmegaConf.create(text)
    return OmegaConf.to_container(config, resolve=False)


def errors(name: str, text: str | Path) -> list[str]:
    return [error.json_path for error in validator(name).iter_errors(settings(text))]


def test_all_files_have_a_schema_and_all_schemas_are_ones():
    for schema in MADE.values():
        Draft7Validator.check_schema(schema)
    others = {*conf_dir().glob("*.yaml"), *conf_dir().glob("*/*.yaml")} - FILES.keys()
    assert {path.parent.name for path in others} <= {"hydra"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_file_in_conf_is_valid(path):
    assert errors(FILES[path], path) == []


WRONG = {
    "a setting that is mistyped": ("model", "_target_: discern.models.mlp.MLP\nhiden: [1]"),
    "a value of another kind": ("optimizer", "_target_: torch.optim.SGD\nlr: fast"),
    "a word that is none of those": (
        "model",
        "_target_: discern.models.mlp.MLP\nactivation: relu6000",
    ),
    "of a choice that is built on": ("data", "defaults: [mnist]\nbatchsize: 3"),
    "in a trainer": ("trainer", "defaults: [default]\nmax_epoch: 3"),
    "in an accelerator": ("accelerator", "accelerator: gpuu"),
    "in a callback": (
        "callbacks",
        "x: {_target_: discern.training.ema.ema, decay: 2, update_every_n_steps: 1}",
    ),
    "in a callback without its class": ("callbacks", "early_stopping: {patience: -1}"),
    "a group": ("train", "modle: {hidden: [3]}"),
    "a choice": ("train", "defaults: [{override /model: mpl}]"),
    "of the choice in the defaults list": (
        "train",
        "defaults: [{override /model: fc}]\nmodel: {hiden: [3]}",
    ),
    "in a part": ("train", "cache: {mood: auto}"),
    "of a command": ("predict", "pictures: -1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_found(case):
    assert errors(*WRONG[case])


RIGHT = {
    "an interpolation": ("optimizer", "_target_: torch.optim.SGD\nlr: ${oc.env:LR}"),
    "in a list": ("model", "_target_: discern.models.mlp.MLP\nhidden: ['${width}', 3]"),
    "a class of one's own": ("model", "_target_: mine.Net\nwidth: 3"),
    "a callback of one's own": ("callbacks", "x: {_target_: mine.Beep, times: 3}"),
    "a callback that is left out": ("debug", "callbacks: {early_stopping: null}"),
    "a setting of one's own": ("train", "width: 3\nmodel: {hidden: ['${width}']}"),
    "what Hydra is told": ("train", "hydra: {sweeper: {n_trials: 3}}"),
    "a file of an experiment": ("train", "defaults: [{/experiment: mine/first.yaml}]"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_allowed_is_valid(case):
    name, text = RIGHT[case]
    assert errors("train" if name == "debug" else name, text) == []


def test_the_command_writes_them_and_says_what_an_editor_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "conf" / "model" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: mine.Net\nwidth: 3\n")
    main(["schema", "out=made"])
    told = capsys.readouterr().out
    association = json.loads(told[told.index("{\n") :])
    assert association["./made/model.json"] == ["conf/model/*.yaml"]
    files = {Path(name) for name in association}
    assert files == {path.relative_to(tmp_path) for path in (tmp_path / "made").iterdir()}
    written = Draft7Validator(json.loads((tmp_path / "made" / "train.json").read_text()))
    assert written.is_valid({"defaults": [{"override /model": "mine"}]})
    assert not written.is_valid({"defaults": [{"override /model": "mien"}]})


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"Error: .*file cannot be used: "):
        main(["schema", "out=file"])
