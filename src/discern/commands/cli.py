"""The one door: ``discern train`` and whatever stands beside it."""

import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

from discern.errors import DiscernError, did_you_mean, refuse
from discern.text import visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

# conf/hydra/launcher says what Hydra's own launchers have, under their names.
warnings.filterwarnings("ignore", r"(?s).*is validated against ConfigStore schema")

HELP = """\
discern {version}: image-classification experiments that explain themselves.

Usage: discern COMMAND [GROUP=CHOICE] [SETTING=VALUE] …

Commands:
  train      train a model and measure it; -m sweeps over several values
             discern train model.hidden=[256] optimizer.lr=3e-3
  inspect    see what is in a data set: classes, sizes, bad files, images that are there twice
             discern inspect data=image_folder data.dir=photos
  evaluate   measure a saved model, with confidence intervals and pictures
             discern evaluate ckpt_path=best split=test
  predict    classify pictures in files
             discern predict ckpt_path=best input=photos
  report     make the pages of runs and sweeps anew
             discern report outputs
  compare    see what runs differ in, and whether one is better than another
             discern compare last best
  runs       list, filter and sort what is in outputs; keep the best
             discern runs model=mlp sort=val/accuracy
  cache      see, check and clear what is kept of frozen backbones
             discern cache list
  dashboard  look at runs in TensorBoard
             discern dashboard logdir=outputs port=6006

discern COMMAND --help shows a command's choices and settings.
Shell completion: eval "$(discern -sc install=bash)"   (or zsh, fish)
"""


HELP_WORDS = {"-h", "--help", "help"}


def main(argv: list[str] | None = None) -> None:
    """Run the command that ``argv`` (default: the process's arguments) names."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt as interrupt:  # most likely while packages are imported
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130) from interrupt


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in HELP_WORDS:
        print(HELP.replace("{version}", _version()), end="")
    elif arguments[0] in ("-V", "--version"):
        print(f"discern {_version()}")
    elif arguments[0] in ("-sc", "--shell_completion"):
        _complete(arguments)
    elif arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    else:
        wrong = arguments[0]
        refuse(DiscernError(f"{wrong} is not a command; {did_you_mean(wrong, COMMANDS)}"))


def _version() -> str:
    from importlib.metadata import version  # start-up time

    return version("discern")


def train(arguments: list[str] | None = None) -> None:
    """``discern train …`` and ``python train.py …``: one run, or a sweep with ``-m``."""
    main(["train", *(sys.argv[1:] if arguments is None else arguments)])


def _run_job(name: str, cfg: "DictConfig") -> object:
    from discern.console import loading  # rich

    begun = time.perf_counter()
    # Seconds, paid only by a config that has been composed and checked.
    with loading("torch", "lightning"):
        job = import_module(f"discern.commands.{name}").job
    took = {"import_seconds": time.perf_counter() - begun} if name == "train" else {}
    return job(cfg, **took)


def _plain_command(name: str, arguments: list[str]) -> None:
    module = import_module(f"discern.commands.{name}")
    status = 0
    try:
        if HELP_WORDS & set(arguments) or not (arguments or name in WORDLESS):
            print(module.HELP, end="")
        else:
            status = module.run(arguments)
        sys.stdout.flush()
    except DiscernError as error:
        refuse(error)
    except BrokenPipeError:
        # Whoever reads has seen enough, as in: discern runs limit=0 | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status:
        raise SystemExit(status)


def _hydra_command(name: str, arguments: list[str]) -> None:
    import hydra

    from discern.config.check import as_typed_settings
    from discern.config.checked_files import checked_files
    from discern.config.typed import for_hydra
    from discern.config.user_config import conf_dir
    from discern.redaction import remember

    started, asked = False, os.environ.get("HYDRA_FULL_ERROR")
    typed = sys.argv

    def composed(cfg: "DictConfig") -> object:
        nonlocal started
        started = True
        # With it Lightning starts the other processes of a run, which need the command's name too.
        sys.argv = typed
        with _environment("HYDRA_FULL_ERROR", asked):  # for the processes that the job starts
            return _run_job(name, cfg)

    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
    overrides, options = _split_hydra_options(arguments)
    remember(overrides)
    try:
        overrides = for_hydra(overrides, as_typed_settings(), _is_multirun(overrides, options))
    except DiscernError as error:
        refuse(error)
    words = [word for option in options for word in option.split("=", 1)]
    for option, value in pairwise(words):
        other = value.removesuffix(".yaml")
        if option in ("--config-name", "-cn") and other in COMMANDS and other != name:
            refuse(
                DiscernError(f"{option}={value} names another command: discern {other} runs it.")
            )
    sys.argv = [sys.argv[0], *overrides, *options]
    # Hydra would print its exceptions in several lines; with this it hands them on.
    try:
        with _environment("HYDRA_FULL_ERROR", "1"), checked_files(overrides):
            main(composed)()
    except DiscernError as error:
        refuse(error)
    except Exception as error:
        if started:
            raise
        from discern.config.compose import explain

        refuse(DiscernError(explain(error, conf_dir(), name, overrides)))


def _split_hydra_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and Hydra's options with their values, which people write in any order.

    Python's parser takes overrides only in one piece.
    """
    from hydra._internal.utils import get_args_parser

    # Those of one value, and those that may have one of some.
    kinds = {flag: a for a in get_args_parser()._actions for flag in a.option_strings}
    overrides, options, left = [], [], deque(arguments)
    while left:
        argument = left.popleft()
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        kind = kinds.get(argument)
        if kind is None or not left:
            continue
        if kind.nargs is None or (kind.nargs == "?" and left[0] in (kind.choices or ())):
            options.append(left.popleft())
    return overrides, options


def _is_multirun(overrides: list[str], options: list[str]) -> bool:
    """Whether the command is to have several jobs."""
    from hydra._internal.utils import get_args_parser

    asked, _ = get_args_parser().parse_known_args(options)
    return bool(asked.multirun) or "hydra.mode=MULTIRUN" in overrides


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or with None remove it, for the length of the block."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _complete(arguments: list[str]) -> None:
    """Answer the shell: names of commands, then what Hydra knows of the command."""
    first, _, rest = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    command, space, typed = rest.lstrip().partition(" ")
    if first and not space:
        print(visible(" ".join(name for name in COMMANDS if name.startswith(command))))
        return
    if command in COMPLETED:
        words = import_module(f"discern.commands.{command}").completions(typed)
        print(visible(" ".join(words)))
        return
    if command in PLAIN:  # folders, which the shell completes
        return
    os.environ["COMP_LINE"] = f"{first} {typed}"
    COMMANDS.get(command, train)(arguments)


JOBS = ("train", "inspect", "evaluate", "predict")
"""Commands that Hydra composes; the ``job`` in the module of that name runs one."""

PLAIN = ("report", "compare", "runs", "cache", "dashboard")
"""Commands whose module in ``discern.commands`` reads its words itself, in ``run``."""

WORDLESS = ("runs", "dashboard")
"""Those of them that do something without a word; the others show their help."""

COMPLETED = ("runs", "cache", "dashboard")
"""Those of them that complete words."""

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    **{name: partial(_hydra_command, name) for name in JOBS},
    **{name: partial(_plain_command, name) for name in PLAIN},
}
