from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from discern.runs.folder import read_run
from discern.runs.holding import LOCK as RUN_LOCK
from made_runs import aged, made_run, made_sweep
from run_files import DISCERN, command, environment, in_process
from starter import invoke

Run = Callable[..., subprocess.CompletedProcess[str]]

HOSTILE = "a\x1b[31mred[red]"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """As ``discern runs``, in this process."""
        return in_process("runs", arguments, capfd)

    return run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Four runs, of which the third is the newest and the second the best."""
    folder = tmp_path / "outputs"
    made_run(folder / "day1" / "first", metrics={"val": {"loss": 0.4}}, minute=1, tags=["base"])
    made_run(folder / "day1" / "second", metrics={"val": {"loss": 0.2, "accuracy": 0.9}}, minute=2)
    made_run(
        folder / "day2" / "third", metrics={"val": {"loss": 0.3}}, minute=9, name="dropout",
        title="dropout on Fashion-MNIST", data={"title": "Fashion-MNIST"}, seconds={"total": 3.0},
        config={"optimizer": {"lr": 0.01}},
    )  # fmt: skip
    made_run(folder / "day2" / "fourth", metrics={}, minute=5, state="failed", reason="no luck")
    return folder


def listed(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The runs of a table, in its order."""
    assert (done.returncode, done.stderr) == (0, "")
    return re.findall(r"^day\d/(\w+)", done.stdout, re.MULTILINE)


# The list


def test_the_list_is_newest_first_with_what_is_known(run, outputs):
    done = run()
    assert listed(done) == ["third", "fourth", "second", "first"]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "/" in line}
    local = read_run(outputs / "day1" / "second").began
    assert rows["day1/second"][1:3] == [f"{local:%Y-%m-%d}", f"{local:%H:%M}"]
    assert rows["day1/second"][3:9] == ["done", "mlp", "MNIST", "0.2000", "0.9000", "–"]
    assert rows["day1/second"][9:13] == ["1", "min", "5", "s"]
    assert rows["day1/first"][-1] == "base"
    assert rows["day2/fourth"][3] == "failed"
    assert "\n4 runs in outputs\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["state=failed"], ["fourth"]),
        (["model=dropout"], ["third"]),
        (["model=drop*"], ["third"]),
        (["data=fashion_mnist"], ["third"]),
        (["data=mnist"], ["fourth", "second", "first"]),
        (["tag=base"], ["first"]),
        (["optimizer.lr=1e-2"], ["third"]),
        (["optimizer.lr=0.001", "state=done"], ["second", "first"]),
        (["sort=val/loss"], ["second", "third", "first", "fourth"]),
        (["sort=-val/loss"], ["first", "third", "second", "fourth"]),
        (["sort=val/accuracy"], ["second", "third", "fourth", "first"]),
        (["sort=name"], ["first", "second", "fourth", "third"]),
        (["sort=seconds"], ["fourth", "second", "first", "third"]),
        (["sort=-began", "limit=2"], ["first", "second"]),
        (["limit=1"], ["third"]),
        (["limit=0"], ["third", "fourth", "second", "first"]),
        (["dir=outputs/day1"], []),
    ],
)
def test_filters_sorting_and_limits(run, outputs, words, shown):
    assert listed(run(*words)) == shown


def test_what_is_left_out_is_said(run, outputs):
    assert "1 of 4 runs in outputs; limit=0 shows all" in run("limit=1").stdout
    assert "1 run in outputs, where 4 are without the filters" in run("tag=base").stdout
    assert run("tag=none").stdout == "Runs in outputs: none of 4 that the filters let through\n"


def test_a_table_has_twenty_runs_and_json_all(run, tmp_path):
    for number in range(23):
        made_run(tmp_path / "outputs" / f"run{number:02}", minute=number)
    done = run()
    assert done.stdout.count("\nrun") == 20
    assert "20 of 23 runs" in done.stdout
    found = json.loads(run("--json").stdout)
    assert [Path(one["folder"]).name for one in found] == [f"run{n:02}" for n in range(22, -1, -1)]
    assert len(json.loads(run("--json", "limit=3").stdout)) == 3


