"""``discern.compose``, ``discern.train`` and ``discern.predict``: discern without a command."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

import discern
from discern.config.user_config import conf_dir
from discern.data.published.mnist import read_sample
from discern.errors import DiscernError
from discern.files.writing import as_json_values
from discern.runs.tested import read_tested
from discern.training.result import Result
from run_files import (
    SHOWN,
    STEPS_PER_EPOCH,
    TINY,
    command,
    metrics_csv,
    same_bits,
    summary,
    weights,
)
from starter import invoke

FEW = (
    "data.source=sample", "model.hidden=[8]", "trainer.max_epochs=1",
    "trainer.limit_train_batches=5", "trainer.accelerator=cpu",
)  # fmt: skip
"""A process of its own has no data set of 300 digits: the sample, cut by the trainer."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny(tiny_mnist: Path) -> list[str]:
    return [*TINY, f"data.dir={tiny_mnist}"]


def digits(count: int) -> np.ndarray:
    return read_sample()["t10k-images-idx3-ubyte"][:count, None]


# compose


def test_a_config_is_composed_as_by_the_command_line(here):
    typed = ["model=fc", "optimizer.lr=3e-3", "tags=[a]", "cache.dir='a b'"]
    cfg = discern.compose(typed)
    assert (cfg.model.hidden, cfg.optimizer.lr, list(cfg.tags)) == ([512, 256, 128], 3e-3, ["a"])
    shown = invoke("train", *typed, "--cfg", "job", "--resolve", cwd=here)
    composed = OmegaConf.to_container(cfg, resolve=True)
    del composed["hydra"]
    assert composed == yaml.safe_load(shown.stdout)


def test_composing_leaves_nothing_behind(here, tmp_path):
    discern.compose(["seed=3"])
    discern.compose()
    assert list(here.iterdir()) == []
    assert Path.cwd() == here
    assert not hydra.core.global_hydra.GlobalHydra.instance().is_initialized()
    assert not hydra.core.hydra_config.HydraConfig.initialized()


def test_hydra_that_is_in_use_stays_as_it_is(here):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert discern.compose(["seed=3"]).seed == 3
        with pytest.raises(DiscernError):
            discern.compose(["sed=3"])
        assert hydra.compose("predict", ["input=x"]).input == "x"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=mpl"], "model=mpl is not a choice; did you mean mlp"),
        (["sed=3"], "sed is not a setting; did you mean seed?"),
        (["optimizer.lr=-1"], "optimizer.lr=-1 is not allowed; it must be a number above 0."),
        (["ckpt_path=no.safetensors"], "ckpt_path=no.safetensors does not exist; "),
        (["experiment=null"], "Config group override must be a string or a list."),
        ("seed=3", 'Settings are given as a list, as ["seed=3"].'),
    ],
)
def test_what_is_wrong_is_a_sentence(here, overrides, sentence):
    with pytest.raises(DiscernError) as caught:
        discern.compose(overrides)
    assert str(caught.value).startswith(sentence)
    assert list(here.iterdir()) == []


def test_the_names_of_the_package_are_a_handful_and_light():
    assert set(discern.__all__) == {
        "__version__", "compare", "compose", "evaluate", "load", "predict", "sweep", "train",
    }  # fmt: skip
    code = (
        "import sys, discern; assert not {'torch', 'hydra', 'numpy'} & set(sys.modules);"
        "discern.compose(); assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    done = command([sys.executable, "-c", code], cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")
    importlib.import_module("discern.commands.predict")
    assert callable(discern.predict), "the function, not a module"


# train


def test_training_gives_metrics_a_model_and_a_folder(here, tiny):
    cfg = discern.compose([*tiny, "seed=3"])
    result = discern.train(cfg)
    assert result.folder.parent.parent == Path("outputs")
    assert result.folder.name.endswith("_mlp_mnist")
    assert set(result.metrics) == {"train", "val", "test"}
    assert result.metrics["test"] == pytest.approx(
        summary(result.folder)["metrics"]["test"], abs=1e-6
    )
    assert len(metrics_csv(result.folder)) == 2
    assert result.model.training is False
    assert yaml.safe_load((result.folder / "overrides.yaml").read_text())[-1] == "seed=3"
    assert "hydra" not in yaml.safe_load((result.folder / "config.yaml").read_text())
    assert summary(result.folder)["name"] == "mlp"


def test_it_is_the_run_of_the_command(here):
    result = discern.train(discern.compose(FEW))
    done = invoke("train", *FEW, "hydra.run.dir=command", cwd=here)
    assert done.returncode == 0, done.stderr
    assert same_bits(weights(result.folder), weights(here / "command"))


