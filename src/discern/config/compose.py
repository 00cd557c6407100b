"""Composing a config in Python, and the message for what goes wrong."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from discern.config.check import as_typed_settings, check
from discern.config.checked_files import checked_files
from discern.config.experiment_file import not_found
from discern.config.missing import check_all
from discern.config.typed import for_hydra, is_typed, quoted
from discern.config.user_config import conf_dir, warn_of_unused
from discern.config.values import plain
from discern.errors import DiscernError, did_you_mean
from discern.redaction import remember

LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher": ("hydra/launcher=joblib", "joblib"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra/launcher=submitit_…", "submitit"),
}
"""Module of a launcher of Hydra's -> its choice, and the extra that installs it."""

NAME = "train"
"""The config that Python composes."""


def compose(overrides: Sequence[str] = (), *, folder: str | Path | None = None) -> DictConfig:
    """The config of a run, as the command line composes and checks it.

    Args:
        overrides: choices and settings as one types them: ``["model=mlp", "optimizer.lr=3e-3"]``.
        folder: where the run will write; None for a new folder in ``outputs``.

    Returns:
        The settings, for :func:`discern.train`; they can be changed as attributes are. The part
        ``hydra`` holds the choices, and the name of the run's folder unless ``folder`` is set.

    Raises:
        DiscernError: a choice or a setting does not exist or has a value that is not allowed.
    """
    return compose_command(NAME, overrides, folder)