def test_json_has_what_is_known(run, outputs):
    (one,) = json.loads(run("--json", "tag=base").stdout)
    folder = Path(one["folder"])
    assert folder == Path("outputs/day1/first")
    assert one["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert one["began"] == read_run(folder).began.isoformat()
    expected = {
        "state": "done", "reason": "2 of 2 epochs", "model": "mlp", "data": "MNIST",
        "fingerprint": "f" * 64, "seconds": 65.0, "epochs": 2, "metrics": {"val/loss": 0.4},
        "tags": ["base"], "overrides": ["trainer.max_epochs=2"],
    }  # fmt: skip
    assert one.items() >= expected.items()


def test_nothing_there(run):
    assert run().stdout == "Runs in outputs: none\n"
    assert run("--json").stdout == "[]\n"


def test_jobs_of_a_sweep_are_runs_and_its_best_is_none_of_its_own(run, tmp_path):
    sweep = made_sweep(tmp_path / "outputs" / "sweep", [0.3, 0.1])
    (sweep / "best").mkdir()
    (sweep / "best" / "summary.json").symlink_to("../lr=1/summary.json")
    made_run(sweep / "lr=1" / "test", metrics={"test": {"accuracy": 0.99}})
    done = run("sort=val/loss")
    assert re.findall(r"^sweep/(\S+)", done.stdout, re.MULTILINE) == ["lr=1", "lr=0"]
    assert "0.9900" in done.stdout


def test_a_half_written_run_and_one_of_before_are_listed(run, tmp_path):
    outputs = tmp_path / "outputs"
    made_run(outputs / "going", state=None)
    made_run(outputs / "cut")
    (outputs / "cut" / "summary.json").write_text('{"state": "do')
    old = made_run(outputs / "old")
    (old / "summary.json").write_text('{"format": 1, "state": "done", "name": "fc", "metrics": []}')
    done = run("sort=name")
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()[2:5]}
    assert lines["going"][3:6] == ["unfinished", "mlp", "mnist"]
    assert lines["cut"][3] == "unfinished"
    assert lines["old"][3:6] == ["done", "fc", "mnist"]


def test_a_pruned_job_is_pruned(run, tmp_path):
    made_run(tmp_path / "outputs" / "hopeless", state="pruned", reason="in epoch 3: val/loss")
    made_run(tmp_path / "outputs" / "other")
    (one,) = json.loads(run("state=pruned", "--json").stdout)
    assert (one["folder"], one["state"]) == ("outputs/hopeless", "pruned")
    assert one["reason"] == "in epoch 3: val/loss"


def test_a_run_of_another_version_is_listed_and_stays(run, tmp_path):
    made_run(tmp_path / "outputs" / "old")
    (tmp_path / "outputs" / "old" / "summary.json").write_text('{"stopped": "it was done"}')
    made_run(tmp_path / "outputs" / "new")
    listed = run("sort=name").stdout
    assert re.search(r"^old .* unknown ", listed, re.MULTILINE)
    assert "old/summary.json is of another version of discern: it has no format" in listed
    assert "old stays: another version of discern" in run("prune", "keep=0", "yes=true").stdout
    assert left(tmp_path / "outputs") == {"old"}


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "[" * 100_000, '{"tags": 3, "metrics": {"val": 7, "test": {"loss": "x"}}, '
     '"seconds": [], "began": 5, "data": [], "name": [], "format": 1, "state": {}, "reason": {}}',
     '{"format": 1, "state": "not run", "began": "soon", '
     '"metrics": {"val": {"loss": NaN, "accuracy": 1e999}}, "seconds": {"total": -1}}'],
)  # fmt: skip
def test_a_summary_that_makes_no_sense_is_no_crash(run, tmp_path, content):
    folder = made_run(tmp_path / "outputs" / "odd")
    (folder / "summary.json").write_text(content)
    assert "\nodd " in run().stdout
    (one,) = json.loads(run("--json").stdout)
    assert one["metrics"] == {}


@pytest.mark.parametrize(
    "config", ["[" * 50_000, "- " * 5_000 + "a", "&a [*a, *a]", "a: !!python/object:os.system {}",
               "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]"
                                           for n in range(1, 60))]), ": : :"]
)  # fmt: skip
def test_settings_that_make_no_sense_are_none(run, tmp_path, config):
    folder = made_run(tmp_path / "outputs" / "odd", state=None)
    (folder / "config.yaml").write_text(config)
    assert read_run(folder).config == {}
    assert "\nodd " in run().stdout