def test_a_changed_config_is_trained_as_it_is_then_and_in_a_new_folder(here, tiny):
    cfg = discern.compose([*tiny, "trainer.max_epochs=1"])
    first = discern.train(cfg)
    cfg.optimizer.lr = 0.5
    second = discern.train(cfg)
    assert first.folder != second.folder
    assert yaml.safe_load((second.folder / "config.yaml").read_text())["optimizer"]["lr"] == 0.5
    assert not same_bits(weights(first.folder), weights(second.folder))
    cfg.optimizer.lr = -1
    with pytest.raises(DiscernError, match="lr=-1 is not allowed"):
        discern.train(cfg)
    assert len(list((here / "outputs").glob("*/*"))) == 2


def test_a_folder_that_was_named_is_that_or_an_error(here, tiny):
    cfg = discern.compose([*tiny, "trainer.max_epochs=1"], folder=here / "it's mine")
    assert discern.train(cfg).folder == here / "it's mine"
    with pytest.raises(DiscernError, match="is not empty; name a new folder"):
        discern.train(cfg)
    cfg = discern.compose([*tiny, f"hydra.run.dir={here}/named", "trainer.max_epochs=1"])
    assert discern.train(cfg).folder == here / "named"


def test_a_run_is_continued(here, tiny):
    first = discern.train(discern.compose([*tiny, "trainer.max_epochs=1"]))
    again = discern.train(discern.compose([*tiny, f"ckpt_path='{first.folder}'"]))
    assert [row["step"] for row in metrics_csv(again.folder)] == [
        STEPS_PER_EPOCH,
        2 * STEPS_PER_EPOCH,
    ]


def test_training_leaves_the_process_as_it_was(here, tiny):
    torch.set_num_threads(2)
    handlers = list(logging.getLogger("discern").handlers)
    discern.train(discern.compose([*tiny, "trainer.deterministic=true", "threads=1"]))
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert logging.getLogger("discern").handlers == handlers
    assert logging.getLogger("discern").level == logging.NOTSET
    assert Path.cwd() == here


SCRIPT = """
import discern{setup}
cfg = discern.compose(["data.source=sample", "model.hidden=[8]", "trainer.max_epochs=1"])
result = discern.train(cfg)
"""


@pytest.mark.parametrize("setup", ["", ", logging\nlogging.basicConfig(level='INFO')"])
def test_a_script_shows_each_line_once_and_train_log_has_it(here, setup):
    done = invoke("-c", SCRIPT.format(setup=setup), cwd=here)
    assert done.returncode == 0, done.stderr
    for shown in (done.stdout + done.stderr, next(here.glob("**/train.log")).read_text()):
        assert shown.count("epoch 1   train loss") == 1
        assert shown.count("Results: outputs") == 1


# What results show of themselves


class Pictures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
            assert dict(attrs)["alt"]


def seen_in(html: str) -> Pictures:
    seen = Pictures()
    seen.feed(html)
    return seen


def test_a_result_shows_its_curves_and_metrics(here, tiny):
    result = discern.train(discern.compose([*tiny, *SHOWN, "trainer.max_epochs=1"]))
    html = result._repr_html_()
    seen = seen_in(html)
    assert [source[:22] for source in seen.sources] == ["data:image/png;base64,"]
    assert f"{result.metrics['test']['accuracy']:.4f}" in html
    assert "\n" not in repr(result)
    assert f"test accuracy {result.metrics['test']['accuracy']:.4f}" in repr(result)


def test_what_a_result_shows_is_text_and_nothing_runs(tmp_path, tiny_run):
    hostile = tmp_path / "<script>alert(1)</script>"
    result = tiny_run("trainer.max_epochs=1")
    moved = Result({"test": {"<b>": 1.0}}, result.model, hostile, "<i>ended</i>")
    seen = seen_in(moved._repr_html_())
    assert not {"script", "b", "i"} & set(seen.tags)
    assert "<script>" not in moved._repr_html_()


# predict


