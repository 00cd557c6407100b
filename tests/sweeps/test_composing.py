from __future__ import annotations

import copy
import pickle

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from discern.config.user_config import conf_dir
from discern.sweeps import composing
from discern.sweeps.composing import SweepConfigLoader

CHOICES = {
    "model": ["mlp", "fc", "densenet_transfer"],
    "optimizer": ["sgd", "adamw"],
    "scheduler": ["none", "cosine"],
    "experiment": ["mnist_sgd", "[fashion_adam,mnist_best]"],
    "accelerator": ["cpu", "gpu"],
}
VALUES = {
    "seed": ["1", "2", "1,2"],
    "optimizer.lr": ["0.1", "1e-3"],
    "optimizer": ["{lr: 3}"],
    "trainer.accelerator": ["cpu"],
    "model.hidden": ["[3]", "[]"],
    "+model.extra": ["1"],
    "++trainer.max_epochs": ["2"],
    "~trainer.max_epochs": [""],
    "hydra.job.name": ["other"],
    "hydra.sweep.subdir": ["here"],
    "hydra": ["{job: {name: third}}"],
    "~scheduler": [""],
    "nothing@here": ["1"],
}


@pytest.fixture(scope="module")
def loaders():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        stock = GlobalHydra.instance().config_loader()
        yield stock, SweepConfigLoader(stock)


def composed(loader, overrides):
    try:
        config = loader.load_configuration("train", list(overrides), RunMode.RUN)
    except ConfigCompositionException as error:
        return str(error)
    return OmegaConf.to_yaml(config)


ANY_OVERRIDES = given(
    choices=st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in CHOICES.items()}),
    values=st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()}),
    data=st.data(),
)


@settings(max_examples=10)
@ANY_OVERRIDES
def test_a_config_is_what_hydra_composes_whatever_was_composed_before(
    loaders, choices, values, data
):
    assert_as_hydra_composes(loaders, choices, values, data)


@pytest.mark.slow
@settings(max_examples=100)
@ANY_OVERRIDES
def test_many_a_config_is_what_hydra_composes(loaders, choices, values, data):
    assert_as_hydra_composes(loaders, choices, values, data)


def assert_as_hydra_composes(loaders, choices, values, data):
    told = [f"{key}={value}" for key, value in (*choices.items(), *values.items())]
    told = [each.removesuffix("=") for each in told]
    overrides = data.draw(st.permutations(told))
    stock, remembering = loaders
    assert composed(remembering, overrides) == composed(stock, overrides)


def test_a_job_finds_nothing_that_the_job_before_has_put_in(loaders):
    _, loader = loaders
    first = loader.load_configuration("train", ["optimizer.lr=7"], RunMode.RUN)
    first.trainer.max_epochs = 3
    second = loader.load_configuration("train", [], RunMode.RUN)
    assert (second.optimizer.lr, second.trainer.max_epochs) == (1e-3, 10)
    assert list(second.hydra.overrides.task) == []


def test_a_config_is_copied_as_omegaconf_copies_it(loaders):
    _, loader = loaders
    config = loader.load_configuration("train", ["optimizer.lr=7"], RunMode.RUN)
    for node in (config, config.hydra):
        copied, wanted = copy.deepcopy(node), DictConfig.__deepcopy__(node, {})
        assert OmegaConf.to_yaml(copied) == OmegaConf.to_yaml(wanted)
        assert copied._get_parent() is node._get_parent()
        assert OmegaConf.get_type(copied) is OmegaConf.get_type(node)
        for flag in ("struct", "readonly"):
            assert copied._get_flag(flag) == node._get_flag(flag)
    copied = copy.deepcopy(config)
    copied.optimizer.lr, copied.hydra.job.name = 8, "other"
    assert (config.optimizer.lr, config.hydra.job.name) != (8, "other")
    assert copied.hydra._get_parent() is copied
    with pytest.raises(ConfigAttributeError):
        copied.optimizer.nothing = 1  # as strict as it was


def test_it_travels_with_a_job_without_what_it_has_read(loaders):
    stock, loader = loaders
    composed(loader, ["optimizer=sgd"])
    sent = pickle.dumps(loader)
    assert len(sent) < 50_000
    assert composed(pickle.loads(sent), ["model=fc"]) == composed(stock, ["model=fc"])


def test_folders_of_choices_are_those_of_each_job(loaders, tmp_path):
    stock, loader = loaders
    for name, rate in (("one", 1), ("other", 2)):
        folder = tmp_path / name / "optimizer"
        folder.mkdir(parents=True)
        (folder / "own.yaml").write_text(f"_target_: torch.optim.SGD\nlr: {rate}\n")
    for name, rate in (("one", 1), ("other", 2), ("one", 1)):
        overrides = [f"hydra.searchpath=[file://{tmp_path / name}]", "optimizer=own"]
        assert loader.load_configuration("train", overrides, RunMode.RUN).optimizer.lr == rate
        assert composed(loader, overrides) == composed(stock, overrides)


def test_choices_are_composed_once_and_a_few_composed_configs_kept(loaders, monkeypatch):
    read = []
    original = composing.ConfigLoaderImpl._compose_config_from_defaults_list

    def watched(self, defaults, repo):
        read.append(len(defaults))
        return original(self, defaults, repo)

    monkeypatch.setattr(composing.ConfigLoaderImpl, "_compose_config_from_defaults_list", watched)
    monkeypatch.setattr(composing, "MOST", 2)
    loader = SweepConfigLoader(loaders[0])
    for lr in range(5):
        loader.load_configuration("train", [f"optimizer.lr={lr}"], RunMode.RUN)
    assert len(read) == 1
    for model in ("mlp", "fc", "dropout", "mlp"):
        loader.load_configuration("train", [f"model={model}"], RunMode.RUN)
    assert len(read) == 5  # mlp was known, and had to go
    assert len(loader._chosen) == 2


def test_settings_of_a_class_that_was_imported_twice_are_composed(loaders, monkeypatch):
    stock, _ = loaders
    loader = SweepConfigLoader(stock)
    once = loader.load_configuration("train", ["optimizer.lr=1"], RunMode.RUN)
    kind = OmegaConf.get_type(once.hydra)
    monkeypatch.setattr(f"{kind.__module__}.{kind.__name__}", type(kind.__name__, (), {}))
    loader = SweepConfigLoader(stock)
    for rate in (1, 2):
        config = loader.load_configuration("train", [f"optimizer.lr={rate}"], RunMode.RUN)
        assert config.optimizer.lr == rate
