"""The sample of MNIST that is installed with this package."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.data.published.publication import DIMENSIONS
from discern.errors import DiscernError

SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist.npz"
SAMPLE_SHA256 = "712d65f1fa1ac1adeb7dbc2019bafe136ed53fc75095a50c58429a5d9c74e921"


@cache
def read_sample() -> dict[str, NDArray[np.uint8]]:
    """Arrays of the sample under the names of the published files; shared, not to be changed.

    Raises:
        DiscernError: the file is missing or is not the one released.
    """
    try:
        content = SAMPLE_FILE.read_bytes()
    except OSError as error:
        raise DiscernError(
            f"{SAMPLE_FILE} cannot be read ({error.strerror or error}): reinstall discern."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SAMPLE_SHA256:
        raise DiscernError(
            f"{SAMPLE_FILE} is damaged, its SHA-256 starts with {found[:12]} instead of "
            f"{SAMPLE_SHA256[:12]}: reinstall discern."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in DIMENSIONS}
