"""``discern.load``: round trips, the notes' dictionary, and files from strangers."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import discern
from discern.errors import DiscernError, shortened
from discern.models.card import CARD, Card, ModelCard, Preprocessing
from discern.models.checkpoint import write
from discern.models.mlp import MLP
from discern.models.registry import MODELS, model_class
from discern.models.saved import check_fits
from discern.run import train
from run_files import TINY, composed, environment

SETTINGS = {"hidden": [6, 5], "activation": "tanh", "dropout": 0.5, "norm": "batch"}


def card(**changes: Any) -> dict[str, Any]:
    plain = Card(
        model=ModelCard(name="mlp", settings=SETTINGS),
        class_names=["a", "b", "c"],
        input_shape=(1, 4, 4),
        preprocessing=Preprocessing(mean=0.5, std=0.5),
        data={"title": "Tiny", "fingerprint": "00"},
    ).model_dump()
    return {**plain, **changes}


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((1, 4, 4), 3, **SETTINGS)  # type: ignore[arg-type]


def content(**changes: Any) -> dict[str, Any]:
    return {"state_dict": network().state_dict(), CARD: card(**changes)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


WITHOUT_DOWNLOAD = {"transfer": {"backbone": "squeezenet1_1", "weights": None}}
"""Those without which a model would ask for a download."""


@pytest.mark.parametrize("name", MODELS)
def test_every_registered_model_comes_back_as_it_was(name, path):
    torch.manual_seed(0)
    settings = WITHOUT_DOWNLOAD.get(name, {})
    before = model_class(name)(input_shape=(1, 4, 4), num_classes=3, **settings).eval()
    model = {"name": name, "settings": settings}
    torch.save({"state_dict": before.state_dict(), CARD: card(model=model)}, path)

    after = discern.load(path)

    images = torch.randn(5, 1, 4, 4)
    assert not after.training
    assert torch.equal(after(images), before(images))
    assert after.card.class_names == ["a", "b", "c"]
    assert all(parameter.device.type == "cpu" for parameter in after.parameters())


def test_settings_of_the_model_come_back(path):
    torch.save(content(), path)
    after, before = discern.load(path), network().eval()
    images = torch.randn(5, 1, 4, 4)
    assert torch.equal(after(images), before(images))
    after.train()
    assert not torch.equal(after(images), after(images)), "dropout is gone"


def test_a_run_s_checkpoint_needs_nothing_but_itself(tiny_mnist, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    result = train(composed(*TINY, f"data.dir={tiny_mnist}", f"folder={run}"))
    alone = tmp_path / "alone"
    alone.mkdir()
    (run / "checkpoints" / "best.safetensors").rename(alone / "given.safetensors")

    program = (
        "import sys, torch, discern\n"
        "model = discern.load('given.safetensors')\n"
        "heavy = {'lightning', 'tensorboard', 'hydra', 'torchmetrics'} & set(sys.modules)\n"
        "print(model(torch.zeros(1, *model.card.input_shape)).tolist(), heavy, model.card.data)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=alone, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    with torch.no_grad():
        expected = result.model(torch.zeros(1, 1, 28, 28)).tolist()
    assert done.stdout.startswith(f"{expected} set() ")
    assert "MNIST" in done.stdout


def test_weights_work_without_discern(path):
    write(content(), path)
    weights = load_file(path)
    layer = nn.Linear(16, 6)
    layer.load_state_dict({"weight": weights["hidden.0.weight"], "bias": weights["hidden.0.bias"]})


# The notes' chapter 15


class Network(nn.Module):
    """The notes' own class."""

    def __init__(self, input_size, output_size, hidden_layers, drop_p=0.5):
        super().__init__()
        self.hidden_layers = nn.ModuleList([nn.Linear(input_size, hidden_layers[0])])
        layer_sizes = itertools.pairwise(hidden_layers)
        self.hidden_layers.extend([nn.Linear(h1, h2) for h1, h2 in layer_sizes])
        self.output = nn.Linear(hidden_layers[-1], output_size)
        self.dropout = nn.Dropout(p=drop_p)

    def forward(self, x):
        for each in self.hidden_layers:
            x = functional.relu(each(x))
            x = self.dropout(x)
        return functional.log_softmax(self.output(x), dim=1)


