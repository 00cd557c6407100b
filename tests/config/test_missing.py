from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discern.config.missing import check_all, missing
from discern.data.published import fetch, wanted
from discern.data.published.fetch import NO_ANSWER
from discern.errors import DiscernError
from run_files import composed, environment
from starter import invoke

NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
MISSION = ("model=densenet_transfer", "data=catdog", "trainer.accelerator=gpu")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without GPU, weights, data and network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("DISCERN_DATA_DIR", raising=False)
    monkeypatch.setattr(fetch, "unavailable", lambda urls, _: dict.fromkeys(urls, "no route"))
    return tmp_path


def told(*overrides: str, command: str = "train") -> list[str]:
    try:
        check_all(composed(*overrides), command)
    except DiscernError as error:
        return str(error).split("\n")
    return []


# A problem: how it comes about, what is there without it, and how its sentence begins.
PROBLEMS = {
    "device": ("trainer.accelerator=gpu", "", "trainer.accelerator=gpu is not allowed; this mach"),
    "weights": ("", "model.weights=null", "model.weights=default needs densenet121-"),
    "data": ("data=catdog", "data.source=sample", "Cats and dogs are not in data, and https://"),
    "start": ("ckpt_path=nowhere", "", "ckpt_path=nowhere does not exist; "),
    "origin": ("model.init_from=no", "", "model.init_from=no does not exist; "),
    "lr": ("optimizer.lr=-1", "", "optimizer.lr=-1 is not allowed; "),
    "batch": ("data.batch_size=0", "", "data.batch_size=0 is not allowed; "),
    "name": ("+seeed=1", "", "seeed is not a setting; did you mean seed?"),
    "large": (f"seed={2**64}", "", f"seed={2**64} is not allowed; "),
    "dropout": ("model.dropout=2", "", "model.dropout=2 is not allowed; "),
}


@given(st.sets(st.sampled_from([*PROBLEMS])))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_problems_together_are_each_one_sentence(bare, present):
    choices = [PROBLEMS[name][0 if name in present else 1] for name in PROBLEMS]
    sentences = told("model=densenet_transfer", *filter(None, choices))
    assert len(sentences) == len(present), sentences
    for name in present:
        assert sum(each.startswith(PROBLEMS[name][2]) for each in sentences) == 1, sentences


def test_all_that_the_mission_lacks_is_said_at_once_and_nothing_is_left(tmp_path):
    environ = {**NO_NETWORK, "TORCH_HOME": str(tmp_path / "torch"), "CUDA_VISIBLE_DEVICES": ""}
    done = invoke("train", *MISSION, cwd=tmp_path, **environ)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split()[1] for line in lines] == [
        "trainer.accelerator=gpu",
        "model.weights=default",
        "Cats",
    ]
    assert all(line.startswith("Error: ") for line in lines)
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    assert f"curl -O https://download.pytorch.org/models/{kept.name} " in lines[1]
    assert str(kept) in lines[1]
    assert "set data.dir or DISCERN_DATA_DIR to a folder that has Cat_Dog_data" in lines[2]
    assert [*tmp_path.iterdir()] == []


def test_torch_is_not_imported_to_say_so(tmp_path):
    program = (
        "import sys\n"
        "from discern.commands.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print([n for n in ('torch', 'numpy', 'lightning') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "train", *MISSION, "model.weights=no.pth"],
        cwd=tmp_path,
        env=environment(**NO_NETWORK, CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_what_is_there_is_no_problem(bare):
    weights = bare / "torch" / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (bare / "data" / "PetImages").mkdir(parents=True)
    assert told(*MISSION[:2]) == []
    assert told() == []  # MNIST's sample


@pytest.mark.parametrize(
    ("choice", "there", "sentence"),
    [
        ("data=fashion_mnist data.source=full", "", "Fashion-MNIST is not in data and cannot be"),
        ("data.source=full", "", "MNIST is not in data and cannot be downloaded (https://oss"),
        ("data=cifar10", "", "CIFAR-10 is not in data, and https://www.cs.toronto.edu/"),
        ("data=cifar100", "cifar-10-batches-py", "CIFAR-100 is not in data, and https://www.cs."),
        ("data=cifar10", "cifar-10-python.tar.gz", ""),
        ("data=oxford_pets", "oxford-iiit-pet/annotations", "Oxford-IIIT Pet is not in data, and"),
        ("data=image_folder data.dir=data", "", "data.dir=data does not exist; "),
        ("data=image_folder data.dir=data", "cat", ""),
        ("data=imagenet_folder", "", "data.dir=data does not exist; it must be a folder"),
    ],
)
def test_each_data_set_is_looked_for(bare, monkeypatch, choice, there, sentence):
    monkeypatch.setattr(wanted.FASHION_MNIST.__class__, "find", lambda *_: None)
    if there:
        (bare / "data" / there).mkdir(parents=True)
    for command in ("train", "inspect"):
        said = (
            told(*choice.split())
            if command == "train"
            else missing(composed(*choice.split()), command)
        )
        assert len(said) == bool(sentence), said
        assert not said or said[0].startswith(sentence)


def test_a_data_folder_that_is_a_file_is_said_too(bare):
    (bare / "data").write_text("")
    assert told("data=catdog") == ["data.dir=data is a file; it must be a folder of pictures."]


def test_weights_that_are_no_file_or_package(bare, monkeypatch):
    assert told("model=vit_transfer", "model.weights=no.pth") == [
        "model.weights=no.pth is not a file; it must be default, null, or a file of weights."
    ]
    assert told("model=vit_transfer", "model.weights=best")[0].startswith("model.weights=best ")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert told("model=timm_transfer")[0].startswith("model.library=timm needs the package timm,")


def test_a_server_that_is_silent_is_named_only_if_the_run_cannot_begin_anyhow(bare, monkeypatch):
    monkeypatch.setattr(fetch, "unavailable", lambda urls, _: dict.fromkeys(urls, NO_ANSWER))
    assert told("data=catdog") == []
    assert len(told("data=catdog", "trainer.accelerator=gpu")) == 2


def test_a_server_that_refuses_the_question_may_have_the_file(bare, monkeypatch):
    reason = "HTTP status 405"
    monkeypatch.setattr(fetch, "unavailable", lambda urls, _: dict.fromkeys(urls, reason))
    assert told("data=catdog", "model=densenet_transfer") == []


@pytest.mark.parametrize(
    ("command", "overrides", "beginnings"),
    [
        (
            "evaluate",
            ("ckpt_path=no", "engine=x", "data=catdog"),
            ["engine=x ", "ckpt_path=no does not exist", "Cats and dogs are not in "],
        ),
        ("predict", ("ckpt_path=last", "input=no"), ["ckpt_path=last needs a run", "input=no is"]),
        (
            "inspect",
            ("data=image_folder", "data.dir=no", "data.batch_size=x"),
            ["data.batch_size=x ", "data.dir=no does not exist"],
        ),
    ],
)
def test_other_commands_say_all_at_once_too(tmp_path, command, overrides, beginnings):
    done = invoke(command, *overrides, cwd=tmp_path, **NO_NETWORK)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(beginnings), done.stderr
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(f"Error: {beginning}")
    assert [*tmp_path.iterdir()] == []
