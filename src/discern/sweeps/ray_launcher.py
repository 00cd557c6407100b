"""``hydra/launcher=ray``: jobs as tasks of Ray, on one machine or many.

Every machine writes to the sweep's folder, which has to be on a shared file system.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals

from discern.errors import DiscernError, first_line
from discern.sweeps.launcher import (
    GRACE_SECONDS,
    JobDiedError,
    JobTimeoutError,
    Setup,
    job_timeout,
    run_one,
)


class RayLauncher(BasicLauncher):
    """Runs each job as a task of Ray.

    Args:
        init: arguments of ``ray.init``.
        remote: arguments of ``ray.remote``: the resources that a job reserves.
    """

    def __init__(
        self, init: Mapping[str, Any] | None = None, remote: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._init = dict(init or {})
        self._remote = dict(remote or {})

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and return the result or exception of each."""
        try:
            import ray
        except ImportError as error:
            raise DiscernError(
                "hydra/launcher=ray needs the package ray, which is not installed; "
                "pip install 'discern[ray]' brings it."
            ) from error
        if not ray.is_initialized():
            # Silences a warning of a change to come in Ray.
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            ray.init(**quiet | self._init)
        threads = max(1, int(self._remote.get("num_cpus") or 1))
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}}
        task: Any = ray.remote(max_retries=0, runtime_env=environment, **self._remote)(_run)
        setup, state, limit = Setup.of(self), Singleton.get_state(), job_timeout(self.config)
        pending = [
            task.remote(setup, state, list(overrides), initial_job_idx + place, limit)
            for place, overrides in enumerate(job_overrides)
        ]
        results: list[JobReturn] = []
        for each in pending:
            try:
                results.append(ray.get(each))
            except ray.exceptions.RayError as error:
                within = f" (sweep.job_timeout={limit:g} s)" if math.isfinite(limit) else ""
                died = JobDiedError(f"its process has died{within}: {first_line(error)}")
                results.append(JobReturn(status=JobStatus.FAILED, _return_value=died))
        return results


def _run(
    setup: Setup,
    state: object,
    overrides: list[str],
    number: int,
    limit: float,
) -> JobReturn:
    """Run a job in a process of Ray, which ends after ``limit`` seconds."""
    Singleton.set_state(state)
    setup_globals()
    over = threading.Event()
    if math.isfinite(limit):
        threading.Thread(target=_watch, args=(over, limit), daemon=True).start()
    begun = time.monotonic()
    try:
        result = run_one(setup, overrides, number)
    except SystemExit as end:  # interrupted, as its summary says
        late = time.monotonic() - begun >= limit
        error = JobTimeoutError(limit) if late else JobDiedError(repr(end))
        return JobReturn(status=JobStatus.FAILED, _return_value=error)
    finally:
        over.set()
    return result


def _watch(over: threading.Event, limit: float) -> None:
    """Ask this process to end after a job's time, and end it if it does not."""
    if not over.wait(min(limit, threading.TIMEOUT_MAX)):
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(GRACE_SECONDS):
            os._exit(128 + signal.SIGKILL)
