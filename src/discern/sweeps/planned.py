"""What is wrong with the jobs of a sweep, told before the first one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from discern.config.check import check_names, faults
from discern.config.missing import missing
from discern.config.settle import leave_out
from discern.errors import DiscernError, as_override, raise_all
from discern.sweeps.names import differing

NOT_RANKABLE = {
    "find_lr": (
        True,
        "ends with a suggestion, by which no job can be ranked; find_lr=use trains with it",
    ),
    "train": (
        False,
        "gives nothing to rank jobs by; discern evaluate -m ckpt_path=… measures several models",
    ),
}
"""Setting -> the value with which a job has no objective, and why."""

OF_THE_MACHINE = (
    "ckpt_path", "data.dir", "data.source", "data.url", "model.backbone", "model.init_from",
    "model.library", "model.weights", "trainer.accelerator",
)  # fmt: skip
"""Settings that need something of the machine."""

Choices = frozenset[tuple[str, str]]
"""Settings of a job, and their values, that decide what it needs."""


def check_jobs(
    jobs: Sequence[Mapping[str, str]],
    loader: ConfigLoader,
    compose: Callable[[Mapping[str, str]], DictConfig],
    *,
    elsewhere: bool,
) -> None:
    """Compose configs, and refuse what would end each job, or some for want of a thing.

    Each choice of a group, and each value that needs something of the machine, is composed once.
    Other values that differ between jobs are checked by each job.

    Args:
        jobs: setting -> value, of each.
        loader: Hydra's.
        compose: the config of a job.
        elsewhere: whether they run on other machines, of which nothing is known here.

    Raises:
        DiscernError: a setting is unknown or wrong in all jobs, some have no objective, or the
            machine lacks what some need.
    """
    decisive = {key for key in set(chain(*jobs)) if _is_decisive(key.lstrip("+~"), loader)}
    found: dict[Choices, list[str]] = {}
    wrong: list[dict[str, str]] = []
    tried: set[tuple[str, str]] = set()
    for job in jobs:
        choices = frozenset((key, value) for key, value in job.items() if key in decisive)
        if tried and not choices - tried:
            continue
        tried |= choices or {("", "")}
        cfg = compose(job)
        leave_out(cfg)
        check_names(cfg)
        for name, (value, why) in NOT_RANKABLE.items():
            if cfg[name] is value:
                raise DiscernError(f"{name}={as_override(value)} {why}.")
        wrong.append(faults(cfg, "train"))
        found[choices] = [wrong[-1][name] for name in OF_THE_MACHINE if name in wrong[-1]]
        if not elsewhere:
            found[choices] += missing(cfg, "train", wrong[-1])
    varied = {key.lstrip("+~") for key in differing(jobs)}
    raise_all([*_of_all(wrong, varied), *_with_choices(found)])


def _is_decisive(key: str, loader: ConfigLoader) -> bool:
    known = key in NOT_RANKABLE or key in OF_THE_MACHINE
    return known or bool(loader.get_group_options(key.partition("@")[0]))


def _of_all(wrong: Sequence[Mapping[str, str]], varied: set[str]) -> Iterable[str]:
    """What is wrong with a setting in every job, whatever the value that they differ in."""
    for setting, sentence in wrong[0].items():
        if setting not in varied and all(setting in each for each in wrong):
            yield sentence


def _with_choices(found: Mapping[Choices, Sequence[str]]) -> Iterable[str]:
    """What is missing, with the choices of the jobs that need it, unless all do."""
    for sentence in dict.fromkeys(sentence for each in found.values() for sentence in each):
        needing = [choices for choices, said in found.items() if sentence in said]
        others = [choices for choices in found if choices not in needing]
        reasons = frozenset.intersection(*needing).difference(*others)
        named = " ".join(f"{key}={value}" for key, value in sorted(reasons))
        yield f"Jobs with {named}: {sentence}" if others and named else sentence
