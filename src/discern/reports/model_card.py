"""README.md of a model, in the form that model hubs read: a YAML header, and what people ask.

All of it is made from a run's folder and its checkpoint. Both may hold any text: it is shown as
such, without secrets and without paths of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from discern.config.check import as_typed_settings
from discern.config.typed import AsTyped
from discern.errors import as_override
from discern.models.card import TARGET, Card, without_target
from discern.redaction import redacted, redacted_text
from discern.reports.intervals import Estimate
from discern.reports.markdown import code, escaped, front_matter, table
from discern.reports.run_facts import RunFacts, command_of
from discern.runs.folder import finite, mapping, numbers
from discern.runs.metric_table import METRICS, metric_of
from discern.runs.summary import trained_on_sentence
from discern.text import visible

WEIGHTS = "model.safetensors"
"""The file beside the README, under the name by which hubs know weights."""

MAX_MATRIX, MAX_CLASSES = 20, 100
"""The most classes whose confusion matrix is shown, and that are listed."""

MAX_PAIRS = 20
"""Confusions that are listed of more classes."""

HUB_DATA = {
    "discern.data.published.mnist.MNIST": "ylecun/mnist",
    "discern.data.published.mnist.FashionMNIST": "zalando-datasets/fashion_mnist",
    "discern.data.published.cifar.CIFAR10": "uoft-cs/cifar10",
    "discern.data.published.cifar.CIFAR100": "uoft-cs/cifar100",
    "discern.data.published.pets.OxfordPets": "timm/oxford-iiit-pet",
}
"""Class of a published data set -> its name on the Hugging Face hub."""

HUB_METRICS = {"top5_error": "top_5_error", "ece": "expected_calibration_error"}
"""Metric -> its name in a header, where that is another."""

KNOWN_METRICS = ("accuracy", "precision", "recall", "f1")
"""Metrics that hubs have pages on."""

TO_FILL_IN = "<!-- To be filled in by whoever publishes the model. -->\n\n*{}*"

PATH = "PATH"
"""What stands for a path of the machine in a command."""


@dataclass(frozen=True)
class ModelCard:
    """What a README is made from.

    Attributes:
        facts: of the run.
        card: of the checkpoint.
        license: its name in a header.
        parameters: numbers in the weights' file.
    """

    facts: RunFacts
    card: Card
    license: str
    parameters: int

    @property
    def title(self) -> str:
        """The model and its data."""
        return _shown(self.facts.run.title)

    @property
    def data(self) -> str:
        """The data set's title."""
        return _shown(self.card.data.get("title", self.facts.run.data))

    def text(self) -> str:
        """The whole file."""
        parts = [front_matter(self._header()), f"# {escaped(self.title)}", *self._sections()]
        return redacted_text("\n\n".join(parts)) + "\n"

    def _header(self) -> dict[str, object]:
        measured = self.facts.measured or {}
        tags = ["image-classification", "pytorch", "safetensors", "discern"]
        if self.card.backbone is not None:
            tags.append(_slug(self.card.backbone.library))
            tags.append(_slug(self.card.backbone.name))
        header: dict[str, object] = {
            "license": self.license,
            "library_name": "discern",
            "pipeline_tag": "image-classification",
            "tags": list(dict.fromkeys(tags)),
        }
        hub = HUB_DATA.get(str(mapping(self.card.config.get("data")).get(TARGET)))
        if hub is not None:
            header["datasets"] = [hub]
        if measured:
            header["metrics"] = [name for name in KNOWN_METRICS if name in measured]
            header["model-index"] = [self._index(measured, hub)]
        return header

    def _index(self, measured: Mapping[str, Estimate], hub: str | None) -> dict[str, object]:
        """The test metrics as ``huggingface_hub.EvalResult`` reads them."""
        metrics = [
            {
                "type": HUB_METRICS.get(name, name),
                "name": metric_of(name).title,
                "value": round(one.value, 6),
            }
            for name, one in measured.items()
            if np.isfinite(one.value)
        ]
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": hub or _slug(self.data), "name": self.data, "split": "test"},
            "metrics": metrics,
        }
        return {"name": self.title, "results": [result]}

    def _sections(self) -> Iterator[str]:
        yield self._what()
        yield self._use()
        yield self._training()
        yield self._results()
        yield self._calibration()
        confusion = self._confusion()
        if confusion:
            yield confusion
        yield "## Intended use\n\n" + TO_FILL_IN.format(
            "What is the model for, who should use it, and what should it not be used for?"
        )
        yield self._limits()

    def _what(self) -> str:
        card, run = self.card, self.facts.run
        channels, height, width = card.input_shape
        rows: list[tuple[str, object]] = [
            ("model", card.model.name or run.model),
            ("parameters", f"{self.parameters:,}"),
            ("input", f"{height} × {width} pixels, {_colours(channels)}"),
            ("preprocessing", _preprocessing(card)),
            ("output", f"logits of {len(card.class_names):,} classes"),
        ]
        if card.backbone is not None:
            weights = card.backbone.weights
            start = "random weights" if weights is None else f"weights {weights}"
            rows.insert(
                1, ("backbone", f"{card.backbone.name} of {card.backbone.library}, {start}")
            )
        names = ", ".join(escaped(name) for name in card.class_names[:MAX_CLASSES])
        more = len(card.class_names) - MAX_CLASSES
        return "\n\n".join(
            [
                f"A network that says which of {len(card.class_names):,} classes an image is of, "
                f"trained on {escaped(self.data)} with discern.",
                table(["", "what it is"], rows),
                f"Classes: {names}{f', … and {more:,} more' if more > 0 else ''}.",
            ]
        )

    def _use(self) -> str:
        lines = [
            "import discern",
            "",
            f'network = discern.load("{WEIGHTS}")',
            f'found = discern.predict("{WEIGHTS}", "photo.jpg")',
            "print(found.labels, found.probabilities)",
        ]
        return "\n\n".join(
            [
                "## How to use it",
                code("\n".join(lines), "python"),
                f"`{WEIGHTS}` holds the weights under the network's own names, so that "
                "`safetensors.torch.load_file` reads them without discern. Its header holds the "
                "classes and the preprocessing.",
            ]
        )

    def _training(self) -> str:
        run, card = self.facts.run, self.card
        command = command_of(run, _without_paths)
        images = numbers(run.part("data").get("images"))
        counts = ", ".join(f"{int(n):,} for {split}" for split, n in images.items() if n)
        epoch, epochs = run.facts.get("best_epoch"), run.facts.get("epochs")
        rows: list[tuple[str, object]] = [
            ("data set", self.data),
            ("images", counts or "–"),
            ("fingerprint of the data", str(card.data.get("fingerprint", "–"))[:12]),
            *((name, text) for name, text in _settings(card)),
        ]
        if isinstance(epoch, int) and isinstance(epochs, int):
            rows.append(("epochs", f"{epochs}; the weights are those of epoch {epoch}"))
        seconds = finite(run.part("seconds").get("fit"))
        if seconds is not None:
            rows.append(("time of training", f"{seconds:,.0f} s"))
        rows += [(f"version of {name}", version) for name, version in card.versions.items()]
        return "\n\n".join(
            [
                "## How it was trained",
                code(redacted_text(command), "sh"),
                f"`{PATH}` stands for a path of the machine that it was trained on."
                if PATH in command
                else "Each setting that is not in the command is discern's default.",
                table(["", "value"], rows),
            ]
        )

    def _results(self) -> str:
        facts = self.facts
        if facts.tested is None:
            return "## Results\n\nThe model has not been tested."
        count, seen = len(facts.tested.predictions), ""
        trained_on = numbers(facts.run.part("data").get("trained_on")).get("test", 0)
        if trained_on:
            seen = f"\n\n**{trained_on_sentence('test', int(trained_on), count)}.**"
        rows = [
            (metric.title, metric.text(one.value), f"{one.ends(metric.name)}")
            for metric in METRICS
            if (one := facts.measured.get(metric.name)) is not None
        ]
        return (
            f"## Results\n\nOf {count:,} test images, which were used for nothing else. The "
            "intervals are of 95 %, for a proportion Wilson's, else of a bootstrap over the images."
            f"\n\n{table(['metric', 'value', '95 % interval'], rows)}{seen}"
        )

    def _calibration(self) -> str:
        facts, temperature = self.facts.run.part("calibration"), self.card.temperature
        if temperature is None:
            reason = facts.get("reason")
            why = f": {escaped(reason)}" if isinstance(reason, str) else ""
            return f"## Calibration\n\nThe model has no temperature{why}."
        rows, note = [], ""
        for split, name in (("val", "validation"), ("test", "test")):
            pair = mapping(facts.get(split)).get("ece")
            if isinstance(pair, list) and len(pair) == 2 and None not in map(finite, pair):
                rows.append((f"{name} images", *(f"{value:.4f}" for value in pair)))
                if split == "test" and pair[1] >= pair[0]:
                    note = " It does not lower the calibration error of the test images."
        shown = table(["expected calibration error", "of the logits", "calibrated"], rows)
        images = finite(facts.get("images"))
        many = "the" if images is None else f"{int(images):,}"
        return (
            "## Calibration\n\nFor probabilities that are right as often as they say, divide the "
            f"logits by the temperature **{temperature:.4g}** before the softmax (Guo et al., "
            f"2017). It was fitted on {many} validation images, and discern applies it by itself; "
            f"the results above are without it.{note}" + (f"\n\n{shown}" if rows else "")
        )

    def _confusion(self) -> str:
        facts = self.facts
        if facts.tested is None:
            return ""
        names, matrix = facts.tested.predictions.class_names, facts.confusions
        if len(names) <= MAX_MATRIX:
            rows = [(name, *map(int, row)) for name, row in zip(names, matrix, strict=True)]
            shown = table(["true class", *names], rows)
            return (
                "## Confusion\n\nTest images of each class, by the class that they are predicted "
                f"as.\n\n{shown}"
            )
        wrong = matrix.copy()
        np.fill_diagonal(wrong, 0)
        most = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
        pairs = [divmod(int(place), len(names)) for place in most]
        confused = [(names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]
        shown = table(["true class", "predicted as", "test images"], confused)
        return f"## Confusion\n\nThe most frequent confusions.\n\n{shown}"

    def _limits(self) -> str:
        return (
            "## Limits\n\n- It knows its classes alone, and names one of them for any picture.\n"
            "- It was measured on images like those it was trained on; on others it may be worse.\n"
            "\n"
            + TO_FILL_IN.format(
                "Which groups, places or circumstances are missing from the data, and what follows "
                "from a wrong answer?"
            )
        )


def _shown(text: object) -> str:
    """A text of one line for a title, without secrets."""
    return visible(redacted_text(str(text)))[:200]


def _slug(text: str) -> str:
    """A text as a name in a header: lower-case letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "unknown"


def _colours(channels: int) -> str:
    return {1: "grey", 3: "colour (RGB)"}.get(channels, f"{channels} channels")


def _preprocessing(card: Card) -> str:
    known = card.preprocessing
    scaled = ""
    if known.resize is not None:
        scaled = f"shorter side to {known.resize} ({known.interpolation}), square from the centre, "
    return f"{scaled}(x / 255 - {as_override(known.mean)}) / {as_override(known.std)}"


def _settings(card: Card) -> Iterator[tuple[str, str]]:
    """The settings of the run that made the checkpoint, whose card has no paths."""
    for group in ("model", "optimizer", "scheduler", "data"):
        settings = mapping(card.config.get(group))
        target = settings.get(TARGET)
        if isinstance(target, str):
            yield group, target.rpartition(".")[2]
        for name, value in redacted(without_target(settings)).items():
            if value not in (None, "", False, [], {}, "none"):
                yield f"{group}.{name}", as_override(value)
    if "seed" in card.config:
        yield "seed", str(card.config["seed"])


_MACHINE = re.compile(r"(?:^|[\[{(,:='\"\s])(?:~|[/\\]|[A-Za-z]:[\\/])")
"""The beginning of an absolute path, in the value of an override."""


def _without_paths(overrides: list[str]) -> list[str]:
    """Overrides, as typed, whose paths are left out."""
    settings = as_typed_settings()
    return [_without_path(override, settings) for override in overrides]


def _without_path(override: str, settings: Mapping[str, AsTyped]) -> str:
    name, equals, value = override.partition("=")
    setting = settings.get(name.lstrip("+~"))
    is_path = setting is not None and setting.is_path and value not in ("null", *setting.words)
    if setting is not None and setting.is_choice:
        is_path = "/" in value or "\\" in value
    if equals and value and (is_path or _MACHINE.search(value)):
        return f"{name}={PATH}"
    return override
