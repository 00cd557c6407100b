"""Where Hydra finds ``experiment=FILE`` and a user's own choices; it imports this at every start.

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
"""The beginning, before the choice, of the paths that Hydra asks for."""

PATHS, NAMES = "experiment://paths", "experiment://names"


class ChoicesSearchPath(SearchPathPlugin):
    """Paths of experiments come before discern's choices, bare names and ``./conf`` after them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the sources; ``./conf`` for discern's commands only."""
        from discern.config.user_config import conf_dir, user_conf_dir  # start-up time

        folder, discerns = user_conf_dir(), {str(conf_dir()), f"file://{conf_dir()}"}
        if folder and any(element.path in discerns for element in search_path.get_path()):
            search_path.append("own", f"file://{folder}")
        search_path.prepend("experiment", PATHS)
        search_path.append("experiment", NAMES)


class ExperimentFiles(ConfigSource):
    """Files on disk as choices of the group ``experiment``; it lists none of them."""

    @staticmethod
    def scheme() -> str:
        """The part before ``://`` in Hydra's search path."""
        return "experiment"

    def available(self) -> bool:
        """Always: there may be files."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Never: conf/experiment is the group."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether the choice is a file, written as a path or as a name as this source takes it."""
        choice = config_path.removeprefix(GROUP)
        if choice == config_path or is_path(choice) != (self.full_path() == PATHS):
            return False
        return find_file(choice) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: the choices to offer are those of conf/experiment."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file; its settings are global unless its header names a package.

        Raises:
            DiscernError: it cannot be read, holds no settings, or says what only the user may say.
        """
        from discern.config.checked_files import read_checked  # start-up time

        choice = config_path.removeprefix(GROUP)
        path = find_file(choice)
        if path is None:
            raise DiscernError(f"experiment={choice} is gone.")
        config, header = read_checked(path, f"experiment={path}", "")
        header["package"] = header["package"] or "_global_"
        return ConfigResult(self.provider, self.full_path(), config, header)
