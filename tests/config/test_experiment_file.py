"""``experiment=FILE``: what a user's own file does in the place of a recipe."""

from __future__ import annotations

import pickle

import pytest

from discern.commands.cli import main
from discern.config.check import check
from discern.config.compose import explain
from discern.config.experiment_file import find_file, name_of
from discern.errors import DiscernError
from hydra_plugins import discern_experiments as plugin
from run_files import composed_by_hydra as composed
from run_files import metrics_csv, summary
from starter import invoke

SETTINGS = """\
# @package _global_
# The best of a sweep.
defaults:
  - override /model: dropout
  - override /optimizer: sgd
  - _self_
model:
  dropout: 0.375
optimizer:
  lr: 0.125
"""
QUICK = ("data.source=sample", "trainer.accelerator=cpu", "debug=limit")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with an experiment in ``sweep/best.yaml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "best.yaml").write_text(SETTINGS)
    return tmp_path


def explained(choice: str) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises
        composed(f"experiment={choice}")
    return explain(caught.value, "train", [f"experiment={choice}"])


# What names a file


@pytest.mark.parametrize(
    "choice", ["sweep/best.yaml", "sweep/best", "./sweep/best", "[sweep/best]"]
)
def test_a_file_is_an_experiment(folder, choice):
    cfg = composed(f"experiment={choice}", "optimizer.momentum=0.5")
    assert cfg.model.dropout == 0.375
    assert cfg.optimizer._target_ == "torch.optim.SGD"
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.125, 0.5)


@pytest.mark.parametrize("ending", ["", ".yaml"])
def test_an_absolute_path(folder, ending):
    assert composed(f"experiment={folder}/sweep/best{ending}").optimizer.lr == 0.125


@pytest.mark.parametrize("name", ["my best", "lr=0.1,x", "a [b] (c)", "größte"])
def test_names_that_hydra_wants_quoted(folder, name):
    (folder / f"{name}.yaml").write_text(SETTINGS)
    assert composed(f"experiment='{name}'").optimizer.lr == 0.125
    assert composed(f"experiment='{folder}/{name}.yaml'").optimizer.lr == 0.125


def test_a_file_above_and_one_with_another_ending(folder, monkeypatch):
    (folder / "sweep" / "other.yml").write_text(SETTINGS)
    (folder / "sweep" / "below").mkdir()
    monkeypatch.chdir(folder / "sweep" / "below")
    assert composed("experiment=../best").optimizer.lr == 0.125
    assert composed("experiment=../other.yml").optimizer.lr == 0.125


def test_a_recipe_wins_over_a_file_only_by_its_bare_name(folder):
    (folder / "mnist_sgd.yaml").write_text(SETTINGS)
    assert composed("experiment=mnist_sgd").optimizer.lr == 0.003
    assert composed("experiment=mnist_sgd.yaml").optimizer.lr == 0.125
    assert composed("experiment=./mnist_sgd").optimizer.lr == 0.125
    # A bare name that no recipe has.
    (folder / "mine.yaml").write_text(SETTINGS)
    assert composed("experiment=mine").optimizer.lr == 0.125


def test_only_experiments_come_from_files(folder):
    (folder / "sgd.yaml").write_text("lr: 7\n")
    (folder / "own.yaml").write_text("lr: 7\n")
    assert composed("optimizer=sgd").optimizer.lr != 7
    with pytest.raises(Exception, match="own"):
        composed("optimizer=own")


def test_a_file_on_top_of_another(folder):
    (folder / "top.yaml").write_text(
        "# @package _global_\ndefaults:\n"
        "  - /experiment@_global_: sweep/best\n  - _self_\noptimizer:\n  lr: 0.5\n"
    )
    cfg = composed("experiment=top.yaml")
    assert (cfg.model.dropout, cfg.optimizer.lr) == (0.375, 0.5)


def test_a_file_is_global_also_without_the_header(folder):
    (folder / "bare.yaml").write_text("# mine\n\noptimizer:\n  lr: 1e-2\n")
    assert composed("experiment=bare").optimizer.lr == 0.01
    (folder / "lr.yaml").write_text("# @package optimizer\nlr: 0.25\n")
    assert composed("experiment=lr.yaml").optimizer.lr == 0.25
    (folder / "empty.yaml").touch()
    assert composed("experiment=empty") == composed()


def test_it_is_read_anew_for_each_config(folder):
    file = folder / "sweep" / "best.yaml"
    assert composed("experiment=sweep/best").optimizer.lr == 0.125
    file.write_text(SETTINGS.replace("0.125", "0.25"))
    assert composed("experiment=sweep/best").optimizer.lr == 0.25


def test_the_sources_travel_to_other_processes(folder):
    # Hydra executes the modules of its plugins itself, also one that has been imported.
    composed()
    for path in (plugin.PATHS, plugin.NAMES):
        source = pickle.loads(pickle.dumps(plugin.ExperimentFiles("experiment", path)))
        assert not source.is_config("model/mlp")
        assert not source.is_config("train")
        assert source.is_config("experiment/sweep/best") == (path == plugin.PATHS)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("mnist_sgd", "mnist_sgd"),
        ("outputs/day/time_sweep/best.yaml", "best"),
        ("/tmp/x/best", "best"),
        ("./v1.5", "v1.5"),
    ],
)
def test_the_name_of_a_run(choice, name):
    assert name_of(choice) == name