def notes(hidden: list[int]) -> tuple[Network, dict[str, Any]]:
    torch.manual_seed(0)
    model = Network(784, 10, hidden)
    return model.eval(), {
        "input_size": 784,
        "output_size": 10,
        "hidden_layers": [each.out_features for each in model.hidden_layers],
        "state_dict": model.state_dict(),
    }


@pytest.mark.parametrize("new_format", [True, False])
def test_the_notes_dictionary_is_read(tmp_path, new_format):
    before, saved = notes([512, 256, 128])
    torch.save(saved, tmp_path / "notes.pth", _use_new_zipfile_serialization=new_format)
    after = discern.load(tmp_path / "notes.pth")
    images = torch.randn(4, 1, 28, 28)
    log_probabilities = after(images).log_softmax(dim=1)
    assert torch.allclose(log_probabilities, before(images.flatten(1)), atol=1e-6)


def test_the_notes_failing_example_names_each_layer_with_both_shapes(tmp_path, tiny_mnist):
    _, saved = notes([400, 200, 100])
    torch.save({"state_dict": discern_keys(saved["state_dict"])}, tmp_path / "other.safetensors")
    cfg = composed(
        "model=fc", "data.source=sample", f"model.init_from={tmp_path / 'other.safetensors'}",
        f"folder={tmp_path}",
    )  # fmt: skip
    with pytest.raises(DiscernError) as failure:
        train(cfg)
    message = str(failure.value)
    assert message.startswith("model.init_from=")
    for layer, there, here in (
        ("hidden.0.weight", "400×784", "512×784"),
        ("hidden.1.weight", "200×400", "256×512"),
        ("hidden.2.weight", "100×200", "128×256"),
        ("output.weight", "10×100", "10×128"),
    ):
        assert f"{layer} is {there} there and {here} in the model" in message


def discern_keys(state: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("hidden_layers.", "hidden."): value for key, value in state.items()}


# Files from strangers: each is refused in one sentence, executes nothing and writes nothing


