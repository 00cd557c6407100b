"""Where Hydra finds discern's sweepers and launchers; it imports this at every start."""

from discern.sweeps.launcher import JobsLauncher
from discern.sweeps.ray_launcher import RayLauncher
from discern.sweeps.search import SearchSweeper
from discern.sweeps.sweeper import GridSweeper


class Grid(GridSweeper):
    """``hydra/sweeper=grid``."""


class Search(SearchSweeper):
    """``hydra/sweeper=optuna``."""


class Jobs(JobsLauncher):
    """``hydra/launcher=jobs``."""


class RayTasks(RayLauncher):
    """``hydra/launcher=ray``."""