def test_names_are_shown_and_do_nothing(run, tmp_path):
    made_run(
        tmp_path / "outputs" / HOSTILE, title=HOSTILE, name=HOSTILE, tags=[f"{HOSTILE}\nline"],
        data={"title": HOSTILE},
    )  # fmt: skip
    plain = os.fsencode(tmp_path / "outputs" / HOSTILE)
    os.rename(plain, plain + b"\xff\x9b")  # noqa: PTH104 - a name that is no UTF-8
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert not {"\x1b", "\x9b"} & set(done.stdout)
    assert done.stdout.count("?[31mred[red]") == 4
    assert "\\xff" in done.stdout
    text = run("--json").stdout
    assert text.isascii()
    assert "\x1b" not in text
    assert Path(json.loads(text)[0]["folder"]).is_dir()
    assert "\x1b" not in run("prune", "keep=0", "yes=true").stdout


def test_a_narrow_terminal_has_lines_that_fit(run, outputs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = run()
    assert listed(done) == ["third", "fourth", "second", "first"]
    assert max(map(len, done.stdout.splitlines())) <= 60
    head, rule, *_ = done.stdout.splitlines()
    assert head.split() == ["run", "state", "val/loss", "val/accuracy", "test/accuracy"]
    assert set(rule) == {"─"}
    left_out = "Not shown on this narrow terminal: tags, size, time, began, data, model."
    assert left_out in " ".join(done.stdout.split())


def test_a_pipe_gets_a_line_a_run(outputs, tmp_path):
    (outputs / "day1").rename(outputs / ("day" + "9" * 150))
    done = invoke("runs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([line for line in done.stdout.splitlines() if line.startswith("day")]) == 4


def test_a_reader_that_has_seen_enough_is_no_mistake(tmp_path):
    for number in range(400):
        made_run(tmp_path / "outputs" / (f"{number:03}" + "x" * 200))
    piped = f"{DISCERN[0]} runs limit=0 --json | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = command(["bash", "-c", piped], cwd=tmp_path)
    assert done.stderr == ""


# prune


def left(outputs: Path) -> set[str]:
    return {path.parent.name for path in outputs.rglob("config.yaml")}


def test_prune_shows_what_goes_and_keeps_the_best(run, outputs):
    done = run("prune", "keep=2", "yes=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert left(outputs) == {"second", "third"}
    assert re.findall(r"^day\d/(\w+)", done.stdout, re.MULTILINE) == ["first", "fourth"]
    assert "0.4000" in done.stdout
    assert done.stdout.endswith("2 deleted.\n")
    assert {path.name for path in outputs.iterdir()} == {"day1", "day2"}


def test_folders_that_are_empty_then_go_too_but_never_the_outputs(run, outputs):
    (outputs / "day1" / "notes.txt").write_text("mine")
    run("prune", "keep=0", "yes=true")
    assert [path.name for path in outputs.rglob("*")] == ["day1", "notes.txt"]
    (outputs / "day1" / "notes.txt").unlink()
    made_run(outputs / "day1" / "again")
    run("prune", "keep=0", "yes=true")
    assert outputs.is_dir()
    assert list(outputs.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        (["keep=1", "by=val/accuracy"], {"second"}),
        (["keep=1", "by=began"], {"third"}),
        (["keep=0", "state=failed"], {"first", "second", "third"}),
        (["keep=1", "data=mnist"], {"second", "third"}),
        (["keep=1", "optimizer.lr=0.001", "state=done"], {"second", "third", "fourth"}),
        (["keep=9"], {"first", "second", "third", "fourth"}),
    ],
)
def test_prune_by_metrics_and_filters(run, outputs, words, stay):
    assert run("prune", *words, "yes=true").returncode == 0
    assert left(outputs) == stay


def test_without_anybody_to_ask_nothing_is_deleted(run, outputs):
    for words in (["keep=1"], ["keep=1", "yes=false"]):
        done = run("prune", *words)
        assert done.returncode == 1
        assert "day2/fourth" in done.stdout
        assert done.stderr.startswith("Error: Nothing was deleted: nobody can be asked here")
        assert done.stderr.count("\n") == 1
    assert len(left(outputs)) == 4


@pytest.mark.parametrize(
    ("answer", "stay"), [("y", 1), ("n", 4), ("", 4), ("\x04", 4), ("\x03", 4)]
)
def test_on_a_terminal_it_asks(outputs, tmp_path, answer, stay):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*DISCERN, "runs", "prune", "keep=1"], cwd=tmp_path, env=environment(COLUMNS="150"),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 10_000)
    assert b"day2/fourth" in said
    os.write(ours, answer.encode() + (b"" if answer == "\x04" else b"\n"))
    assert process.wait(60) == 0
    os.close(ours)
    assert len(left(outputs)) == stay