def test_pixels_are_classified_as_the_model_sees_them(here, tiny):
    result = discern.train(discern.compose(tiny))
    images = digits(7)
    found = discern.predict(result, images)
    assert (len(found), found.probabilities.shape) == (7, (7, 10))
    normalised = (torch.from_numpy(images).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        logits = result.model.network(normalised)
        expected = (logits / result.model.card["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    raw = discern.predict(result, images, temperature="off")
    np.testing.assert_allclose(raw.probabilities, logits.softmax(1).numpy(), atol=1e-6)
    assert raw.labels == found.labels
    mirrored = discern.predict(result, images[..., ::-1].copy())
    both = discern.predict(result, images, tta="flip")
    mean = (found.probabilities + mirrored.probabilities) / 2
    np.testing.assert_allclose(both.probabilities, mean, atol=1e-6)
    checkpoints = [result.folder / f"checkpoints/{name}.safetensors" for name in ("best", "last")]
    each = [discern.predict(path, images).probabilities for path in checkpoints]
    together = discern.predict(checkpoints, images).probabilities
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)
    for wrong in ({"tta": "flop"}, {"temperature": "of"}):
        with pytest.raises(DiscernError, match=r"is not allowed; did you mean"):
            discern.predict(result, images, **wrong)
    assert found.labels == [str(number) for number in expected.argmax(1)]
    shown = seen_in(found._repr_html_())
    assert [source[:22] for source in shown.sources] == ["data:image/png;base64,"]
    assert shown.tags.count("tr") == 1 + len(found)
    # The same model by its other names.
    for model in (
        result.model,
        discern.load(result.folder / "checkpoints/best.safetensors"),
        "best",
    ):
        other = discern.predict(model, torch.from_numpy(images))
        np.testing.assert_array_equal(other.probabilities, found.probabilities)
    assert len(discern.predict(result, images[:0])) == 0
    assert "<img" not in discern.predict(result, images[:0])._repr_html_()


def test_files_are_prepared_as_by_the_command(here, tiny):
    result = discern.train(discern.compose([*tiny, "trainer.max_epochs=1"]))
    pixels = digits(2)
    for number, image in enumerate(pixels[:, 0]):
        Image.fromarray(image).save(here / f"{number}.png")
    (here / "broken.png").write_bytes(b"nothing")
    found = discern.predict(result, ["0.png", here / "*.png"], invert=False)
    assert [Path(name).name for name in found.names] == ["0.png", "0.png", "1.png"]
    assert [Path(name).name for name in found.unreadable] == ["broken.png"]
    assert f"broken.png: {next(iter(found.unreadable.values()))}" in found._repr_html_()
    np.testing.assert_array_equal(found.pixels, pixels[[0, 0, 1]])
    inverted = discern.predict(result, "1.png", invert=True)
    np.testing.assert_array_equal(inverted.pixels, 255 - pixels[1:])


def test_predict_says_what_it_cannot_do(here, tiny_run):
    model = tiny_run("trainer.max_epochs=1").model
    cases = [
        (model, np.zeros((2, 28, 28), np.uint8), r"shape \(N, 1, 28, 28\), and got uint8 \(2, 28"),
        (model, np.zeros((2, 1, 28, 28), np.float32), "and got float32"),
        (model, "no*.png", r"input=no\*.png is not a file and matches none"),
        (torch.nn.Linear(2, 2), "x", "needs a model of discern.load or discern.train"),
        ("no.safetensors", "x", "path=no.safetensors does not exist"),
    ]
    for which, pictures, sentence in cases:
        with pytest.raises(DiscernError, match=sentence):
            discern.predict(which, pictures)
    with pytest.raises(DiscernError, match="invert=maybe is not allowed"):
        discern.predict(model, "x", invert="maybe")


def test_a_network_in_training_is_not_left_otherwise(here, tiny_run):
    model = tiny_run("trainer.max_epochs=1", "model.dropout=0.9").model
    model.network.train()
    first = discern.predict(model, digits(3))
    second = discern.predict(model, digits(3))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert model.network.training


# evaluate


def test_it_is_the_evaluation_of_the_command_to_the_digit(here):
    run = discern.train(discern.compose(FEW))
    found = discern.evaluate(run, ["seed=3"], folder="python")
    arguments = (f"ckpt_path={run.folder}", "seed=3", "hydra.run.dir=command")
    done = invoke("evaluate", *arguments, cwd=here)
    assert done.returncode == 0, done.stderr
    facts = json.loads((here / "command" / "metrics.json").read_text())
    assert facts == json.loads((here / "python" / "metrics.json").read_text())
    assert as_json_values({k: asdict(one) for k, one in found.metrics.items()}) == facts["metrics"]
    table = (here / "command" / "predictions.csv").read_bytes()
    assert (here / "python" / "predictions.csv").read_bytes() == table
    kept = (here / "python" / "evaluate.log").read_text()
    for line in done.stdout.splitlines():
        assert line.replace("command", "python") in kept
    assert found.confusion.sum() == len(found.predictions) == 1500
    assert found.confusion.trace() / 1500 == found.metrics["accuracy"].value


def test_an_evaluation_shows_intervals_and_confusion_matrix(here, tiny):
    discern.train(discern.compose([*tiny, "trainer.max_epochs=1"]))
    found = discern.evaluate("last", ["split=val"])
    assert (found.split, len(found.predictions)) == ("val", 60)
    accuracy = found.metrics["accuracy"]
    html = found._repr_html_()
    assert f"{accuracy.low:.4f} to {accuracy.high:.4f}" in html
    assert [source[:22] for source in seen_in(html).sources] == ["data:image/png;base64,"]
    assert repr(found).startswith("<Evaluation of mlp on MNIST, val: loss ")
    assert f"accuracy {accuracy.value:.4f} ({accuracy.low:.4f} to" in repr(found)


def test_evaluate_says_what_is_wrong_and_leaves_nothing(here, tiny_run):
    run = tiny_run("trainer.max_epochs=1")
    before = sorted(here.rglob("*"))
    for model, overrides, sentence in (
        ("no.safetensors", [], "ckpt_path=no.safetensors does not exist"),
        (run, ["split=tset"], "split=tset is not allowed"),
        (run, "split=val", r'given as a list, as \["split=val"\]'),
        (run, ["-m"], "-m is an option of the command line, not a setting"),
    ):
        with pytest.raises(DiscernError, match=sentence):
            discern.evaluate(model, overrides)
    assert sorted(here.rglob("*")) == before


# sweep

SWEPT = (*FEW, "logger=csv", "report=false", "optimizer.lr=1e-3,3e-2")


def test_a_sweep_has_the_ranking_of_the_command_to_the_digit(here):
    found = discern.sweep([*SWEPT, "seed=0,1"], folder="it's mine")
    done = invoke("train", "-m", *SWEPT, "seed=0,1", "hydra.sweep.dir=command", cwd=here)
    assert done.returncode == 0, done.stderr
    facts = json.loads((here / "command" / "results.json").read_text())
    assert [(rank, row.number, dict(row.values)) for rank, row in found.ranking] == [
        (row["rank"], row["number"], row["values"]) for row in facts["rows"]
    ]
    assert [(rank, group.overrides) for rank, group in found.groups] == [
        (group["rank"], group["overrides"]) for group in facts["groups"]
    ]
    assert found.verdict == facts["verdict"]
    assert found.test == facts["best"]["test"]
    assert found.best.folder.name == facts["best"]["folder"]
    # It shows itself.
    html = found._repr_html_()
    seen = seen_in(html)
    assert seen.tags.count("tr") == 3
    assert [source[:22] for source in seen.sources] == ["data:image/png;base64,"]
    assert found.verdict in unescape(html)
    assert repr(found).startswith("<Sweep of 4 jobs: val/loss ")
    with pytest.raises(DiscernError, match="folder=it's mine is not empty"):
        discern.sweep([*SWEPT], folder="it's mine")


def test_sweep_says_what_is_wrong(here):
    cases = [
        ("seed=1,2", r'given as a list, as \["seed=1,2"\]'),
        (["-m", "seed=1,2"], "-m is an option of the command line, not a setting"),
        (["sweep.resume=nowhere"], "resume=nowhere is not the folder of a sweep"),
    ]
    for overrides, sentence in cases:
        with pytest.raises(DiscernError, match=sentence):
            discern.sweep(overrides)
    assert list(here.iterdir()) == []
    with pytest.raises(DiscernError, match=r"optimizer\.lrs is not a setting; did you mean"):
        discern.sweep(["optimizer.lrs=1,2"])


STOPPED = """
import discern, os, signal, threading, time
from pathlib import Path
def stop():
    while not list(Path("stopped").glob("*/config.yaml")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop, daemon=True).start()
found = discern.sweep(["data.source=sample", "logger=csv", "trainer.max_epochs=5000", "seed=0,1"],
                      folder="stopped")
print(found, [str(row.state) for _, row in found.ranking])
"""


def test_a_sweep_that_is_stopped_has_the_ranking_so_far(here):
    done = invoke("-c", STOPPED, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "Interrupted. Continue: python train.py -m" in done.stdout + done.stderr
    states = done.stdout.splitlines()[-1]
    assert states.startswith("<Sweep of 2 jobs")
    assert "done" not in states


# compare


def test_runs_are_compared_as_by_the_command(tiny_run):
    one, other = tiny_run(name="one"), tiny_run("optimizer.lr=0.05", name="other")
    found = discern.compare(one, str(other.folder))
    assert dict(found.settings)["optimizer.lr"] == ["0.001", "0.05"]
    said = [read_tested(run.folder).predictions for run in (one, other)]
    (pair,) = found.pairs
    assert pair.only_second == int((said[1].correct & ~said[0].correct).sum())
    shown = found._repr_html_()
    assert "optimizer.lr" in shown
    assert "McNemar" in shown
    assert repr(found) == "<Comparison of A one, B other>"
    assert shown.count("<img") == bool(found.disagreement.count)


def test_one_run_is_not_compared(tiny_run):
    run = tiny_run()
    with pytest.raises(
        DiscernError, match=r"discern\.compare needs two runs or more, and this is 1"
    ):
        discern.compare(run, run.folder)
