"""The launcher for Ray, with one that runs tasks at once; test_sweeper has the real Ray."""

from __future__ import annotations

from sweeping import results

from starter import invoke

STAND_IN = """
import sys, types, cloudpickle

class RayError(Exception):
    pass

class Task:
    def __init__(self, work):
        self.work = cloudpickle.dumps(work)

    def remote(self, *arguments):
        return self.work, cloudpickle.dumps(arguments)

def get(pending):
    work, arguments = map(cloudpickle.loads, pending)
    if "optimizer.lr=0.5" in arguments[2]:
        raise RayError("the node is gone\\nand more")
    return work(*arguments)

ray = types.ModuleType("ray")
ray.exceptions = types.SimpleNamespace(RayError=RayError)
ray.is_initialized, ray.init, ray.get = lambda: False, lambda **options: print(options), get
ray.remote = lambda **options: print(options) or Task
sys.modules["ray"] = ray

from discern.commands.cli import main
main()
"""
QUICK = (
    "data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.max_epochs=1",
    "trainer.accelerator=cpu", "logger=csv", "hydra.sweep.dir=sweep", "hydra/launcher=ray",
)  # fmt: skip


def test_jobs_run_as_tasks_and_one_whose_node_is_gone_is_a_row(tmp_path):
    done = invoke(
        "-c", STAND_IN, "train", "-m", *QUICK, "optimizer.lr=1e-2,0.5,-1",
        "trainer.callbacks=[]", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    rows = {row["number"]: row for row in results(tmp_path / "sweep")["rows"]}
    assert [rows[number]["state"] for number in range(3)] == ["done", "failed", "failed"]
    assert rows[1]["reason"] == "its process has died: the node is gone"
    assert rows[2]["reason"].startswith("optimizer.lr=-1 is not allowed")
    # The driver prints nothing of Ray's own, and a job takes as many threads as it reserves.
    assert "'log_to_driver': False" in done.stdout
    assert "'OMP_NUM_THREADS': '1'" in done.stdout


def test_an_interrupted_job_is_one_that_has_died(tmp_path):
    done = invoke(
        "-c", STAND_IN, "train", "-m", *QUICK, "seed=1",
        "trainer.callbacks=[{_target_: sweeping.Dies, how: sysexit}]", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    (row,) = results(tmp_path / "sweep")["rows"]
    assert row["state"] == "interrupted"


def test_without_ray_it_says_what_brings_it(tmp_path):
    program = "import sys; sys.modules['ray'] = None; from discern.commands.cli import main; main()"
    done = invoke("-c", program, "train", "-m", *QUICK, "seed=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "hydra/launcher=ray needs the package ray, which is not installed" in done.stdout
