"""The configs of a sweep's jobs, composed from what was composed for the jobs before.

Hydra reads every file, chooses among them and merges them anew for each job, which takes it as long
as a small network takes for an epoch. What jobs of a sweep differ in are mostly values, and those
are put in last.
"""

from __future__ import annotations

import copy
import functools
import pickle
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig

from discern.config.checked_files import checked_files

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

MOST = 256
"""Configs without values that are kept; each takes 30 kilobytes."""

SEARCH_PATH = "hydra.searchpath"
"""The one setting, besides the choices of groups, on which it depends which files are read."""

SUBDIR = "hydra.sweep.subdir"
"""The one setting of Hydra's that differs from job to job: nothing else is computed from it."""


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
    """Hydra's loader, which reads a file and composes the same choices once.

    So all jobs of a sweep see the files as they were when the first of them was composed. The
    methods extended here are private to Hydra: the sweeper imports this module with the release
    that it was written for, and uses Hydra's own loader with another.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        super().__init__(loader.get_search_path())
        self._files: dict[tuple[str, ...], _Files] = {}
        self._chosen: dict[tuple[str | None, ...], DictConfig] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: launchers send it along with each job."""
        return {**self.__dict__, "_files": {}, "_chosen": {}}

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        where = (str(config_name), *(told for told in overrides if SEARCH_PATH in told))
        if where not in self._files:
            _, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
            self._files[where] = _Files(repository.delegate)
        return [_parsed(each) for each in overrides], self._files[where].afresh()

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        with checked_files(overrides):
            return self._composed(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )

    def _composed(self, config_name: str | None, overrides: list[str], *how: Any) -> DictConfig:
        parsed, files = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        if any(each.is_sweep_override() for each in parsed):
            return super()._load_configuration_impl(config_name, overrides, *how)
        values: list[Override] = []
        choices: list[str] = []
        for each, line in zip(parsed, overrides, strict=True):
            if _is_value(each, files):
                values.append(each)
            else:
                choices.append(line)
        key = (config_name, str(how[0]), *choices)
        if key not in self._chosen:
            if len(self._chosen) == MOST:
                del self._chosen[next(iter(self._chosen))]
            base = super()._load_configuration_impl(config_name, choices, *how)
            self._chosen[key] = QuickCopy.of(base)
        config = copy.deepcopy(self._chosen[key])
        self._apply_overrides_to_config(values, config)
        told = [each for each in parsed if not each.is_hydra_override()]
        config.hydra.overrides.task = [each.input_line for each in told]
        config.hydra.overrides.hydra = [o.input_line for o in parsed if o.is_hydra_override()]
        job = config.hydra.job
        named = job.config.override_dirname
        job.override_dirname = get_overrides_dirname(
            told, kv_sep=named.kv_sep, item_sep=named.item_sep, exclude_keys=named.exclude_keys
        )
        return config


class QuickCopy(DictConfig):
    """A config that is copied by pickle in 4 ms, where OmegaConf takes 8.

    Hydra copies the config of a job four times before the job sees it.
    """

    @classmethod
    def of(cls, config: DictConfig) -> DictConfig:
        """The config itself, and its settings of Hydra, which Hydra also copies alone."""
        for node in (config, config.hydra):
            object.__setattr__(node, "__class__", cls)  # not a setting of that name
        return config

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        parent = self.__dict__["_parent"]
        self.__dict__["_parent"] = None  # retained, but not copied
        try:
            copied: DictConfig = pickle.loads(pickle.dumps(self, pickle.HIGHEST_PROTOCOL))
        except pickle.PicklingError:
            # In the processes of other launchers Hydra has imported its plugins a second time.
            copied = super().__deepcopy__(memo)
        finally:
            self.__dict__["_parent"] = parent
        copied.__dict__["_parent"] = parent
        return copied


@functools.lru_cache(maxsize=1024)
def _parsed(override: str) -> Override:
    """An override as Hydra reads it; jobs have most of theirs in common, and nobody changes one."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    return parsed


def _is_value(override: Override, files: IConfigRepository) -> bool:
    """Whether nothing depends on it but the value at its place in what was composed."""
    key = override.key_or_group
    if override.is_hydra_override() or key == "hydra":
        return key == SUBDIR
    return isinstance(override.value(), dict) or not files.group_exists(key)
