"""The file that a run's config is written to."""

import functools
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from discern.files import write_whole
from discern.redaction import redacted


def write_config(cfg: Any, path: Path) -> None:
    """Write a config in the words of ``OmegaConf.to_yaml``.

    Every interpolation is resolved, and what may be secret is left out.
    """
    values = redacted(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    with write_whole(path) as file:
        yaml.dump(
            values,
            file,
            Dumper=dumper(),
            default_flow_style=False,
            allow_unicode=True,
            sort_keys=False,
        )


@functools.cache
def dumper() -> type[Any]:
    """OmegaConf's, which quotes what its loader would not read as a text.

    It is four times as fast where PyYAML has libyaml.
    """
    plain: type[Any] = get_omega_conf_dumper()
    if not hasattr(yaml, "CDumper"):
        return plain

    class Dumper(yaml.CDumper):
        yaml_representers = plain.yaml_representers

    return Dumper
