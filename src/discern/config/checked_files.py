"""Hydra's reader of config files, with a check of those that are not the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from discern.config.experiment_file import read_settings
from discern.config.foreign import allowed_by, allowing, check_file, is_own
from discern.errors import DiscernError

HydrasOwn = file_config_source.FileConfigSource
SCHEME = HydrasOwn.scheme()


@contextmanager
def checked_files(overrides: Iterable[str]) -> Iterator[None]:
    """Replace Hydra's reader of files by the checked one within the block.

    Args:
        overrides: as typed; ``allow_targets`` among them lifts limits.
    """
    Plugins.instance()  # which registers Hydra's own reader, and refuses another in its place
    types = SourcesRegistry.instance().types
    before = types.get(SCHEME)
    types[SCHEME] = FileConfigSource
    try:
        with allowing(allowed_by(overrides)):
            yield
    finally:
        if before is not None:
            types[SCHEME] = before


@dataclass(frozen=True)
class CheckedLoader:
    """Hydra's loader for the jobs of a sweep; it checks files in the process of each job."""

    loader: ConfigLoader

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """The config of a job."""
        with checked_files(overrides):
            return self.loader.load_sweep_config(master, overrides)

    def get_group_options(self, group: str, results_filter: ObjectType | None = None) -> list[str]:
        """The choices of a group."""
        return self.loader.get_group_options(group, results_filter)


class FileConfigSource(HydrasOwn):
    """A folder in Hydra's search path, such as that of ``--config-dir``.

    It has the name of Hydra's own reader: in the process of a job, Hydra registers that one beside
    those that it finds, and two of one name are the same to it.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file, and check what is neither discern's nor in the user's ``./conf``.

        Raises:
            DiscernError: it holds no settings, or says what only the user may say.
        """
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if is_own(path):
            return super().load_config(config_path)
        group = config_path.rpartition("/")[0]
        config, header = read_checked(path, str(path), group)
        return ConfigResult(self.provider, f"{SCHEME}://{self.path}", config, header)


def read_checked(path: Path, source: str, group: str) -> tuple[DictConfig, dict[str, str | None]]:
    """The settings in a file that is given by its path, and the header of it.

    Args:
        path: the file.
        source: the beginning of a message about it, such as ``experiment=mine.yaml``.
        group: of which it is a choice; empty for one whose settings are global unless it says so.

    Raises:
        DiscernError: it cannot be read, holds no settings, or says what only the user may say.
    """
    text, config = read_settings(path, source)
    _drop_retired(config)
    try:
        header: dict[str, str | None] = HydrasOwn._get_header_dict(text)
    except ValueError as error:
        raise DiscernError(f"{source} has a header that is wrong: {error}.") from error
    if not is_own(path):
        check_file(OmegaConf.to_container(config), source, header["package"], group)
    return config, header


RETIRED = ("study", "name", "trial", "draws")
"""Settings ``sweep.…`` in a config.yaml that an earlier version wrote."""


def _drop_retired(config: DictConfig) -> None:
    sweep = config.get("sweep")
    if isinstance(sweep, DictConfig) and sweep.get("study") is None:  # of no search
        for name in RETIRED:
            sweep.pop(name, None)
