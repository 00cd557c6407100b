"""The file ``.env`` of the working directory: environment variables for discern's commands."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

from discern.errors import DiscernError
from discern.files.places import is_there
from discern.files.reading import read_text

FILE = ".env"

MAX_BYTES = 1 << 16

OF_PROGRAMS = (
    "BASH_", "CUDA_INJECTION", "DYLD_", "GCONV_", "GIT_", "HYDRA_INSTANTIATE", "JAVA_", "LD_",
    "MPL", "NCCL_NET", "NCCL_PROFILER", "NCCL_TUNER", "NODE_OPTIONS", "NODE_PATH",
    "NVTX_INJECTION", "OMP_TOOL", "OPENSSL_", "PERL", "PYTHON", "RUBY", "TORCHINDUCTOR_",
    "TRITON_", "WANDB__", "XDG_CONFIG", "XDG_DATA",
)  # fmt: skip
"""Beginnings of variables that tell programs and libraries what to load or run; none is set."""

PROGRAMS = (
    "BROWSER", "CC", "CPP", "CUDA_HOME", "CUDA_PATH", "CXX", "EDITOR", "ENV", "HOME", "LDSHARED",
    "LOCPATH", "MATPLOTLIBRC", "NVCC", "PAGER", "PATH", "SHELL", "VISUAL",
)  # fmt: skip
"""Variables that name a program, or where programs and their settings are; none is set."""


def read_env_file() -> None:
    """Set the variables of ``.env`` that the environment does not have.

    Raises:
        DiscernError: the file cannot be read.
    """
    path = Path(FILE)
    if not is_there(path):
        return
    from dotenv.main import DotEnv  # start-up time

    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DiscernError(f"{FILE} cannot be read: {why}.") from error
    for name, value in DotEnv(None, StringIO(text), override=False).dict().items():
        if value is not None and "\0" not in value and not _is_of_programs(name.upper()):
            os.environ.setdefault(name, value)


def _is_of_programs(name: str) -> bool:
    return name in PROGRAMS or name.startswith(OF_PROGRAMS)
