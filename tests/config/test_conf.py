"""Every file in conf/: it says what it is for, composes, and is allowed."""

from __future__ import annotations

import inspect
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import lightning
import pytest
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from discern.config.check import check
from discern.config.schema import SCHEMAS
from discern.config.user_config import conf_dir
from discern.training.build import FOR_TRAINING
from run_files import composed_by_hydra as composed

FILES = {str(path.relative_to(conf_dir())): path for path in sorted(conf_dir().rglob("*.yaml"))}
CHOICES = [
    (path.parent.name, path.stem)
    for name, path in FILES.items()
    if len(Path(name).parts) == 2 and not name.startswith("hydra")
]
# Settings that discern itself takes out before the class gets the rest.
OF_THE_SCHEDULE = {"interval", "monitor", "total_as"}


# What a choice asks its user for.
ASKED = {
    ("data", "image_folder"): "data.dir=pictures",
    ("callbacks", "finetune"): "model=vit_transfer",
}


@cache
def chosen(group: str, choice: str) -> DictConfig:
    asked = ASKED.get((group, choice))
    return composed(f"{group}={choice}", *([asked] if asked else []))


@pytest.mark.parametrize("name", FILES)
def test_a_file_begins_with_what_it_is_for(name):
    lines = FILES[name].read_text().splitlines()
    if lines[0].startswith("# @package "):
        del lines[0]
    assert lines[0].startswith("# ")
    sentence = lines[0].removeprefix("# ")
    for line in lines[1:]:
        if sentence.endswith((".", ")")) or not line.startswith("# "):
            break
        sentence += line.removeprefix("#")
    assert "." in sentence


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_yaml_without_a_key_twice(name):
    class Unique(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    yaml.load(FILES[name].read_text(), Unique)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_composes_and_is_allowed(group, choice, monkeypatch):
    # As if every extra were installed: a missing one is another test's.
    monkeypatch.setattr("discern.config.check.EXTRAS", {})
    cfg = chosen(group, choice).copy()
    cfg.folder = "outputs/here"
    check(cfg)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_has_no_key_that_nothing_reads(group, choice):
    for target, settings in targets(chosen(group, choice)):
        if target in SCHEMAS and SCHEMAS[target].model_config["extra"] == "forbid":
            assert set(settings) == set(SCHEMAS[target].model_fields), target
        if not target.startswith(
            (
                "discern.reports.tensorboard.logger.WeightsAndBiases",
                "lightning.pytorch.loggers.MLFlow",
            )
        ):
            known = parameters_of(get_object(target))
            if ".lr_scheduler." in target:
                known |= OF_THE_SCHEDULE
                known -= {settings.get("total_as"), "optimizer"}
            if ".models." in target:
                known |= set(FOR_TRAINING)
            assert set(settings) <= known, target


def parameters_of(target) -> set[str]:
    """The arguments of a callable; where it hands the rest on, those of its base classes too."""
    signature = inspect.signature(target).parameters
    names = {name for name, it in signature.items() if it.kind != inspect.Parameter.VAR_KEYWORD}
    if len(names) == len(signature) or not inspect.isclass(target):
        return names
    return names.union(*(parameters_of(base) for base in target.__bases__ if base is not object))


def targets(node) -> list[tuple[str, dict]]:
    """Every ``_target_`` in a config, with its settings."""
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        return []
    here = []
    if plain.get("_target_"):
        here = [(plain["_target_"], {k: v for k, v in plain.items() if k != "_target_"})]
    return here + [found for part in plain.values() for found in targets(part)]


def test_the_trainer_group_holds_every_argument_of_lightning():
    signature = inspect.signature(lightning.Trainer.__init__).parameters
    keys = set(yaml.safe_load(FILES["trainer/default.yaml"].read_text())) - {"_target_"}
    of_accelerator = set(yaml.safe_load(FILES["accelerator/auto.yaml"].read_text()))
    assert of_accelerator == {"accelerator", "devices"}
    assert keys | of_accelerator == set(signature) - {"self"}
    assert not keys & of_accelerator


@pytest.mark.parametrize("choice", ["auto", "cpu", "gpu", "mps"])
def test_an_accelerator_is_chosen_as_a_trainer_too(choice):
    if choice != "auto":
        assert composed(f"trainer={choice}") == composed(f"accelerator={choice}")
    assert composed("trainer=ddp_sim").trainer.strategy == "ddp"


@pytest.mark.parametrize("choice", ["auto", "cpu", "gpu", "mps"])
def test_an_accelerator_sets_what_the_others_set(choice):
    settings = yaml.safe_load(FILES[f"accelerator/{choice}.yaml"].read_text())
    assert settings == {"accelerator": choice, "devices": 1}


def test_trainer_settings_differ_from_lightning_only_where_a_comment_says_so():
    lines = FILES["trainer/default.yaml"].read_text().splitlines()
    explained = {
        line.partition(":")[0]
        for before, line in pairwise(lines)
        if before.startswith("# Not Lightning's") or before.startswith("# null:")
    }
    settings = yaml.safe_load(FILES["trainer/default.yaml"].read_text())
    signature = inspect.signature(lightning.Trainer.__init__).parameters
    different = {
        name
        for name, value in settings.items()
        if name != "_target_" and value != signature[name].default
    }
    # In Lightning's signature None stands for 50.
    assert settings["log_every_n_steps"] == 50
    assert different - {"log_every_n_steps"} <= explained


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "scheduler", "trainer"])
def test_a_group_that_builds_one_thing_names_its_class(group):
    for choice in (choice for of, choice in CHOICES if of == group):
        assert "_target_" in chosen(group, choice)[group]


EXPERIMENTS = [choice for group, choice in CHOICES if group == "experiment"]


def test_there_are_the_recipes():
    assert {"mnist_sgd", "fashion_adam"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command(name):
    comment = [
        line for line in FILES[f"experiment/{name}.yaml"].read_text().splitlines() if "#" in line
    ]
    assert any(f"python train.py experiment={name}" in line for line in comment)


def test_the_notes_recipes_are_the_notes_networks():
    sgd, adam = composed("experiment=mnist_sgd"), composed("experiment=fashion_adam")
    assert (sgd.model.hidden, sgd.optimizer.lr, sgd.trainer.max_epochs) == ([128, 64], 0.003, 5)
    assert (sgd.data.batch_size, sgd.data.val_size, sgd.data.source) == (64, 0, "full")
    assert sgd.optimizer._target_ == "torch.optim.SGD"
    assert sgd.optimizer.get("momentum", 0) == 0
    assert (adam.model.hidden, adam.optimizer.lr) == ([256, 128, 64], 0.003)
    assert adam.data._target_.endswith("FashionMNIST")


@pytest.mark.parametrize("path", sorted((conf_dir() / "experiment").glob("*.yaml")), ids=str)
def test_a_recipe_states_its_command_and_its_result(path):
    comment = "\n".join(x for x in path.read_text().splitlines() if x.startswith("#"))
    assert f"python train.py experiment={path.stem}\n" in comment
    if "Expected: not measured, since " in comment:
        return
    assert re.search(r"test accuracy 0\.\d{4} ± 0\.\d{4}", comment)
    assert re.search(r"over \d seeds \(mean ± standard deviation; [\d.]+ (s|minutes?) ", comment)
