from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from discern.commands import cli
from discern.config.user_config import conf_dir
from made_runs import made_run
from run_files import (
    DISCERN,
    REPOSITORY,
    TRAIN,
    checkpoint,
    command,
    composed,
    environment,
    metrics_csv,
    same_bits,
    summary,
    weights,
)
from starter import begin, end, invoke, until

QUICK = ("data.source=sample", "trainer.accelerator=cpu", "debug=limit")


def refused(done: subprocess.CompletedProcess[str], cwd, *words: str) -> str:
    """Check that the command was refused in the promised way; return its sentence."""
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert not [path for path in cwd.rglob("*") if path.is_file() and path.parent.name != "data"]
    return done.stderr


# A setting that is wrong, and what the sentence must say of it


WRONG = {
    "optimizer.lr=-1": ["optimizer.lr=-1 ", "above 0"],
    "optimizer.lr=abc": ["optimizer.lr=abc ", "a number"],
    "optimizer.lrr=1": ["optimizer.lrr ", "did you mean optimizer.lr"],
    "model.hidden=[0]": ["model.hidden=[0] ", "[128,64]"],
    "model.hidden=-3": ["model.hidden=-3 ", "a list"],
    "model.activation=swishh": ["model.activation=swishh ", "relu", "did you mean hardswish"],
    "model.dropout=1.5": ["model.dropout=1.5 ", "below 1"],
    "data.batch_size=0": ["data.batch_size=0 ", "above 0"],
    "data.val_size=99999999": ["data.val_size=99999999 ", "fraction"],
    "data.num_workers=-1": ["data.num_workers=-1 ", "from 0 to 1024"],
    "modle=mlp": ["modle ", "did you mean model"],
    "model=mpl": ["model=mpl ", "did you mean mlp"],
    "trainer.max_epoch=3": ["trainer.max_epoch ", "did you mean trainer.max_epochs"],
    "seed=x": ["seed=x ", "a whole number"],
    "ckpt_path=missing.ckpt": ["ckpt_path=missing.ckpt ", "does not exist"],
    "train=false": ["train=false ", "ckpt_path=FILE"],
    "nonsense": ["nonsense ", "SETTING=VALUE"],
    "seed=1,2": ["seed=1,2 ", "-m", "[1,2]"],
    "~model": ["model"],
    "trainer.max_time=soon": ["trainer.max_time=soon ", "DD:HH:MM:SS"],
    "hydra.run.dir=data/file/run": ["data/file/run", "hydra.run.dir"],
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_setting_is_one_sentence(tmp_path, override):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("no folder")
    done = invoke("train", override, cwd=tmp_path)
    refused(done, tmp_path, *WRONG[override])


@pytest.mark.parametrize(
    ("overrides", "beginnings"),
    [
        (
            ["model=mpl", "data=mnits", "optimizer.lr=-1"],
            ["data=mnits is not a ", "model=mpl is not a ", "optimizer.lr=-1 is not allowed"],
        ),
        (
            ["seed=1,2", "modle.dropout=2", "optimzer=adam", "ckpt_path=no"],
            ["seed=1,2 is several ", "modle.dropout is not ", "optimzer is not ", "ckpt_path=no "],
        ),
        (["seed=-1", "train=1", "nonsense"], ["nonsense cannot be ", "seed=-1 ", "train=1 "]),
    ],
)
def test_several_mistakes_are_a_sentence_each(tmp_path, overrides, beginnings):
    done = invoke("train", *overrides, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(beginnings), done.stderr
    for beginning in beginnings:
        assert any(line.startswith(f"Error: {beginning}") for line in lines), done.stderr
    assert [*tmp_path.iterdir()] == []


def test_the_traceback_is_there_for_who_wants_it(tmp_path):
    done = command(TRAIN, "optimizer.lr=-1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr
    assert "Error: optimizer.lr=-1 is not allowed" in done.stderr.splitlines()[-1]


def test_what_the_machine_does_not_allow_is_one_sentence_too(tmp_path):
    """Known only once torch is there, after the run has its folder."""
    settings = ("trainer.accelerator=cpu", "trainer.devices=4096", "hydra.run.dir=run")
    done = invoke("train", *settings, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: trainer.devices=4096 "), done
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert "Traceback" not in (tmp_path / "run" / "train.log").read_text()
    facts = summary(tmp_path / "run")
    assert facts["state"] == "failed"
    assert facts["reason"].startswith("trainer.devices=4096 ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    (tmp_path / "outputs").mkdir(mode=0o500)
    refused(invoke("train", cwd=tmp_path), tmp_path, "outputs", "hydra.run.dir")


def test_a_trainer_for_a_gpu_on_a_machine_without_one_is_one_sentence(tmp_path):
    settings = ("trainer=gpu", "data.source=sample", "hydra.run.dir=run")
    done = invoke("train", *settings, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: trainer.accelerator=gpu "), done
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("typed", [["discern", "train", "seed=3"], ["train.py", "seed=3"]])
def test_a_run_can_be_started_once_more_for_each_of_its_processes(tmp_path, monkeypatch, typed):
    """Lightning starts them with the words that this process has been started with."""
    started: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", typed)
    monkeypatch.setattr(cli, "_run_job", lambda name, cfg: started.append([*sys.argv]))
    (cli.main if typed[0] == "discern" else cli.train)()
    assert started == [typed]


# What is cheap stays cheap: nothing heavy is imported


CHEAP = {
    "train --cfg job": (0, "batch_size: 64"),
    "train --help": (0, "Choices, by group"),
    "--help": (0, "Commands:"),
    "train model.hidden=-3": (1, "Error: model.hidden=-3"),
    "train model=mpl": (1, "Error: model=mpl"),
    "train trainer.max_epoch=3": (1, "Error: trainer.max_epoch"),
    "-sc query=bash": (0, "model="),
    "runs": (0, "Runs in outputs: none"),
    "runs prune": (1, "Error: discern runs prune needs keep=N"),
    "cache list": (0, "Features in "),
    "compare a b": (1, "Error: a does not exist"),
    "card a": (1, "Error: a does not exist"),
    "report x": (1, "Error: x is not a folder"),
    "dashboard --help": (0, "port="),
    "serve --help": (0, "port="),
    "serve ckpt_path=x": (1, "Error: ckpt_path=x does not exist"),
    "doctor": (0, "Versions"),
    "schema": (0, "schemas"),
}


@pytest.mark.parametrize("line", CHEAP)
def test_nothing_heavy_is_imported(tmp_path, line):
    status, says = CHEAP[line]
    program = (
        "import atexit, sys\n"
        "heavy = 'torch lightning torchmetrics torchvision numpy matplotlib scipy jinja2'.split()\n"
        "atexit.register(lambda: print('IMPORTED', [m for m in heavy if m in sys.modules]))\n"
        "from discern.commands.cli import main\n"
        "main()\n"
    )
    done = command(
        [sys.executable, "-c", program], *line.split(), cwd=tmp_path, COMP_LINE="discern train mod"
    )
    assert done.returncode == status
    assert says in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_the_help_of_the_command_needs_not_even_hydra(tmp_path):
    program = (
        "import sys\nfrom discern.commands.cli import main\nmain()\n"
        "print('IMPORTED', [m for m in ('hydra', 'pydantic', 'omegaconf') if m in sys.modules])"
    )
    done = command([sys.executable, "-c", program], "--help", cwd=tmp_path)
    assert done.stdout.endswith("IMPORTED []\n")


# Help


def test_the_help_page_lists_every_group_with_its_choices(tmp_path):
    done = invoke("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for folder in conf_dir().iterdir():
        if folder.is_dir() and folder.name != "hydra":
            (line,) = re.findall(rf"^ *{folder.name}: (.*)$", done.stdout, re.MULTILINE)
            assert set(line.split(", ")) == {path.stem for path in folder.glob("*.yaml")}
    commands = re.findall(r"^  (python train\.py.*?)(?:  |$)", done.stdout, re.MULTILINE)
    assert len(commands) >= 6
    assert not list(tmp_path.iterdir())


def test_the_commands_that_the_help_page_tries_compose(tmp_path):
    """Each without what it needs a file for, and as a single run."""
    page = invoke("train", "--help", cwd=tmp_path).stdout
    shown = re.findall(r"^  python train\.py(.*?)(?:  .*)?$", page, re.MULTILINE)
    assert shown
    for line in shown:
        words = shlex.split(line)
        words = [word for word in words if not word.startswith(("-", "ckpt_path", "job"))]
        words = [word.partition(",")[0] if "[" not in word else word for word in words]
        composed(*(word for word in words if "=" in word))


def test_the_help_of_the_command(tmp_path):
    for arguments in ([], ["--help"], ["-h"]):
        done = invoke(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert "train" in done.stdout
        assert done.stderr == ""


def test_the_version(tmp_path):
    from discern import __version__

    assert command(DISCERN, "--version", cwd=tmp_path).stdout == f"discern {__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "hint"), [("trian", "did you mean train"), ("xyz", "there are ")]
)
def test_an_unknown_command_is_one_sentence(tmp_path, wrong, hint):
    refused(invoke(wrong, cwd=tmp_path), tmp_path, f"{wrong} is not a command", hint)


def test_cfg_job_prints_the_composed_config_and_leaves_nothing(tmp_path):
    done = invoke("train", "--cfg", "job", "-p", "optimizer", "optimizer=sgd", cwd=tmp_path)
    assert "_target_: torch.optim.SGD" in done.stdout
    assert not list(tmp_path.iterdir())


# Shell completion


def completions(line: str, cwd) -> set[str]:
    done = invoke("-sc", "query=bash", cwd=cwd, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_completion_knows_commands_groups_choices_and_settings(tmp_path):
    assert completions("discern tr", tmp_path) == {"train"}
    assert {"model=", "optimizer="} <= completions("discern train ", tmp_path)
    assert completions("discern train optimizer=", tmp_path) == {
        "optimizer=adam",
        "optimizer=adamw",
        "optimizer=sgd",
    }
    assert completions("discern train trainer.max_e", tmp_path) == {"trainer.max_epochs="}
    assert completions("discern train seed=3 model=m", tmp_path) == {"model=mlp"}
    assert completions("discern schema o", tmp_path) == {"out="}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_by_a_script(tmp_path, shell):
    done = invoke("-sc", f"install={shell}", cwd=tmp_path)
    assert done.returncode == 0
    assert "discern" in done.stdout
    assert "query=" in done.stdout


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="no bash")  # noqa: PTH110
def test_bash_accepts_the_completion_script(tmp_path):
    script = command(DISCERN, "-sc", "install=bash", cwd=tmp_path).stdout
    done = subprocess.run(
        ["/bin/bash", "-c", f"{script}\ncomplete -p"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "discern" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "model=mlp --cfg job optimizer=sgd -p optimizer optimizer.lr=7",
        "--cfg job --package optimizer optimizer=sgd model=mlp optimizer.lr=7",
        "optimizer=sgd optimizer.lr=7 -p optimizer -c job",
    ],
)
def test_options_and_overrides_stand_in_any_order(tmp_path, arguments):
    done = invoke("train", *arguments.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_target_: torch.optim.SGD\nlr: 7\n" in done.stdout


def test_an_option_that_may_have_a_value_takes_no_override_for_it(tmp_path):
    for value, plugins in (([], True), (["defaults"], False)):
        done = invoke("train", "--info", *value, "model=fc", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "model/fc" in done.stdout
        assert ("Installed Hydra Plugins" in done.stdout) == plugins


# Ctrl-C while packages are imported


SLOW = """\
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(60)
"""


TORCH, SAVED = "Loading torch and lightning …", "ckpt_path=model.safetensors"


@pytest.mark.parametrize(
    ("program", "package", "said"),
    [
        ([*TRAIN], "torch", [TORCH]),
        ([*DISCERN, "train"], "torch", [TORCH]),
        ([*DISCERN, "evaluate", SAVED], "torch", [TORCH]),
        ([*DISCERN, "predict", SAVED, "input=."], "torch", [TORCH]),
        ([*DISCERN, "report", "run"], "matplotlib", ["Loading matplotlib …"]),
        ([*DISCERN, "compare", "run", "other"], "scipy", ["Loading matplotlib and scipy …"]),
        ([*DISCERN, "train"], "hydra", []),
    ],
)
def test_ctrl_c_while_a_package_is_imported(tmp_path, program, package, said):
    """A package of that name, found before the real one, takes a minute to import."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / f"{package}.py").write_text(SLOW)
    (tmp_path / "model.safetensors").touch()
    for name in ("run", "other"):
        made_run(tmp_path / name)
    path = os.pathsep.join([str(tmp_path / "slow"), *sys.path])
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        program, cwd=tmp_path, env=environment(PYTHONPATH=path), stderr=terminal
    ) as process:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, os.read(ours, 10_000)
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert os.read(ours, 10_000).decode().splitlines() == [*said, "Interrupted."]
    os.close(ours)
    os.close(terminal)


# Whole runs


def test_a_sweep_has_a_folder_for_each_run_and_experiments_come_by_pattern(tmp_path):
    done = invoke("train", "-m", *QUICK, "experiment=glob(mnist_s*)", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "outputs").glob("*/*_sweep")
    folders = [sweep / "seed=1", sweep / "seed=2"]
    assert [summary(folder)["seed"] for folder in folders] == [1, 2]
    assert not same_bits(weights(folders[0]), weights(folders[1]))
    assert all(len(metrics_csv(folder)) == 2 for folder in folders)
    assert "torch.optim.SGD" in (folders[0] / "config.yaml").read_text()
    assert not (tmp_path / "data").exists()


def test_wrong_settings_of_a_sweep_are_told_in_a_sentence_each(tmp_path):
    # The flag may stand anywhere.
    done = invoke("train", *QUICK, "-m", "optimizer.lr=-1,-2", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "Error: optimizer.lr=-1 is not allowed" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 of 2 jobs failed."


def test_a_named_folder_is_used_and_not_used_twice(tmp_path):
    done = invoke("train", *QUICK, "hydra.run.dir=my run/1", "test=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "my run" / "1")["metrics"].keys() == {"train", "val"}
    before = (tmp_path / "my run" / "1" / "summary.json").read_bytes()
    again = invoke("train", *QUICK, "hydra.run.dir=my run/1", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: hydra.run.dir=my run/1 is not empty")
    assert (tmp_path / "my run" / "1" / "summary.json").read_bytes() == before


def test_signals_end_a_run_gracefully(tmp_path):
    endless = ("data.source=sample", "trainer.accelerator=cpu", "trainer.max_epochs=-1")
    wishes = {signal.SIGINT: (130, "by Ctrl-C"), signal.SIGTERM: (143, "by SIGTERM")}
    running = {}
    for number, (_, reason) in wishes.items():
        streams = [(tmp_path / f"{reason} {name}").open("w+") for name in ("in", "out", "err")]
        process = begin(
            tmp_path, "train", *endless, "callbacks.early_stopping=null", f"hydra.run.dir={reason}",
            streams=tuple(stream.fileno() for stream in streams),
        )  # fmt: skip
        running[number] = process
    for number, process in running.items():
        until((tmp_path / wishes[number][1] / "metrics.csv").exists, process)
        os.kill(process, number)
    for number, process in running.items():
        status, reason = wishes[number]
        ended = end(process)
        out, err = ((tmp_path / f"{reason} {name}").read_text() for name in ("out", "err"))
        assert ended == status, (out, err)
        assert err == ""
        facts = summary(tmp_path / reason)
        assert (facts["state"], facts["reason"]) == ("interrupted", reason)
        assert facts["epochs"] >= 1
        assert facts["metrics"].keys() == {"train", "val"}
        saved = checkpoint(tmp_path / reason)
        assert saved["global_step"] == facts["steps"]
        assert f"Results: {reason}" in out.splitlines()
        assert (tmp_path / reason / "report.html").stat().st_size


@pytest.mark.parametrize("typed", [("--config-name", "evaluate"), ("-cn=predict.yaml",)])
def test_the_config_of_another_command_is_refused(tmp_path, typed):
    other = typed[-1].partition("=")[2] or typed[-1]
    done = invoke("train", *typed, cwd=tmp_path)
    refused(done, tmp_path, f"discern {other.removesuffix('.yaml')} runs it")


@pytest.mark.slow
def test_a_process_of_its_own_ends_quietly(tmp_path):
    """Also as its interpreter ends, which forked commands leave out."""
    quick = ("data.source=sample", "data.fraction=0.1", "trainer.max_epochs=2")
    train = " ".join([*TRAIN, *quick, "hydra.run.dir=run"])
    done = command(["bash", "-c", f"{train} | head -1; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
    with subprocess.Popen(
        [*TRAIN, "data.source=sample", "trainer.max_epochs=-1", "hydra.run.dir=ended",
         "callbacks.early_stopping=null"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while not (tmp_path / "ended" / "metrics.csv").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (143, b"")


def test_the_entry_points_are_one(tmp_path):
    program = (REPOSITORY / "train.py").read_text()
    assert "discern.commands.cli" in program
    one = command(TRAIN, "--cfg", "job", cwd=tmp_path).stdout
    assert one == command(DISCERN, "train", "--cfg", "job", cwd=tmp_path).stdout
    module = [sys.executable, "-m", "discern", "train"]
    assert one == command(module, "--cfg", "job", cwd=tmp_path).stdout


CLOSED = """
import os, sys
from discern.commands.cli import main
os.close(1), os.close(2)
sys.stdout = sys.stderr = None
main(sys.argv[1:])
"""


def test_a_run_needs_no_standard_streams(tmp_path):
    words = ("data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "logger=csv")
    words += ("trainer.accelerator=cpu", "trainer.max_epochs=1", "hydra.run.dir=run", "threads=1")
    done = invoke("-c", CLOSED, "train", *words, cwd=tmp_path, draws=False)
    assert done.returncode == 0
    assert summary(tmp_path / "run")["state"] == "done"
    assert "Traceback" not in (tmp_path / "run" / "train.log").read_text()
