"""TensorBoard on real runs, as ``discern dashboard`` starts it, looked at in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from photos import photo_folder
from run_files import environment
from starter import invoke

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow  # a walk through every tab

DASHBOARD = [sys.executable, "-m", "discern", "dashboard"]
MLP, HEAD = "2026-01-02/03-04-05_mlp_mnist", "2026-01-02/03-04-06_densenet_transfer_image_folder"
PATIENCE = 30_000
"""Milliseconds that a tab may take on a busy machine."""

SAMPLE = ("data.source=sample", "model.hidden=[8]", "trainer.max_epochs=2")
SHOW = ("callbacks.dashboard.images_every=1", "callbacks.histograms.every_n_epochs=1")
PHOTOS = (
    "model=densenet_transfer", "model.backbone=squeezenet1_1", "model.weights=null",
    "data=image_folder", "data.dir=photos", "data.image_size=64", "data.num_workers=0",
    "data.batch_size=8", "data.val_size=6", "data.test_size=4", "trainer.max_epochs=2",
    "engine=torch",
)  # fmt: skip


@pytest.fixture(scope="module")
def outputs(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs in it; none is trained where there is no browser."""
    place = tmp_path_factory.mktemp("place")
    photo_folder(place / "photos", per_class=12)
    for folder, settings in ((MLP, (*SAMPLE, *SHOW)), (HEAD, PHOTOS)):
        done = invoke(
            "train", *settings, "trainer.accelerator=cpu", f"hydra.run.dir=outputs/{folder}",
            cwd=place, DISCERN_CACHE_DIR=str(place / "cache"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return place / "outputs"


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def told(outputs: Path, taken: int) -> Iterator[list[str]]:
    """What the command says, once it serves."""
    with subprocess.Popen(
        [*DASHBOARD, f"port={taken}"],
        cwd=outputs.parent, env=environment(), text=True, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line)
            if "http://" in line:
                break
        yield lines
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def url(told: list[str]) -> str:
    found = re.search(r"http://\S+", told[-1])
    assert found
    return found[0]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def asked(page: Page, url: str, route: str, **parameters: str) -> Any:
    """What a plugin answers."""
    answer = page.request.get(f"{url}data/plugin/{route}", params=parameters)
    assert answer.ok, answer.text()
    return answer


def tab(page: Page, url: str, name: str) -> None:
    # A page of its own: one that is open already may be on its way to the first tab of its own
    # accord, and would then take that address over the one asked for.
    page.goto("about:blank")
    page.goto(f"{url}#{name}")


def see(page: Page, text: str, exact: bool = False) -> None:
    """Wait until the text is to be seen somewhere."""
    page.get_by_text(text, exact=exact).locator("visible=true").first.wait_for()


def test_a_port_in_use_is_told_and_the_next_taken_on_this_machine_alone(told, taken):
    assert f"Port {taken} is in use; using port " in told[0]
    assert f"http://127.0.0.1:{taken}" not in told[1]
    assert "http://127.0.0.1:" in told[1]


def test_training_and_validation_share_a_chart(page, url):
    tab(page, url, "custom_scalars")
    see(page, "training and validation")
    for chart in ("loss", "accuracy", "precision"):
        see(page, chart, exact=True)
    # Two runs with two curves each.
    see(page, "Matches (4)")
    see(page, MLP.partition("/")[2])
    page.locator("vz-line-chart2 svg").first.wait_for(state="attached")


def test_scalars_have_both_runs(page, url):
    tab(page, url, "timeseries")
    see(page, "train/loss")
    see(page, MLP.partition("/")[2])
    tags = asked(page, url, "scalars/tags").json()
    assert {MLP, HEAD} == set(tags)
    assert {"train/loss", "val/loss", "train/lr", "train/images_per_second"} <= set(tags[MLP])


def test_pictures_are_shown_by_epoch(page, url):
    tab(page, url, "images")
    see(page, "val/confusion_matrix")
    see(page, "val/worst_predictions")
    page.wait_for_function(
        "() => { const seen = []; const look = root => root.querySelectorAll('*').forEach(e => {"
        " if (e.tagName === 'IMG' && e.naturalWidth > 200) seen.push(e);"
        " if (e.shadowRoot) look(e.shadowRoot); }); look(document); return seen.length >= 4; }"
    )
    steps = asked(page, url, "images/images", run=MLP, tag="val/confusion_matrix", sample="0")
    scalars = asked(page, url, "scalars/scalars", run=MLP, tag="val/loss").json()
    assert [image["step"] for image in steps.json()] == [step for _, step, _ in scalars]


def test_hparams_compare_the_runs(page, url):
    tab(page, url, "hparams")
    see(page, "Hyperparameters")
    see(page, "densenet_transfer", exact=True)
    see(page, "train-result/val/accuracy")


def test_the_graph_opens_at_the_layers(page, url):
    tab(page, url, "graphs")
    for node in ("images", "hidden.0", "logits"):
        # A picture's own texts: TensorBoard gives each node a title besides.
        page.locator("title", has_text=re.compile(f"^{node}$")).first.wait_for(state="attached")


def test_each_class_has_a_precision_recall_curve(page, url):
    tab(page, url, "pr_curves")
    see(page, "val/pr_curve/0")
    curves = asked(page, url, "pr_curves/tags").json()
    assert set(curves[HEAD]) == {"val/pr_curve/cat", "val/pr_curve/dog"}
    assert len(curves[MLP]) == 10


def test_the_text_says_what_differs_from_the_defaults(page, url):
    tab(page, url, "text")
    see(page, "Settings that differ from the defaults")
    row = page.locator("tr", has=page.locator("td", has_text=re.compile("^model.hidden$")))
    assert row.last.inner_text().split() == ["model.hidden", "[128,64]", "[8]"]


def test_histograms_were_asked_for(page, url):
    tab(page, url, "histograms")
    see(page, "weight_gradients/hidden.0.weight")


def test_the_projector_has_points_with_thumbnails_and_labels(page, url):
    assert asked(page, url, "projector/runs").json() == [HEAD]
    (found,) = asked(page, url, "projector/info", run=HEAD).json()["embeddings"]
    name = found["tensorName"]
    assert found["tensorShape"] == [6, 512]
    labels = asked(page, url, "projector/metadata", run=HEAD, name=name).text().splitlines()
    assert labels[0] == "label\tpredicted\tfile"
    assert len(labels) == 7
    sprite = asked(page, url, "projector/sprite_image", run=HEAD, name=name)
    assert sprite.headers["content-type"] == "image/jpeg"
    assert len(asked(page, url, "projector/tensor", run=HEAD, name=name).body()) == 6 * 512 * 4
    tab(page, url, "projector")
    # The plugin's page, and in it the projector's own.
    projector = page.frame_locator("iframe").last.frame_locator("iframe")
    projector.get_by_text("Points: 6").first.wait_for()
    projector.get_by_text("Dimension: 512").first.wait_for()
