"""Where Hydra finds a user's own choices; it imports this at every start."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OwnSearchPath(SearchPathPlugin):
    """The folder ``conf`` of the working directory comes after discern's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder after what there is, for discern's commands only."""
        from discern.config.user_config import conf_dir, user_conf_dir

        folder = user_conf_dir()
        discerns = {str(conf_dir()), f"file://{conf_dir()}"}
        if folder and any(element.path in discerns for element in search_path.get_path()):
            search_path.append("own", f"file://{folder}")