def compose_command(
    name: str, overrides: Sequence[str], folder: str | Path | None = None
) -> DictConfig:
    """The checked config of a command, with the part ``hydra`` of :func:`compose`.

    Raises:
        DiscernError: as :func:`compose` does.
    """
    check_overrides_are_listed(overrides)
    typed = for_hydra(overrides, as_typed_settings(), multirun=False)
    if folder is not None:
        typed.append(f"folder={quoted(str(folder))}")
    with _separate_hydra(), checked_files(typed):
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                cfg = hydra.compose(name, typed, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            if is_typed("hydra.run.dir", typed):
                cfg.folder = cfg.hydra.run.dir
            # The time in the folder's name is that at which it is read.
            folders = {
                kind: str(plain(cfg.hydra[kind], resolve=False)["dir"]) for kind in ("run", "sweep")
            }
            chosen = cfg.hydra.runtime.choices.items()
        except Exception as error:  # Hydra's errors have many types
            raise DiscernError(explain(error, name, typed)) from error
    with open_dict(cfg):
        cfg.hydra = {
            # What Hydra's resolver reads from its own config is beside it here.
            **{
                kind: {"dir": named.replace("${hydra:", "${hydra.")}
                for kind, named in folders.items()
            },
            "runtime": {"choices": {str(g): choice for g, choice in chosen if "/" not in str(g)}},
            "overrides": {"task": typed[: len(overrides)]},
        }
    check(cfg, name)
    warn_of_unused(cfg.hydra.runtime.choices)
    return cfg


def check_overrides_are_listed(overrides: Sequence[str]) -> None:
    """Check that overrides are a list of texts, and keep secrets among them out of all output.

    Raises:
        DiscernError: they are one text, or an option such as ``-m``.
    """
    if isinstance(overrides, str):
        raise DiscernError(f'Settings are given as a list, as ["{overrides}"].')
    for override in overrides:
        if override.startswith("-"):
            raise DiscernError(f"{override} is an option of the command line, not a setting.")
    remember(list(overrides))


@contextmanager
def _separate_hydra() -> Iterator[None]:
    """Restore the Hydra that a program may have initialised for itself."""
    ours, config = GlobalHydra.instance(), HydraConfig.instance()
    before, settings = ours.hydra, config.cfg
    ours.clear()
    try:
        yield
    finally:
        # Not the ones above: Hydra puts copies in their place.
        GlobalHydra.instance().hydra = before
        HydraConfig.instance().cfg = settings


MAX_BLAMED = 20
"""Overrides that are tried without one another."""


def explain_all(error: Exception, config_name: str, overrides: list[str]) -> list[str]:
    """Sentences for an exception that Hydra raised while it composed ``config_name``, and for what
    else is wrong, which shows once the config is composed without the override that is to blame.
    """
    sentences, left = [explain(error, config_name, overrides)], overrides
    for _ in range(MAX_BLAMED):
        fewer = [override for override in left if not _is_blamed(override, error)]
        if len(fewer) == len(left):
            break
        left = fewer
        try:
            with _separate_hydra(), checked_files(left):
                _check_composed(config_name, left)
        except DiscernError as found:
            return [*sentences, *str(found).split("\n")]
        except Exception as another:  # Hydra's errors have many types
            error = another
            sentences.append(explain(error, config_name, left))
        else:
            break
    return sentences


def _check_composed(config_name: str, overrides: list[str]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    check_all(cfg, config_name)


def _is_blamed(override: str, error: Exception) -> bool:
    """Whether an exception of Hydra's is about this override."""
    key = _key(override)
    if isinstance(error, MissingConfigException) and error.options is not None:
        return key == str(error.missing_cfg_file).rpartition("/")[0]
    if isinstance(error, OverrideParseException):
        return override == error.override
    first = str(error).strip().partition("\n")[0]
    if first.startswith("Could not override '"):
        return key == first.split("'")[1]
    return first.startswith("Ambiguous value for argument") and override == first.split("'")[1]


def _key(override: str) -> str:
    """The setting or the group that an override is about."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """One sentence for an exception that Hydra raised while it composed ``config_name``."""
    for raised in (error, error.__cause__):
        if isinstance(raised, DiscernError):
            return str(raised)
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = str(error.missing_cfg_file)
        if missing.startswith("experiment/"):
            return not_found(missing.removeprefix("experiment/"), error.options)
        group, _, choice = missing.rpartition("/")
        return f"{group}={choice} is not a choice; {did_you_mean(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; {_how_to_write(str(error.override))}"
    for module, (choice, extra) in LAUNCHERS.items():
        if module in str(error):
            return f"{choice} needs an extra: pip install 'discern[{extra}]' brings it."
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    if text[0].startswith("Could not override '"):
        return _unknown_key(text[0].split("'")[1], config_name, overrides)
    if text[0].startswith("Ambiguous value for argument"):
        argument = text[0].split("'")[1]
        key, _, value = argument.partition("=")
        return f"{argument} is several values; add -m for a sweep or write {key}=[{value}]."
    # Hydra's first line says what is wrong, its second (the cause's first) where.
    cause = str(error.__cause__).splitlines()[:1] if error.__cause__ else []
    return " ".join(line.rstrip(".") + "." for line in [*text[:1], *cause] if line)


def _how_to_write(override: str) -> str:
    """The advice on an override that Hydra cannot read, quoted for a shell."""
    key, equals, text = override.partition("=")
    if not equals or not text:
        return (
            "write SETTING=VALUE or GROUP=CHOICE, with quotes around all of it where the value has "
            "spaces, as in 'data.dir=my photos'."
        )
    whole = shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")
    return f"write SETTING=VALUE or GROUP=CHOICE; if the value is this very text, {whole}."


def _unknown_key(key: str, config_name: str, overrides: list[str]) -> str:
    others = [override for override in overrides if _key(override) != key]
    node: object
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            node = hydra.compose(config_name, others)
        except (HydraException, OmegaConfBaseException):
            node = hydra.compose(config_name)
    parts = key.split(".")
    for depth, name in enumerate(parts):
        prefix = "".join(f"{part}." for part in parts[:depth])
        if not isinstance(node, DictConfig):
            return f"{key} is not a setting; {prefix[:-1]} has no settings of its own."
        if name not in node or depth + 1 == len(parts):
            known = {f"{prefix}{child!s}" for child in node if child != "_target_"}
            if len(parts) == 1:
                known |= {"experiment", "debug"}
                of_groups = [f"{g!s}.{key}" for g in node if key in _settings_in(node[g])]
                if of_groups:
                    return f"{key} is not a setting; did you mean {' or '.join(of_groups)}?"
            return f"{key} is not a setting; {did_you_mean(prefix + name, known)}"
        node = node[name]
    raise AssertionError("a key has a part")


def _settings_in(node: object) -> Iterable[object]:
    return node if isinstance(node, DictConfig) else ()
