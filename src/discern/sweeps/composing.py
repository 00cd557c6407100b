"""The configs of a sweep's jobs, composed from what the jobs before have read and merged.

Hydra reads every file and merges every group anew for each job, which takes it as long as a small
network takes for an epoch. What jobs of a sweep differ in are mostly values, and those are put in
last.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override

MOST = 16
"""Merged configs that are kept; each takes half a megabyte."""

SEARCH_PATH = "hydra.searchpath"
"""The one setting, besides the choices of groups, on which it depends which files are read."""


class _Files(CachingConfigRepository):
    """Files that are read once; each composition gets a copy, into which Hydra writes."""

    def __init__(self, sources: IConfigRepository) -> None:
        super().__init__(sources)
        self._read: dict[str, ConfigResult | None] = {}

    def afresh(self) -> _Files:
        """The same files for another composition."""
        files = copy.copy(self)
        files.cache = {}
        return files

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.cache:
            if config_path not in self._read:
                self._read[config_path] = self.delegate.load_config(config_path)
            self.cache[config_path] = copy.deepcopy(self._read[config_path])
        return self.cache[config_path]


class SweepConfigLoader(ConfigLoaderImpl):
    """Hydra's loader, which reads a file and merges the same choices once.

    So all jobs of a sweep see the files as they were when the first of them was composed. The
    methods extended here are private to Hydra, for which pyproject.toml bounds its version.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        super().__init__(loader.get_search_path())
        self._files: dict[tuple[str, ...], _Files] = {}
        self._merged: dict[str, DictConfig] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: launchers send it along with each job."""
        return {**self.__dict__, "_files": {}, "_merged": {}}

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        where = (str(config_name), *(told for told in overrides if SEARCH_PATH in told))
        if where not in self._files:
            _, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
            self._files[where] = _Files(repository.delegate)
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        return parsed, self._files[where].afresh()

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: Any
    ) -> DictConfig:
        key = f"{[source.full_path() for source in repo.get_sources()]} {defaults}"
        if key not in self._merged:
            if len(self._merged) == MOST:
                del self._merged[next(iter(self._merged))]
            self._merged[key] = super()._compose_config_from_defaults_list(defaults, repo)
        # The caller puts the job's values into what it gets.
        return copy.deepcopy(self._merged[key])
