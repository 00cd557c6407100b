"""Removing a folder, however deep, and nothing that its links lead to."""

import errno
import shutil
import subprocess
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it, however deep; links are removed and not followed.

    Raises:
        OSError: something in it cannot be removed, or it is itself a link to a folder.
    """
    try:
        shutil.rmtree(folder)
    except (RecursionError, OSError) as error:
        # Before Python 3.13 it calls itself, and has a file open, for each folder in a folder.
        too_deep = isinstance(error, RecursionError) or error.errno == errno.EMFILE
        if not too_deep:
            raise
        done = subprocess.run(["/bin/rm", "-rf", "--", folder], capture_output=True, check=False)
        if done.returncode:
            raise OSError(errno.EACCES, "it cannot be removed", str(folder)) from error
