"""Finding runs and the checkpoints in them."""

from pathlib import Path

from discern.errors import DiscernError

OUTPUTS = Path("outputs")
"""Where runs are kept, below the working directory."""

SWEEP = "sweep.json"
"""The list of a sweep's jobs, in its folder."""


def find_sweep(wanted: str) -> Path:
    """The folder that a setting ``sweep.resume`` means.

    Args:
        wanted: a sweep's folder, or ``last`` for the newest in ``outputs``.

    Raises:
        DiscernError: there is none.
    """
    if wanted == "last":
        found = list(OUTPUTS.glob(f"**/{SWEEP}"))
        if not found:
            raise DiscernError(f"sweep.resume=last needs a sweep in {OUTPUTS}, and there is none.")
        return max(found, key=lambda file: file.stat().st_mtime_ns).parent
    folder = Path(wanted).expanduser()
    if not (folder / SWEEP).is_file():
        raise DiscernError(
            f"sweep.resume={wanted} is not the folder of a sweep: it has no {SWEEP}."
        )
    return folder


def find_checkpoint(wanted: str) -> Path:
    """The file that a setting ``ckpt_path`` means.

    Args:
        wanted: a checkpoint's path; a run's folder, for its last checkpoint; ``last`` or ``best``,
            for that checkpoint of the newest run in ``outputs``.

    Raises:
        DiscernError: there is none.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if last.is_file():
            return last
        raise DiscernError(f"ckpt_path={wanted} is a folder without checkpoints/last.ckpt in it.")
    if wanted in ("last", "best"):
        found = list(OUTPUTS.glob(f"**/checkpoints/{wanted}.ckpt"))
        if found:
            return max(found, key=lambda file: file.stat().st_mtime_ns)
        raise DiscernError(f"ckpt_path={wanted} needs a run in {OUTPUTS}, and there is none.")
    raise DiscernError(
        f"ckpt_path={wanted} does not exist; it must be a checkpoint's path, a run's folder, "
        "or last or best for the newest run's."
    )
