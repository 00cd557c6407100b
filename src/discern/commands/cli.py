"""The command line: ``discern train`` and the other subcommands."""

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
from discern.version import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

# conf/hydra/launcher redefines Hydra's own launchers under the same names.
warnings.filterwarnings("ignore", r"(?s).*is validated against ConfigStore schema")

HELP = """\
discern {version}: image-classification experiments that explain themselves.

Usage: discern COMMAND [GROUP=CHOICE] [SETTING=VALUE] …

Commands:
  train      train a model and measure it; -m sweeps over several values
             discern train 'model.hidden=[256]' optimizer.lr=3e-3
  inspect    look into a data set: classes, sizes, bad files, duplicate images
             discern inspect data=image_folder data.dir=photos
  evaluate   measure a saved model, with confidence intervals and pictures
             discern evaluate ckpt_path=best split=test
  predict    classify pictures in files
             discern predict ckpt_path=best input=photos
  export     write a saved model as ONNX and other formats, and prove that nothing was lost
             discern export ckpt_path=best out=exported
  serve      answer requests over HTTP with a saved model
             discern serve ckpt_path=best port=8000
  report     rebuild the report pages of runs and sweeps
             discern report outputs
  compare    show the differences between runs, and whether one is better
             discern compare last best
  card       write a model's README and weights as a folder for a model hub
             discern card best out=my-model license=mit
  runs       list, filter and sort what is in outputs; keep the best
             discern runs model=mlp sort=val/accuracy
  cache      list, verify and clear the cached features of frozen backbones
             discern cache list
  dashboard  look at runs in TensorBoard
             discern dashboard logdir=outputs port=6006
  doctor     see versions, devices, folders and extras, for a bug report
             discern doctor
  schema     write JSON schemas, with which editors complete and check YAML files
             discern schema

discern COMMAND --help shows a command's choices and settings.
Shell completion: eval "$(discern -sc install=bash)"   (or zsh, fish)
"""


HELP_WORDS = {"-h", "--help", "help"}


def main(argv: list[str] | None = None) -> None:
    """Run the command that ``argv`` (default: the process's arguments) names."""
    _open_closed_streams()
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt as interrupt:  # most likely while packages are imported
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130) from interrupt


def _open_closed_streams() -> None:
    """Have standard streams that are closed lead nowhere.

    Otherwise the next file that is opened gets the number of one, and what a library prints goes
    into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in HELP_WORDS:
        print(HELP.replace("{version}", __version__), end="")
    elif arguments[0] in ("-V", "--version"):
        print(f"discern {__version__}")
    elif arguments[0] in ("-sc", "--shell_completion"):
        _complete(arguments)
    elif arguments[0] in COMMANDS:
        _read_env_file()
        COMMANDS[arguments[0]](arguments[1:])
    else:
        wrong = arguments[0]
        refuse(DiscernError(f"{wrong} is not a command; {did_you_mean(wrong, COMMANDS)}"))


def _read_env_file() -> None:
    from discern.config.env_file import read_env_file  # start-up time

    try:
        read_env_file()
    except DiscernError as error:
        refuse(error)


def train(arguments: list[str] | None = None) -> None:
    """``discern train …`` and ``python train.py …``: one run, or a sweep with ``-m``."""
    main(["train", *(sys.argv[1:] if arguments is None else arguments)])


def _run_job(name: str, cfg: "DictConfig") -> object:
    """Hydra's task: one job in the folder that Hydra made."""
    from hydra.core.hydra_config import HydraConfig

    from discern.console import loading  # rich

    cfg[JOBS[name]] = HydraConfig.get().runtime.output_dir
    begun = time.perf_counter()
    # Takes seconds, so only once a config has been composed and checked.
    with loading("torch", "lightning"):
        module = import_module(f"discern.commands.{name}")
        from discern.training.job import as_job
    if name == "train":
        return module.job(cfg, time.perf_counter() - begun)
    with as_job():
        getattr(module, name)(cfg)
    return None


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
        # The reader has closed the pipe, as in: discern runs limit=0 | head
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
    from discern.runs.holding import release_all

    # Hydra would print its exceptions in several lines; with this it raises them.
    try:
        with _environment("HYDRA_FULL_ERROR", "1"), checked_files(overrides):
            main(composed)()
    except DiscernError as error:
        refuse(error)
    except Exception as error:
        if started:
            raise
        from discern.config.compose import explain, explain_all

        # A sweep's jobs differ, and options such as --config-dir change what can be chosen.
        if options:
            refuse(DiscernError(explain(error, name, overrides)))
        refuse(DiscernError("\n".join(dict.fromkeys(explain_all(error, name, overrides)))))
    finally:
        release_all()


def _split_hydra_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and Hydra's options with their values, from arguments in any order.

    argparse accepts overrides only as one contiguous group.
    """
    from hydra._internal.utils import get_args_parser

    # Options take one value, or optionally one of several choices.
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
    """Whether the command runs several jobs."""
    from hydra._internal.utils import get_args_parser

    asked, _ = get_args_parser().parse_known_args(options)
    return bool(asked.multirun) or "hydra.mode=MULTIRUN" in overrides


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or remove it if None, within the block."""
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
    """Complete a command's name, or its arguments through Hydra."""
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


JOBS = {
    "train": "folder", "inspect": "folder", "evaluate": "folder", "predict": "out", "export": "out",
}  # fmt: skip
"""Commands that Hydra composes -> the setting that names the job's folder. Each is run by the
function of its name in the module of its name."""

PLAIN = ("serve", "report", "compare", "card", "runs", "cache", "dashboard", "doctor", "schema")
"""Commands whose module in ``discern.commands`` parses its own arguments, in ``run``."""

WORDLESS = ("runs", "dashboard", "doctor", "schema")
"""Plain commands that work without arguments; the others print their help."""

COMPLETED = ("serve", "card", "runs", "cache", "dashboard", "doctor", "schema")
"""Plain commands with shell completion of their own."""

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    **{name: partial(_hydra_command, name) for name in JOBS},
    **{name: partial(_plain_command, name) for name in PLAIN},
}
