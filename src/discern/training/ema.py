"""Averaged weights."""

from lightning.pytorch.callbacks import EMAWeightAveraging


def ema(decay: float | None, update_every_n_steps: int = 1) -> EMAWeightAveraging | None:
    """Lightning's exponential moving average of the weights, or None without a decay.

    Validation, the checkpoints and the model that is tested then have the averaged weights, whose
    error is often lower than that of any single step's (Polyak & Juditsky, 1992).

    Args:
        decay: what remains of the average at an update, above 0 and below 1.
        update_every_n_steps: optimizer steps from one update to the next.
    """
    if decay is None:
        return None
    return EMAWeightAveraging(decay=decay, update_every_n_steps=update_every_n_steps)
