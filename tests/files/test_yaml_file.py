"""What is written of a config is what OmegaConf reads again; what is read may be a stranger's."""

from __future__ import annotations

import enum
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from discern.config.experiment_file import read_settings as read_experiment
from discern.errors import DiscernError
from discern.files import yaml_file as config_file
from discern.files.yaml_file import read_settings, write_config

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="$"))
    | st.sampled_from(
        ["1e-3", "yes", "off", "null", "0x1f", "1_000", ".inf", "- a", "a: b", "#", "ä"]
    )
)
NAMES = st.text("abcdefgh_/", min_size=1)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


class Colour(enum.Enum):
    RED = 1


@given(values=st.dictionaries(NAMES, VALUES, max_size=5))
def test_it_is_read_again_as_it_was(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("written") / "config.yaml"
    write_config(OmegaConf.create(values), path)
    assert OmegaConf.to_container(OmegaConf.load(path)) == values


@pytest.mark.parametrize("has_libyaml", [True, False])
def test_it_is_written_as_omegaconf_writes_it(tmp_path: Path, monkeypatch, has_libyaml):
    if has_libyaml and not hasattr(yaml, "CDumper"):
        pytest.skip("PyYAML was built without libyaml")
    if not has_libyaml:
        monkeypatch.delattr(yaml, "CDumper", raising=False)
    monkeypatch.setattr(config_file, "dumper", config_file.dumper.__wrapped__)
    cfg = OmegaConf.create(
        {
            "lr": 1e-3,
            "rates": [0.1, "1e-3", "yes", None],
            "of": "${lr}",
            "colour": Colour.RED,
            "path": "/tmp/ä ö/" + 30 * "long ",
            "empty": {"list": [], "dict": {}},
        }
    )
    write_config(cfg, tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == OmegaConf.to_yaml(cfg, resolve=True)


TAGS = (
    "", "!", "!x", "!!bool", "!!int", "!!float", "!!null", "!!str", "!!timestamp", "!!binary",
    "!!merge", "!!value", "!!map", "!!seq", "!!set", "!!omap", "!!pairs", "!!python/name:os.system",
    "!!python/tuple",
)  # fmt: skip
WORDS = st.text("019.:+-_exobaZT~=<'\"[]{}&*?, ") | st.sampled_from(
    ["", "maybe", "x", "-", "0x", "0b", "-:", ".", ".nan", "2000-13-45", "12:", "1:" * 200 + "1.5"]
)
VALUES_OF_STRANGERS = st.builds(
    "{}{} {}".format, st.sampled_from(["", "&a "]), st.sampled_from(TAGS), WORDS
)


def refusal(path: Path) -> str:
    try:
        read_experiment(path, "experiment=x")
    except DiscernError as error:
        return str(error)
    return "experiment=x holds settings."


@given(
    form=st.sampled_from(["a: {}", "? {}\n: 1", "[{}]", "{}", "a: [{}, *a]", "<<: {}"]),
    value=VALUES_OF_STRANGERS,
)
@example("a: {}", "!!bool maybe")
@example("a: {}", "!!int ''")
@example("a: {}", "!!timestamp x")
@example("a: {}", "1:" * 200 + "1.5")
def test_a_strangers_values_are_read_or_refused(tmp_path_factory, form, value):
    path = tmp_path_factory.mktemp("strangers") / "config.yaml"
    path.write_text(form.format(value))
    with suppress(OSError, ValueError):
        read_settings(path)
    assert re.fullmatch(r"experiment=x [^\n]+\.", refusal(path))


@pytest.mark.parametrize("tag", ["!!int ", "!!float ", ""])
def test_a_long_number_takes_no_time(tmp_path, tag):
    path = tmp_path / "config.yaml"
    path.write_text(f"a: {tag}1" + ":59" * 100_000)
    with pytest.raises(ValueError, match="a word that is too long"):
        read_settings(path)
