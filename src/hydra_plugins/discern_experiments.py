"""Where Hydra finds the files that ``experiment=FILE`` names; it imports this at every start.

Hydra composes the config of each job of a sweep anew, also in other processes, and asks its sources
each time, so that a file is found there as a choice of conf/experiment is.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from discern.errors import DiscernError
from discern.experiments import find_file, is_path, read_settings
from discern.foreign import SCHEME, check_file, checked_path, is_discerns, is_own

GROUP = "experiment/"
"""What the paths begin with that Hydra asks for, before the choice."""

PATHS, NAMES = "experiment://paths", "experiment://names"


class ExperimentSearchPath(SearchPathPlugin):
    """Paths are looked for before the choices of conf/experiment, bare names after them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the files before and after what there is."""
        search_path.prepend("experiment", PATHS)
        search_path.append("experiment", NAMES)
        if is_discerns(search_path):
            for element in search_path.get_path():
                element.path = checked_path(element.path)


class SettingsFiles(FileConfigSource):
    """The folders of a command's search path, one's own and those given by path."""

    @staticmethod
    def scheme() -> str:
        """What stands before ``://`` in Hydra's search path."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file, and check what is neither discern's nor in the user's ``./conf``.

        Raises:
            DiscernError: it holds no settings, or says what only the user may say.
        """
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if is_own(path):
            return super().load_config(config_path)
        text, config = read_settings(path, str(path))
        header = self._get_header_dict(text)
        group = config_path.rpartition("/")[0]
        check_file(OmegaConf.to_container(config), str(path), header["package"], group)
        return ConfigResult(self.provider, f"{SCHEME}://{self.path}", config, header)


class ExperimentFiles(ConfigSource):
    """Files on disk; it lists none of them and answers for no other group."""

    @staticmethod
    def scheme() -> str:
        """What stands before ``://`` in Hydra's search path."""
        return "experiment"

    def available(self) -> bool:
        """There may always be files."""
        return True

    def is_group(self, config_path: str) -> bool:
        """The group is that of conf/experiment."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether the choice is a file, and written in the way that this source is for."""
        choice = config_path.removeprefix(GROUP)
        if choice == config_path or is_path(choice) != (self.full_path() == PATHS):
            return False
        return find_file(choice) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: the choices to offer are those of conf/experiment."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file, whose settings are global also where it does not say so.

        Raises:
            DiscernError: it cannot be read, or holds no settings.
        """
        choice = config_path.removeprefix(GROUP)
        path = find_file(choice)
        if path is None:
            raise DiscernError(f"experiment={choice} is gone.")
        told = f"experiment={path}"
        text, config = read_settings(path, told)
        try:
            header = self._get_header_dict(text)
        except ValueError as error:
            raise DiscernError(f"{told} has a header that is wrong: {error}.") from error
        header["package"] = header["package"] or "_global_"
        if not is_own(path):
            check_file(OmegaConf.to_container(config), told, header["package"])
        return ConfigResult(self.provider, self.full_path(), config, header)
