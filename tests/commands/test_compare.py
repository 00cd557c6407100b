from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from discern.files.locks import locked
from discern.runs.holding import LOCK
from made_runs import keep_test, made_run, made_sweep
from run_files import command, in_process
from starter import invoke

Run = Callable[..., subprocess.CompletedProcess[str]]

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
WORSE = [0, 1, 2, 0, 1, 2, 1, 2, 0, 1]
BETTER = [0, 1, 2, 0, 1, 2, 0, 1, 2, 1]
HOSTILE = "a\x1b[31mred[red]<img src=x onerror=alert(1)>"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """As ``discern compare``, in this process."""
        return in_process("compare", arguments, capfd)

    return run


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two runs with another rate; the second is right of three images that the first is not."""
    outputs = tmp_path / "outputs" / "day"
    worse = made_run(outputs / "worse", minute=1)
    better = made_run(
        outputs / "better", minute=2, config={"optimizer": {"lr": 0.01}},
        metrics={"val": {"loss": 0.4, "accuracy": 0.85}, "test": {"accuracy": 0.9}},
    )  # fmt: skip
    keep_test(worse, LABELS, WORSE)
    keep_test(better, LABELS, BETTER, sure=0.8)
    return [str(worse), str(better)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """First word of a line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}


def test_two_runs_on_the_same_images(run, two, tmp_path):
    done = run(*two, "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "A = worse (mlp on MNIST, done)\nB = better (mlp on MNIST, done)" in done.stdout
    told = lines(done)
    assert told["optimizer.lr"] == ["0.001", "0.01"]
    assert "data.dir" not in told  # each run's own folder
    assert told["val/loss"] == ["0.5000", "0.4000"]
    assert "more accurate by 30.00 points" in done.stdout
    assert "They disagree on 3 of 10 test images." in done.stdout
    text = " ".join(done.stdout.split())
    assert "The 10 test images do not show whether A or B is better (McNemar's p = 0.2500)." in text
    assert done.stdout.endswith("Report: here/compare.html\n")
    one, other = rows(tmp_path / "here" / "compare.csv")
    assert (one["run"], one["optimizer.lr"], other["optimizer.lr"]) == ("A", "0.001", "0.01")
    assert other["test/accuracy"] == "0.9"
    assert float(other["test/accuracy low"]) == pytest.approx(0.5958, abs=1e-4)
    (pair,) = rows(tmp_path / "here" / "pairs.csv")
    assert [pair[name] for name in ("images", "only first right", "only second right")] == [
        "10", "0", "3"
    ]  # fmt: skip
    assert (pair["different predictions"], pair["difference"], pair["p"]) == ("3", "0.3", "0.25")
    with Image.open(tmp_path / "here" / "compare.png") as picture:
        assert picture.width > 300
    assert "<h1>worse and better</h1>" in (tmp_path / "here" / "compare.html").read_text()


def test_a_difference_that_is_sure_is_said_to_be_one(run, tmp_path):
    labels = [0] * 200
    for name, wrong in (("one", 60), ("two", 20)):
        folder = made_run(tmp_path / name)
        keep_test(folder, labels, [1] * wrong + [0] * (200 - wrong))
    text = " ".join(run("two", "one", "out=here").stdout.split())
    assert "less accurate by 20.00 points" in text
    assert "A is better than B on the test images: its accuracy is 20.00 percentage points" in text
    assert "McNemar's p < 0.0001" in text
    low, high = re.search(r"interval ([\d.]+) to ([\d.]+), McNemar", text).groups()
    assert 10 < float(low) < 20 < float(high) < 30


def test_the_default_folder_is_new_each_time(run, two):
    for _ in range(2):
        assert run(*two).returncode == 0
    assert len(list(Path("outputs").glob("*/*_compare*/compare.html"))) == 2
    assert run("outputs", "out=x").returncode == 0  # a comparison is no run


# Which runs


def called(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split()[2] for line in done.stdout.splitlines() if line.endswith(", done)")]


def test_words_for_runs(run, two, tmp_path, monkeypatch):
    made_run(tmp_path / "outputs" / "day" / "third", minute=9, metrics={"val": {"loss": 7}})
    made_sweep(tmp_path / "swept", [0.3, 0.1, 0.2])
    best = tmp_path / "swept" / "best"
    best.mkdir()
    for file in (tmp_path / "swept" / "lr=1").iterdir():
        (best / file.name).symlink_to(f"../lr=1/{file.name}")
    for words, names in (
        (["last", "best"], ["third", "better"]),
        (["outputs/day/*"], ["better", "third", "worse"]),
        (["outputs"], ["better", "third", "worse"]),
        ([two[0], "outputs/day/worse", "outputs/day/../day/worse", two[1]], ["worse", "better"]),
        (["swept"], ["lr=1", "lr=2", "lr=0"]),
        (["swept/best", "swept/lr=1", "swept/lr=0"], ["lr=1", "lr=0"]),
        (["swept/lr=0", "best", "dir=swept"], ["lr=0", "lr=1"]),
        (["**/third", "outputs/*/w*"], ["third", "worse"]),
        (["swept/2", "swept/0"], ["lr=2", "lr=0"]),
        (["swept", "top=2"], ["lr=1", "lr=2"]),
    ):
        assert called(run(*words, "out=here")) == names, words


def test_names_tell_folders_of_the_same_name_apart(run, tmp_path):
    for name in ("a/run", "b/run", "b/other"):
        made_run(tmp_path / name)
    assert called(run("a/run", "b/run", "b/other", "out=here")) == ["a/run", "b/run", "other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["outputs/day/worse"], "needs two runs or more, and this is one: outputs/day/worse."),
        (["outputs/day/worse"] * 2, "needs two runs or more, and this is one"),
        (["best"], "needs two runs or more, and this is one"),
        (["out=here"], "needs two runs or more"),
        (["outputs", "swept/3"], "swept has no job 3; its jobs are 0 to 2."),
        (["outputs", "test=yes"], "test=yes must be true or false."),
        (["outputs", "nowhere"], "nowhere does not exist; it must be the folder of a run"),
        (["outputs", "\x1b[31m"], "?[31m matches no folder of a run"),
        (["outputs", "\x1b31m"], "?31m does not exist"),
        (["outputs", "empty"], "empty is not the folder of a run: it has neither summary.json"),
        (["outputs", "empty/*"], "empty/* matches no folder of a run."),
        (["outputs", "outputs/day/worse/*"], "worse/* matches no folder of a run among"),
        (["outputs", "outputs/day/worse/config.yaml"], "config.yaml is not the folder of a run"),
        (["last", "dir=empty"], "last needs a run in empty, and there is none."),
        (["best", "dir=empty"], "best needs a run with a val/loss in empty, and there is none."),
        (["outputs", "dir=nowhere"], "dir=nowhere must be a folder that exists."),
        (["outputs", "out="], "out= must be a folder."),
        (["outputs", "out=file"], "out=file cannot be written"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(run, two, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    made_sweep(tmp_path / "swept", [0.3, 0.1, 0.2])
    (tmp_path / "file").write_text("")
    done = run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# What cannot be compared


def test_runs_on_other_test_images_are_told_and_not_tested(run, two, tmp_path):
    other = made_run(tmp_path / "other", data={"title": "Other", "fingerprint": "0" * 64})
    keep_test(other, LABELS[::-1], BETTER)
    done = run(two[0], "other", "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "The runs were tested on different images (A; B)" in text
    assert "The runs were trained on different data: the fingerprints differ." in text
    assert "McNemar" not in text
    assert "disagree" not in text
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"compare.csv", "compare.html"}
    # Of three, those on the same images are tested.
    done = run(*two, "other", "out=here")
    assert "The runs were tested on different images (A and B; C)" in " ".join(done.stdout.split())
    assert len(rows(tmp_path / "here" / "pairs.csv")) == 1
    # The files of a comparison before do not stay beside another's.
    run(two[0], "other", "out=here")
    assert not (tmp_path / "here" / "pairs.csv").exists()


def test_a_run_of_another_version_is_one_sentence(run, two, tmp_path):
    made_run(tmp_path / "other", format=2)
    done = run(*two, "other")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: other/summary.json is of a newer version of discern: ")


def test_a_digest_that_lies_about_the_images_is_no_crash(run, two, tmp_path):
    for number, labels in enumerate((LABELS[:4], LABELS[::-1])):
        folder = made_run(tmp_path / f"lie{number}")
        keep_test(folder, labels, labels, digest="0" * 64)
    done = run("lie0", "lie1", "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "different images (A; B)" in done.stdout


def test_a_half_written_run_and_one_of_before_are_compared_as_far_as_they_go(run, two, tmp_path):
    made_run(tmp_path / "going", state=None)
    old = made_run(tmp_path / "old")
    (old / "summary.json").write_text('{"format": 1, "state": "interrupted"}')
    (old / "config.yaml").unlink()
    (old / "metrics.csv").write_bytes(b"\xff\0epoch")
    broken = made_run(tmp_path / "broken")
    (broken / "test_predictions.safetensors").write_bytes(b"\xff" * 100)
    done = run(two[0], "going", "old", "broken", "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "B is still running, or died before it could record its end." in text
    assert "C did not finish: interrupted." in text
    assert "C has no readable settings." in text
    assert "B, C and D have no predictions for the test images" in text
    assert lines(done)["val/loss"] == ["0.5000", "–", "–", "0.5000"]
    assert "No setting differs." in done.stdout


def test_pictures_that_cannot_be_read_are_left_out(run, two, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    for folder in two:
        path = Path(folder) / "test_predictions.safetensors"
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata()
        tensors["thumbnails"] = tensors["thumbnails"][:40]
        save_file(tensors, path, about)
    done = run(*two, "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "They disagree on 3 of 10" in done.stdout
    assert not (tmp_path / "here" / "compare.png").exists()


def test_the_test_of_a_sweeps_best_is_found(run, two, tmp_path):
    sweep = made_sweep(tmp_path / "swept", [0.3])
    inside = made_run(sweep / "lr=0" / "test", metrics={"test": {"accuracy": 0.9}})
    keep_test(inside, LABELS, BETTER)
    done = run(two[0], "swept", "out=here")
    assert "They disagree on 3 of 10" in done.stdout
    assert lines(done)["test/accuracy"] == ["0.7500", "0.9000"]


# Many runs


def test_three_runs_are_compared_in_pairs_and_p_is_adjusted(run, two, tmp_path):
    third = made_run(tmp_path / "third")
    keep_test(third, LABELS, LABELS)
    run(*two, "third", "out=here")
    pairs = rows(tmp_path / "here" / "pairs.csv")
    assert [pair["first"] + pair["second"] for pair in pairs] == ["AB", "AC", "BC"]
    assert [float(pair["p"]) for pair in pairs] == [0.25, 0.125, 1.0]
    assert [float(pair["p adjusted"]) for pair in pairs] == [0.5, 0.375, 1.0]


def test_six_runs_are_compared_with_the_first(run, tmp_path):
    for number in range(6):
        folder = made_run(tmp_path / f"run{number}")
        keep_test(folder, LABELS, [*LABELS[:9], number % 3])
    done = run("run*", "out=here")
    assert called(done) == [f"run{number}" for number in range(6)]
    pairs = rows(tmp_path / "here" / "pairs.csv")
    assert [pair["first"] + pair["second"] for pair in pairs] == ["AB", "AC", "AD", "AE", "AF"]
    page = (tmp_path / "here" / "compare.html").read_text()
    assert "right: A, D" in page
    assert "wrong: B, C, E, F" in page


def test_more_runs_than_letters(run, tmp_path):
    for number in range(28):
        made_run(tmp_path / "many" / f"run{number:02}")
    done = run("many", "out=here")
    assert len(called(done)) == 10
    assert "\n… and 18 more: compare.html has all, and so has limit=0\n" in done.stdout
    assert "A, B, C, D, E, F, G and 21 more have no predictions" in done.stdout
    whole = run("many", "out=here", "limit=0").stdout
    assert "\nZ = run25" in whole
    assert "\nAB = run27" in whole
    assert '<td class="long">run27</td>' in (tmp_path / "here" / "compare.html").read_text()


def test_runs_without_a_test_are_tested_on_request(run, tiny_run, tmp_path):
    whole = tiny_run(name="whole")
    tiny_run("test=false", name="untested")
    done = run("whole", "untested", "out=here")
    assert "B has no predictions for the test images" in done.stdout
    with locked(tmp_path / "untested" / LOCK):  # as a run that goes on, or another comparison
        refused = run("whole", "untested", "out=here", "test=true")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert re.search(r"untested is in use: process \d+ .* is at work in it", refused.stderr)
    assert not (tmp_path / "untested" / "test").exists()
    done = run("whole", "untested", "out=here", "test=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Testing untested …\n")
    # The same training: the same model.
    told = lines(done)
    for name, value in whole.metrics["test"].items():
        assert float(told[f"test/{name}"][1]) == pytest.approx(value, abs=1e-4)
    assert "Their predictions agree on all 100 test images." in done.stdout
    assert "Testing" not in run("whole", "untested", "out=here", "test=true").stdout


# Names and terminals


def test_names_are_shown_and_do_nothing(run, tmp_path):
    for number in range(2):
        folder = made_run(
            tmp_path / f"{HOSTILE.replace('/', '')}{number}", title=HOSTILE, tags=[HOSTILE],
            config={"optimizer": {HOSTILE: f"{HOSTILE}{number}"}}, state="failed", reason=HOSTILE,
            versions={HOSTILE: str(number)},
        )  # fmt: skip
        keep_test(folder, LABELS, WORSE if number else BETTER, names=[HOSTILE, "=1+1", "$x^2$"])
    done = run(".", "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "[red]" in done.stdout
    page = (tmp_path / "here" / "compare.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "\x1b" not in (tmp_path / "here" / "compare.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("count", [2, 5])
def test_a_narrow_terminal_has_tables_that_fit(run, tmp_path, monkeypatch, count):
    monkeypatch.setenv("COLUMNS", "44")
    for number in range(count):
        folder = made_run(tmp_path / f"{number}", config={"optimizer": {"lr": 0.1 * number}})
        keep_test(folder, LABELS, BETTER)
    done = run(*map(str, range(count)), "out=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 44
    assert "…" not in done.stdout
    assert re.search(r"^(metric +A +B|  +val/loss +val/accuracy)", done.stdout, re.M)


def test_a_pipe_gets_whole_tables(two, tmp_path):
    config = Path(two[0]) / "config.yaml"
    config.write_text(config.read_text().replace("0.001", "'" + "x" * 300 + "'"))
    done = invoke("compare", *two, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{'x' * 300}   0.01" in done.stdout


def test_the_command_imports_neither_torch_nor_lightning(two, tmp_path):
    program = (
        "import sys\nfrom discern.commands.cli import main\nmain()\n"
        "heavy = 'torch', 'lightning', 'torchmetrics', 'hydra', 'pandas'\n"
        "print('IMPORTED', [name for name in heavy if name in sys.modules])\n"
    )
    done = command([sys.executable, "-c", program], "compare", *two, cwd=tmp_path)
    assert done.stdout.endswith("IMPORTED []\n"), done
    assert done.stderr == ""


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["a", "--help"]])
def test_help_does_nothing_else(run, words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: discern compare" in done.stdout


def test_completion_leaves_folders_to_the_shell(tmp_path):
    done = invoke("-sc", "query=bash", cwd=tmp_path, COMP_LINE="discern compare la")
    assert (done.returncode, done.stdout) == (0, "")
    done = invoke("-sc", "query=bash", cwd=tmp_path, COMP_LINE="discern comp")
    assert done.stdout.split() == ["compare"]