@pytest.mark.parametrize("choice", ["", "/", ".", "..", "sweep", "missing", "x" * 200])
def test_what_is_no_file(folder, choice):
    assert find_file(choice) is None


# What is wrong is one sentence


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ("mnist_sgf", "did you mean mnist_sgd (there are catdog_finetune, "),
        ("xyz", "there are catdog_finetune, "),
        ("sweep/bset", "did you mean sweep/best.yaml?"),
        ("sweep/bset.yaml", "did you mean sweep/best.yaml?"),
        ("sweep", "there are catdog_finetune, "),
        ("nowhere/xyz", "there are catdog_finetune, "),
    ],
)
def test_what_is_neither_a_recipe_nor_a_file(folder, choice, hint):
    assert explained(choice).startswith(
        f"experiment={choice} is neither a choice nor a file; {hint}"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: b: c\n", "is not a YAML file: mapping values are not allowed here, line 1."),
        (b"optimizer:\n  lr: 1\n  lr: 2\n", "is not a YAML file: found duplicate key lr, line 3."),
        (b"\xff\xfe\x00", "is not a YAML file: 'utf-8' codec"),
        (b"a: ${b\n", "is not a YAML file: "),
        (b"- a\n- b\n", "holds a list; it must hold settings"),
        (b"some words\n", "holds a single value; it must hold settings"),
        (b"# @package a b\nx: 1\n", "has a header that is wrong: "),
    ],
)
def test_what_is_no_experiment(folder, content, words):
    (folder / "wrong.yaml").write_bytes(content)
    with pytest.raises(DiscernError) as caught:
        composed("experiment=wrong.yaml")
    assert str(caught.value).startswith(f"experiment=wrong.yaml {words}")
    assert "\n" not in str(caught.value)


def test_a_link_to_another_folder_is_not_followed(folder):
    (folder / "private.yaml").write_text("a: 1\n")
    (folder / "sweep" / "link.yaml").symlink_to(folder / "private.yaml")
    sentence = explained("sweep/link.yaml")
    assert sentence == "experiment=sweep/link.yaml cannot be read (it leads out of its folder)."


def test_a_wrong_choice_in_a_file(folder):
    (folder / "wrong.yaml").write_text("defaults:\n  - override /model: mpl\n")
    assert explained("wrong").startswith("model=mpl is not a choice; did you mean mlp")


@pytest.mark.parametrize("choice", ["missing/best.yaml", "wrong.yaml"])
def test_the_command_refuses(tmp_path, choice):
    (tmp_path / "wrong.yaml").write_text("- a list\n")
    done = invoke("train", f"experiment={choice}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: experiment={choice} ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


# Whole commands


def test_completion_offers_settings_after_a_file_and_files_for_one(folder, monkeypatch, capsys):
    def completions(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        main(["-sc", "query=bash"])
        return capsys.readouterr().out.split()

    assert completions("discern train experiment=sweep/best optimizer.mom") == [
        "optimizer.momentum="
    ]
    assert completions("discern train experiment=mnist_") == [
        "experiment=mnist_best",
        "experiment=mnist_sgd",
    ]


def test_a_sweep_over_a_file_and_a_recipe(folder):
    done = invoke(
        "train",
        "-m",
        *QUICK,
        "experiment=sweep/best.yaml,mnist_best",
        "optimizer.lr=0.25,0.5",
        "hydra.launcher.n_jobs=2",
        "hydra.sweep.dir=out",
        "report=false",
        cwd=folder,
        draws=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [path.parent for path in (folder / "out").glob("*/summary.json")]
    jobs = [job for job in jobs if job.name != "best"]
    assert sorted(summary(job)["name"] for job in jobs) == ["best", "best"] + ["mnist_best"] * 2
    for job in jobs:
        assert len(metrics_csv(job)) == 2
        target = "SGD" if summary(job)["name"] == "best" else "AdamW"
        assert f"torch.optim.{target}" in (job / "config.yaml").read_text()


# Names in a file that stand for nothing


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimzer: {lr: 0.1}", "optimzer is not a setting; did you mean optimizer?"),
        ("sed: 3", "sed is not a setting; did you mean seed?"),
        ("widths: {first: 3}", "widths is not a setting"),
        ("accelerator: gpu", "accelerator is a group, not a setting"),
        (
            "callbacks: {early_stoping: {patience: 3}}",
            "callbacks.early_stoping has no _target_; did you mean early_stopping",
        ),
        ("callbacks: {early_stopping: 3}", "callbacks.early_stopping"),
        ("logger: {tensorbord: {name: a}}", "did you mean tensorboard"),
    ],
)
def test_a_name_in_a_file_that_stands_for_nothing_is_refused(folder, text, sentence):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(DiscernError) as caught:
        check(composed("experiment=mine.yaml"))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "width: 9\nmodel: {hidden: ['${width}']}",
        "layers: {first: 9}\nmodel: {hidden: ['${layers.first}']}",
        "note: what I tried",
        "callbacks: {early_stopping: null}",
    ],
)
def test_settings_of_ones_own_are_allowed_in_a_file(folder, text):
    (folder / "mine.yaml").write_text(text)
    check(composed("experiment=mine.yaml"))
