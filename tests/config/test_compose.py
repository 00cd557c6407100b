from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from discern.config.compose import explain
from run_files import composed_by_hydra as composed


def explained(*overrides: str) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises
        composed(*overrides)
    sentence = explain(caught.value, "train", list(overrides))
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=mpl", "model=mpl is not a choice; did you mean mlp"),
        ("scheduler=cosinus", "scheduler=cosinus is not a choice; did you mean cosine"),
        (
            "data=imagenet",
            "data=imagenet is not a choice; did you mean imagenet_folder (there are ",
        ),
        ("scheduler=xyz", "scheduler=xyz is not a choice; there are cosine, none, "),
        ("modle=mlp", "modle is not a setting; did you mean model"),
        ("sed=3", "sed is not a setting; did you mean seed"),
        ("optimizer.momntm=1", "optimizer.momntm is not a setting; there are optimizer.betas, "),
        ("lr=3", "lr is not a setting; did you mean optimizer.lr?"),
        ("trainer.gpus=1", "trainer.gpus is not a setting; there are trainer.accelerator, "),
        ("trainer=gpuu", "trainer=gpuu is not a choice; did you mean gpu (there are cpu, ddp, "),
        ("optimizer.lrr=1", "optimizer.lrr is not a setting; did you mean optimizer.lr"),
        (
            "trainer.max_epoch=3",
            "trainer.max_epoch is not a setting; did you mean trainer.max_epochs",
        ),
        (
            "callbacks.early_stopping.patiense=3",
            "callbacks.early_stopping.patiense is not a setting; "
            "did you mean callbacks.early_stopping.patience",
        ),
        ("trianer.max_epochs=3", "trianer.max_epochs is not a setting; did you mean trainer"),
        ("seed.a.b=3", "seed.a.b is not a setting; seed has no settings of its own."),
        (
            "callbacks.early_stoping.patience=3",
            "callbacks.early_stoping.patience is not a setting; did you mean "
            "callbacks.early_stopping",
        ),
        ("experimnt=x", "experimnt is not a setting; did you mean experiment"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(override, sentence):
    assert explained(override).startswith(sentence)


def test_another_wrong_override_does_not_hide_the_first():
    assert "did you mean model.hidden" in explained("model.hiden=[3]", "optimizer.lrr=1")


def test_the_settings_are_those_of_the_choice():
    sentence = explained("optimizer=sgd", "optimizer.momentun=0.9")
    assert "did you mean optimizer.momentum" in sentence
    assert "momentum" not in explained("optimizer=adam", "optimizer.xyz=0.9")


@pytest.mark.parametrize("override", ["model", "model.hidden=[3", "a b"])
def test_what_cannot_be_read(override):
    sentence = explained(override)
    assert override in sentence
    assert "SETTING=VALUE" in sentence


def test_several_values_are_a_sweep_or_a_list():
    sentence = explained("model.hidden=3,4")
    assert "model.hidden=3,4" in sentence
    assert "-m" in sentence
    assert "model.hidden=[3,4]" in sentence


# The rules of composition that users rely on


def accelerator(*overrides: str) -> str:
    return composed(*overrides).trainer.accelerator


def test_the_accelerator_is_chosen_by_group_or_by_setting_and_the_setting_wins():
    assert accelerator() == "auto"
    assert accelerator("accelerator=gpu") == "gpu"
    assert accelerator("trainer.accelerator=gpu") == "gpu"
    assert accelerator("accelerator=gpu", "trainer.accelerator=cpu") == "cpu"
    assert accelerator("trainer.accelerator=cpu", "accelerator=gpu") == "cpu"
    assert composed("accelerator=gpu", "trainer.devices=4").trainer.devices == 4


def test_an_experiment_is_won_over_by_the_command_line():
    cfg = composed("experiment=mnist_sgd", "trainer.max_epochs=1", "optimizer=adam")
    assert cfg.trainer.max_epochs == 1
    assert cfg.optimizer._target_ == "torch.optim.Adam"
    assert cfg.data.val_size == 0


def test_debugging_wins_over_an_experiment():
    cfg = composed("experiment=mnist_sgd", "debug=limit")
    assert cfg.trainer.limit_train_batches == 5
    assert cfg.trainer.max_epochs == 2
    assert cfg.optimizer.lr == 0.003


def test_the_seed_of_the_data_is_the_seed():
    assert composed("seed=9").data.seed == 9


def test_the_data_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("DISCERN_DATA_DIR", raising=False)
    assert composed().data.dir == "data"
    monkeypatch.setenv("DISCERN_DATA_DIR", "elsewhere")
    assert composed().data.dir == "elsewhere"
    assert composed("data.dir=here").data.dir == "here"


def test_no_debug_and_no_experiment_are_left_in_the_config():
    assert not {"debug", "experiment", "accelerator"} & set(OmegaConf.to_container(composed()))