def test_what_may_still_run_stays(run, tmp_path):
    outputs = tmp_path / "outputs"
    going, dead = (made_run(outputs / name, state=None) for name in ("going", "dead"))
    aged(going, 30)
    aged(dead, 30)
    (going / "metrics.csv").write_text("epoch\n1\n")
    done = run("prune", "keep=0", "yes=true")
    assert left(outputs) == {"going"}
    assert "going stays: it has not ended, and was written to in the last 24 hours." in done.stdout
    assert dead.exists() is False


def test_a_sweep_goes_or_stays_as_a_whole(run, tmp_path):
    outputs = tmp_path / "outputs"
    made_sweep(outputs / "good", [0.9, 0.1])
    made_sweep(outputs / "bad", [0.8, 0.7])
    made_run(outputs / "single", metrics={"val": {"loss": 0.5}})
    done = run("prune", "keep=2", "yes=true")
    assert left(outputs) == {"single", "lr=0", "lr=1"}
    assert not (outputs / "bad").exists()
    assert re.search(r"^bad .* sweep of 2 jobs +0.7000", done.stdout, re.MULTILINE)
    summary = json.loads((outputs / "good" / "lr=0" / "summary.json").read_text())
    (outputs / "good" / "lr=0" / "summary.json").write_text(
        json.dumps({**summary, "state": "failed"})
    )
    run("prune", "keep=0", "state=failed", "yes=true")
    assert (outputs / "good").exists()


def test_a_sweep_that_is_at_work_or_has_just_begun_stays(run, tmp_path):
    outputs = tmp_path / "outputs"
    locked = made_sweep(outputs / "locked", [0.9])
    begun = made_sweep(outputs / "begun", [0.9, 0.8])
    aged(locked, 30)
    (begun / "lr=1").rename(tmp_path / "later")
    with FileLock(locked / ".sweep.lock"):
        done = run("prune", "keep=0", "yes=true")
    assert "locked stays: its sweep is running." in done.stdout
    assert "begun stays: it has not ended" in done.stdout
    aged(begun, 30)
    run("prune", "keep=0", "yes=true")
    assert list(outputs.iterdir()) == []


def test_a_run_that_goes_on_after_its_end_or_after_days_stays(run, tmp_path):
    outputs = tmp_path / "outputs"
    folders = [made_run(outputs / "again"), made_run(outputs / "silent", state=None)]
    for folder in folders:
        aged(folder, 30)
    with FileLock(folders[0] / RUN_LOCK), FileLock(folders[1] / RUN_LOCK):
        done = run("prune", "keep=0", "yes=true")
    assert "again stays: it is running." in done.stdout
    assert left(outputs) == {"again", "silent"}


def test_prune_follows_no_link_and_leaves_other_runs(run, tmp_path):
    outputs, elsewhere = tmp_path / "outputs", made_run(tmp_path / "elsewhere" / "mine")
    run_folder = made_run(outputs / "run")
    (outputs / "link").symlink_to(elsewhere.parent)
    (run_folder / "data").symlink_to(elsewhere)
    around = made_run(outputs / "around")
    made_run(around / "deep" / "inside")
    done = run("prune", "keep=0", "yes=true")
    assert (elsewhere / "config.yaml").exists()
    assert not run_folder.exists()
    assert "around stays: there are other runs in its folder." in done.stdout
    assert (around / "deep" / "inside" / "config.yaml").exists()


