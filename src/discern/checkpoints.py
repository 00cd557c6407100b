"""What a saved model is, and how it is trusted."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from discern.errors import DiscernError
from discern.files import write_whole


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only.

    Lightning writes to the system's temporary folder and moves: killed in the middle across file
    systems it leaves an empty file, into a folder without write permission it returns as if all
    were well. Here the new file is complete and on disk before it takes the name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``; raises OSError if that is not possible."""
        with write_whole(Path(path), "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is ever executed, whatever the caller asks for.

        Raises:
            DiscernError: the file is not a checkpoint, or holds more than tensors and plain values.
        """
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise DiscernError(
                f"ckpt_path={path} cannot be read; it must be a checkpoint that holds tensors and "
                "plain values only and is complete."
            ) from error
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise DiscernError(f"ckpt_path={path} is not a checkpoint of a training run.")
        return checkpoint
