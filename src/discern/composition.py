"""Hydra's composition errors, told in one sentence that names the way out."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from discern.errors import DiscernError
from discern.experiments import not_found
from discern.nearest import did_you_mean

LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher": ("hydra/launcher=joblib", "joblib"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra/launcher=submitit_…", "submitit"),
}
"""Modules of Hydra's launchers -> the choice and the extra that brings it."""


def explain(
    error: Exception,
    conf_dir: Path,
    config_name: str,
    overrides: list[str],
) -> str:
    """One sentence for an exception that Hydra raised while it composed ``config_name``."""
    if isinstance(error.__cause__, DiscernError):
        return str(error.__cause__)
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = str(error.missing_cfg_file)
        if missing.startswith("experiment/"):
            return not_found(missing.removeprefix("experiment/"), error.options)
        group, _, choice = missing.rpartition("/")
        return f"{group}={choice} is not a choice; {did_you_mean(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read; write SETTING=VALUE or GROUP=CHOICE, in single "
            "quotes where it holds spaces, brackets or other marks of the shell."
        )
    for module, (choice, extra) in LAUNCHERS.items():
        if module in str(error):
            return f"{choice} needs an extra: pip install 'discern[{extra}]' brings it."
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    if text[0].startswith("Could not override '"):
        return _unknown_key(text[0].split("'")[1], conf_dir, config_name, overrides)
    if text[0].startswith("Ambiguous value for argument"):
        argument = text[0].split("'")[1]
        key, _, value = argument.partition("=")
        return f"{argument} is several values; add -m for a sweep or write {key}=[{value}]."
    # Hydra's first line says what is wrong, its second (the cause's first) where.
    cause = str(error.__cause__).splitlines()[:1] if error.__cause__ else []
    return " ".join(line.rstrip(".") + "." for line in [*text[:1], *cause] if line)


def _unknown_key(key: str, conf_dir: Path, config_name: str, overrides: list[str]) -> str:
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0].partition("@")[0] != key]
    cfg = _compose(conf_dir, config_name, others)
    node: object = cfg
    parts = key.split(".")
    for depth, name in enumerate(parts):
        prefix = "".join(f"{part}." for part in parts[:depth])
        if not isinstance(node, DictConfig):
            return f"{key} is not a setting; {prefix[:-1]} has no settings of its own."
        if name not in node or depth + 1 == len(parts):
            known = {f"{prefix}{child!s}" for child in node if child != "_target_"}
            if len(parts) == 1:
                known |= {"experiment", "debug"}
            return f"{key} is not a setting; {did_you_mean(prefix + name, known)}"
        node = node[name]
    raise AssertionError("a key has a part")


def _compose(conf_dir: Path, config_name: str, overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        try:
            return compose(config_name, overrides)
        except (HydraException, OmegaConfBaseException):
            return compose(config_name)
