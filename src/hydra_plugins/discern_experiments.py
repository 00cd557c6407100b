"""Where Hydra finds the files that ``experiment=FILE`` names; it imports this at every start.

Hydra composes the config of each job of a sweep anew, also in other processes, and asks its sources
each time, so that a file is found there as a choice of conf/experiment is.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from discern.config.experiment_file import find_file, is_path
from discern.errors import DiscernError

GROUP = "experiment/"
"""What the paths begin with that Hydra asks for, before the choice."""

PATHS, NAMES = "experiment://paths", "experiment://names"


class ExperimentSearchPath(SearchPathPlugin):
    """Paths are looked for before the choices of conf/experiment, bare names after them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the files before and after what there is."""
        search_path.prepend("experiment", PATHS)
        search_path.append("experiment", NAMES)


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
            DiscernError: it cannot be read, holds no settings, or says what only the user may say.
        """
        from discern.config.checked_files import read_checked

        choice = config_path.removeprefix(GROUP)
        path = find_file(choice)
        if path is None:
            raise DiscernError(f"experiment={choice} is gone.")
        config, header = read_checked(path, f"experiment={path}", "")
        header["package"] = header["package"] or "_global_"
        return ConfigResult(self.provider, self.full_path(), config, header)