class Payload:
    """Unpickled without care, this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def rezipped(data: bytes, compression: int, extra: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
        if extra:
            new.writestr("bomb", extra)
    return out.getvalue()


def saved(what: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(what, out, **options)
    return out.getvalue()


def flipped(data: bytes) -> bytes:
    weight = network().hidden[0].weight.detach().numpy().tobytes()
    place = data.index(weight) + 5
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


HOSTILE = {
    "a pickle that runs a program": lambda marker: pickle.dumps(Payload(marker)),
    "such a pickle in an archive": lambda marker: saved({"state_dict": Payload(marker)}),
    "one among the weights": lambda marker: saved({"state_dict": {"a": Payload(marker)}}),
    "one in the old format": lambda marker: saved(
        {"state_dict": {"a": Payload(marker)}}, _use_new_zipfile_serialization=False
    ),
    "a whole module": lambda marker: saved(network()),
    "a card that runs a program": lambda marker: saved({**content(), CARD: Payload(marker)}),
    "an unknown model": lambda marker: saved(content(model={"name": "x", "settings": {}})),
    "a path as a model's name": lambda marker: saved(
        content(model={"name": "os.system", "settings": {"command": f"mkdir {marker}"}})
    ),
    "a class path beside the name": lambda marker: saved(
        content(model={"name": "mlp", "settings": {}, "_target_": "os.mkdir"})
    ),
    "a class path in the settings": lambda marker: saved(
        content(model={"name": "mlp", "settings": {**SETTINGS, "_target_": "os.mkdir"}})
    ),
    "a layer of 10^12 units": lambda marker: saved(
        content(model={"name": "mlp", "settings": {**SETTINGS, "hidden": [10**12, 5]}})
    ),
    "negative layers": lambda marker: saved(
        content(model={"name": "mlp", "settings": {**SETTINGS, "hidden": [-5]}})
    ),
    "a million layers": lambda marker: saved(
        content(model={"name": "mlp", "settings": {**SETTINGS, "hidden": [1] * 10**6}})
    ),
    "10^12 pixels": lambda marker: saved(content(input_shape=[1, 10**6, 10**6])),
    "an activation that is no activation": lambda marker: saved(
        content(model={"name": "mlp", "settings": {**SETTINGS, "activation": "__class__"}})
    ),
    "weights that claim terabytes": lambda marker: saved(
        {**content(), "state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}}
    ),
    "weights of another architecture": lambda marker: saved(
        {**content(), "state_dict": {"output.weight": torch.zeros(3, 3)}}
    ),
    "weights that are no tensors": lambda marker: saved({**content(), "state_dict": {"a": "b"}}),
    "no weights": lambda marker: saved({CARD: card()}),
    "no card": lambda marker: saved({"state_dict": network().state_dict()}),
    "a list": lambda marker: saved([1, 2]),
    "half a file": lambda marker: (lambda data: data[: len(data) // 2])(saved(content())),
    "an empty file": lambda marker: b"",
    "a text": lambda marker: b"state_dict: yes\n",
    "a flipped bit": lambda marker: flipped(saved(content())),
    "a zip bomb": lambda marker: rezipped(
        saved(content()), zipfile.ZIP_DEFLATED, extra=bytes(50_000_000)
    ),
    "an archive of something else": lambda marker: rezipped(
        saved(content())[:0] or saved([1]), zipfile.ZIP_STORED
    ),
    "a card of a later format": lambda marker: saved(content(format=2)),
    "the notes' form with junk": lambda marker: saved(
        {"input_size": "x", "output_size": 10, "hidden_layers": [4], "state_dict": {}}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_and_does_nothing(kind, tmp_path, monkeypatch):
    marker, folder = tmp_path / "executed", tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = tmp_path / "given.safetensors"
    path.write_bytes(HOSTILE[kind](marker))

    with pytest.raises(DiscernError) as refusal:
        discern.load(path)

    assert str(path) in str(refusal.value) or "registered" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not marker.exists(), "the file's code ran"
    assert not list(folder.iterdir())


def test_the_payload_would_run_if_it_were_let(tmp_path):
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


def test_order_of_keys_does_not_matter(path):
    reverse = OrderedDict(reversed(network().state_dict().items()))
    torch.save({**content(), "state_dict": reverse}, path)
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(discern.load(path)(images), network().eval()(images))


def spoilt(kind: str) -> dict[str, torch.Tensor]:
    state = network().state_dict()
    weight = state["hidden.0.weight"]
    state["hidden.0.weight"] = {
        "whole numbers": weight.to(torch.int32),
        "truths": weight > 0,
        "no numbers": torch.zeros(0, 16),
        "a dimension": weight[None],
    }[kind]
    return state


@pytest.mark.parametrize("kind", ["whole numbers", "truths", "no numbers", "a dimension"])
def test_weights_of_another_kind_are_named(kind, path):
    write({**content(), "state_dict": spoilt(kind)}, path)
    with pytest.raises(DiscernError, match=r"hidden\.0\.weight is .* there and 6×16 in the model"):
        discern.load(path)


def test_of_many_layers_that_differ_a_few_are_named(path):
    more = {f"layer.{number}": torch.zeros(1) for number in range(10_000)}
    write({**content(), "state_dict": {**network().state_dict(), **more}}, path)
    with pytest.raises(DiscernError, match=r"; and 9,990 more\.$") as refused:
        discern.load(path)
    assert len(str(refused.value)) < 1000


def test_weights_of_another_precision_are_taken(path):
    state = {
        k: v.double() if v.is_floating_point() else v for k, v in network().state_dict().items()
    }
    write({**content(), "state_dict": state}, path)
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(discern.load(path)(images), network().eval()(images))


def test_a_small_file_that_names_a_large_backbone_takes_no_memory(path, monkeypatch):
    from discern.models import backbones

    built: list[Any] = []
    build = backbones.Backbone.__init__
    monkeypatch.setattr(
        backbones.Backbone,
        "__init__",
        lambda self, network, *rest: (built.append(network), build(self, network, *rest))[1],
    )
    settings = {"backbone": "regnet_y_128gf", "weights": None}
    model = {"name": "transfer", "settings": settings}
    write({**content(model=model, input_shape=(3, 64, 64))}, path)
    with pytest.raises(DiscernError, match="weights of another architecture"):
        discern.load(path)
    (network_built,) = built
    assert all(parameter.is_meta for parameter in network_built.parameters())


def test_names_in_a_strangers_file_begin_no_line_of_a_message():
    network = torch.nn.Linear(1, 1)
    state = {**network.state_dict(), "x\nError: y\x1b[2J": torch.zeros(1)}
    with pytest.raises(DiscernError, match=r"x\\nError: y\\x1b\[2J is 1 there") as refused:
        check_fits(network, state, Path("x"))
    assert "\n" not in str(refused.value)
    assert shortened(["a\nb", "c"]) == "a\\nb, c"