def test_prune_of_a_folder_in_a_sweep_is_refused(run, tmp_path):
    sweep = made_sweep(tmp_path / "outputs" / "sweep", [0.9])
    for folder in (sweep, sweep / "lr=0"):
        done = run("prune", "keep=0", "yes=true", f"dir={folder}")
        assert done.returncode == 1
        assert "is a run or a sweep itself" in done.stderr
    assert (sweep / "lr=0").exists()


def test_what_cannot_be_deleted_is_one_sentence(run, outputs, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    done = run("prune", "keep=0", "yes=true")
    assert done.returncode == 1
    assert done.stderr.endswith("cannot be used: Permission denied.\n")


# Words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sate=done"], "sate=done is not a setting of discern runs; did you mean state"),
        (["done"], "done is not a setting of discern runs"),
        (["state=dne"], "state=dne is not a state; did you mean done"),
        (["sort=val/los"], "sort=val/los is unknown; did you mean val/loss"),
        (["sort="], "sort= must not be empty"),
        (["limit=-1"], "limit=-1 must be a whole number, 0 or above."),
        (["limit=²"], "limit=² must be a whole number"),
        (["dir=/no/where"], "dir=/no/where must be a folder that exists."),
        (["dir="], "dir= must be a folder that exists."),
        (["optimizer.rate=1"], "optimizer.rate is not a setting of any of the 4 runs."),
        (["keep=3"], "keep=3 is not a setting of discern runs"),
        (["--jsn"], "--jsn is not a setting"),
        (["\x1b[31m=2"], "?[31m=2 is not a setting"),
        (["prune"], "discern runs prune needs keep=N"),
        (["prune", "keep=some"], "keep=some must be a whole number, 0 or above."),
        (["prune", "keep=1", "by=val/lss"], "by=val/lss is unknown; did you mean val/loss"),
        (["prune", "keep=1", "by=test/accuracy"], "by=test/accuracy is not allowed"),
        (["prune", "keep=1", "yes=1"], "yes=1 must be true or false."),
        (["prune", "keep=1", "--json"], "--json is not a setting"),
        (["prune", "keep=1", "a.b=1", "yes=true"], "a.b is not a setting of any"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_sentence_and_deletes_nothing(run, outputs, words, said):
    done = run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {said}")
    assert done.stderr.count("\n") == 1
    assert len(left(outputs)) == 4


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["prune", "--help"], ["help"]])
def test_help_does_nothing_else(run, outputs, words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: discern runs" in done.stdout
    assert len(left(outputs)) == 4


def test_the_command_imports_nothing_heavy(outputs, tmp_path):
    program = (
        "import sys\nfrom discern.commands.cli import main\nmain()\n"
        "heavy = 'torch', 'lightning', 'numpy', 'matplotlib', 'hydra', 'pydantic', 'scipy'\n"
        "print('IMPORTED', [name for name in heavy if name in sys.modules])\n"
    )
    for words in ([], ["--json"], ["prune", "keep=1", "yes=true"]):
        done = command([sys.executable, "-c", program], "runs", *words, cwd=tmp_path)
        assert done.stdout.endswith("IMPORTED []\n"), done
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("discern ru", {"runs"}),
        ("discern runs so", {"sort="}),
        ("discern runs pr", {"prune"}),
        ("discern runs --", {"--json"}),
        ("discern runs state=", {"state=done", "state=pruned", "state=diverged", "state=failed",
                                 "state=interrupted", "state=unfinished", "state=unknown"}),
        ("discern runs prune ", {"keep=", "by=", "dir=", "yes=", "state=", "model=", "data=",
                                 "tag="}),
    ],
)  # fmt: skip
def test_completion(tmp_path, line, words):
    done = invoke("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line)
    assert (done.returncode, set(done.stdout.split())) == (0, words)


def test_prune_leaves_what_only_has_a_summary(run, tmp_path):
    others = tmp_path / "outputs" / "photos"
    others.mkdir(parents=True)
    (others / "summary.json").write_text('{"state": "it was done"}')
    done = run("prune", "keep=0", "yes=true")
    assert "photos stays: it does not hold the config.yaml and overrides.yaml" in done.stdout
    assert (others / "summary.json").exists()
