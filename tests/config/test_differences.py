from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from discern.config.differences import differences
from discern.config.user_config import conf_dir
from run_files import summary
from starter import invoke


def differing(*overrides: str):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    return differences(cfg, cfg.hydra.runtime.choices)


CHOICES = sorted(
    (path.parent.name, path.stem)
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name not in ("experiment", "debug", "hparams_search")
)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_alone_changes_no_setting(group, choice):
    """The defaults are read from files without Hydra; this is what Hydra makes of them."""
    found = differing(f"{group}={choice}")
    assert set(found) <= {group}
    assert all(value == choice for _, value in found.values())


def test_the_defaults_differ_in_nothing():
    assert differing() == {}


def test_choices_and_settings_that_differ_are_told_with_their_defaults():
    found = differing("optimizer=sgd", "optimizer.lr=0.5", "model.hidden=[8]", "seed=3")
    assert next(iter(found)) == "optimizer"
    assert found == {
        "optimizer": ("adam", "sgd"),
        "optimizer.lr": (0.01, 0.5),
        "model.hidden": ([128, 64], [8]),
        "seed": (0, 3),
    }


def test_an_experiment_is_told_by_what_it_sets():
    found = differing("experiment=mnist_sgd")
    assert found["experiment"] == (None, "mnist_sgd")
    assert found["optimizer"] == ("adam", "sgd")
    assert found["trainer.max_epochs"] == (10, 5)
    assert found["data.val_size"] == (0.1, 0)


def test_what_was_added_or_taken_away_is_none_on_the_other_side():
    found = differing("+trainer.mine=1", "~callbacks.progress")
    assert found["trainer.mine"] == (None, 1)
    assert found["callbacks.progress._target_"] == ("discern.training.progress.Progress", None)


def test_where_a_run_is_and_reads_is_no_difference():
    assert differing("data.dir=/x", "cache.dir=/y", "sweep.resume=last", "hydra.run.dir=/z") == {}


def test_a_choice_of_the_users_own_is_told_and_its_settings_are_taken_as_they_are(tmp_path):
    mine = tmp_path / "optimizer" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("_target_: torch.optim.SGD\nlr: 0.25\n")
    found = differing(f"hydra.searchpath=[file://{tmp_path}]", "optimizer=mine")
    assert found == {"optimizer": ("adam", "mine")}


def test_without_hydra_the_choices_are_taken_to_be_the_defaults():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["model.dropout=0.5"])
    cfg.folder = "/somewhere"
    assert differences(cfg, {}) == {"model.dropout": (0.0, 0.5)}


def test_the_summary_of_every_run_says_it(tiny_run):
    result = tiny_run("logger=none", "model.dropout=0.25")
    assert summary(result.folder)["changed"]["model.dropout"] == {"default": 0.0, "value": 0.25}


def test_a_command_knows_its_choices(tmp_path):
    done = invoke(
        "train", "data.source=sample", "debug=limit", "logger=csv", "optimizer=sgd",
        "hydra.run.dir=run", cwd=tmp_path, draws=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    changed = summary(Path(tmp_path) / "run")["changed"]
    assert changed["optimizer"] == {"default": "adam", "value": "sgd"}
    assert changed["debug"] == {"default": None, "value": "limit"}
    assert "optimizer.lr" not in changed
    assert not [name for name in changed if name.startswith(("hydra", "folder", "sweep"))]
