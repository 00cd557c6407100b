"""Messages of libraries that a user of discern can do nothing about, one by one."""

import logging
import warnings


def quiet_libraries() -> None:
    """Leave out what only a developer of the library could act on; everything else is shown."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        # Which devices exist and why fit ended, each in discern's own lines already; and its own
        # handler prints what the root logger's handlers print, a second time.
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()
        logger.propagate = True
    # Lightning 2.6 calls what torch 2.14 deprecates.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Images in memory are cut by index: worker processes would slow it down (measured: 4 x).
    warnings.filterwarnings("ignore", message=r".*does not have many workers which may be a bottle")
    # log_every_n_steps is meant for long epochs; a short one has its row in metrics.csv.
    warnings.filterwarnings(
        "ignore", message=r"The number of training batches .* is smaller than the log"
    )
    # The run's folder holds config.yaml before the first checkpoint is written.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # A frozen backbone is meant to be in eval mode.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start")
    # accelerator=auto takes a GPU: who runs on the CPU beside one has asked for it.
    warnings.filterwarnings("ignore", message=r"GPU available but not used")
