"""How long a run may train."""

from typing import Any

from lightning.pytorch.callbacks import Timer


class TimeLimit(Timer):
    """Lightning's Timer, for the time that this run trains.

    Lightning's own counts on from where the continued run stopped: the same command would end at
    once, and never make progress.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing: another run has a time of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""
