from __future__ import annotations

import logging
import os
import shlex
import signal

import pytest
from lightning.pytorch import Callback

from discern.runs.signals import BY_CTRL_C, BY_SIGNAL
from discern.runs.state import State
from discern.training.fit import fit
from discern.training.interrupt import GracefulStop
from discern.training.terminal import way_on
from run_files import SHOWN, STEPS_PER_EPOCH, checkpoint, metrics_csv, same_bits, summary, weights
from starter import invoke


def sends(step: int, number: int = signal.SIGINT, during: str = "step") -> str:
    settings = f"step: {step}, number: {int(number)}, during: {during}"
    return f"trainer.callbacks=[{{_target_: run_files.Signal, {settings}}}]"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGINT, "by Ctrl-C"),
        (signal.SIGTERM, "by SIGTERM"),
        (signal.SIGUSR1, "by SIGUSR1"),
        (signal.SIGHUP, "by SIGHUP"),
    ],
)
def test_a_signal_ends_training_after_the_step_under_way(tiny_run, number, reason):
    step = STEPS_PER_EPOCH + 3
    result = tiny_run(sends(step, number))
    facts = summary(result.folder)
    assert (result.state, result.reason) == (State.INTERRUPTED, reason)
    assert (facts["state"], facts["reason"]) == ("interrupted", reason)
    saved = checkpoint(result.folder)
    assert saved["global_step"] == step
    assert {int(s["step"]) for s in saved["optimizer_states"][0]["state"].values()} == {step}
    assert len(metrics_csv(result.folder)) == 1
    assert summary(result.folder)["metrics"].keys() == {"train", "val"}  # no test


def test_the_command_that_continues_is_told(tmp_path):
    words = ("data.source=sample", "trainer.accelerator=cpu", "trainer.max_epochs=2", "logger=csv")
    ended = invoke("train", *words, sends(3), "hydra.run.dir=outputs/a", cwd=tmp_path, draws=False)
    assert ended.returncode == 130
    (line,) = [each for each in ended.stdout.splitlines() if each.startswith("Interrupted")]
    said, _, command = line.partition(". Continue: python train.py ")
    assert said == "Interrupted by Ctrl-C"
    typed = [each for each in shlex.split(command) if not each.startswith("trainer.callbacks")]
    assert typed == [*words, "ckpt_path=last"]
    done = invoke("train", *typed, cwd=tmp_path, draws=False)
    assert "Finished: 2 of 2 epochs." in done.stdout


class FailsOnce(Callback):
    """A user's own callback that cannot be called in the second epoch of a first attempt."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1 and "FAILS" in os.environ:
            raise RuntimeError("no room")


def test_the_command_that_continues_a_failed_run_is_told(tiny_run, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "discern")
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(RuntimeError, match="no room"):
        tiny_run("trainer.callbacks=[{_target_: training.test_interrupt.FailsOnce}]")
    told = [each for each in caplog.messages if "Continue: " in each]
    begin = "The last checkpoint is kept. Continue: python train.py "
    assert told == [f"{begin}ckpt_path={tmp_path / 'run'}"]
    monkeypatch.delenv("FAILS")
    assert tiny_run(f"ckpt_path={tmp_path / 'run'}", name="rest").state is State.DONE


def test_no_command_is_told_that_begins_with_damaged_checkpoints(tiny_run):
    folder = tiny_run("trainer.max_epochs=1").folder
    assert way_on({"overrides": []}, folder) is not None
    (folder / "checkpoints" / "last.safetensors").write_bytes(b"")
    assert way_on({"overrides": []}, folder) is not None  # from the best
    (folder / "checkpoints" / "best.safetensors").write_bytes(b"")
    assert way_on({"overrides": []}, folder) is None


def test_statuses_are_those_of_shells():
    assert {number: ended.status for number, ended in BY_SIGNAL.items()} == {
        signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGHUP: 129,
    }  # fmt: skip


@pytest.mark.parametrize("number", BY_SIGNAL)
def test_a_signal_in_the_test_ends_the_run_at_once(tmp_path, number):
    words = ("data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "logger=csv")
    words += ("trainer.accelerator=cpu", "trainer.max_epochs=1", "hydra.run.dir=run", "threads=1")
    first = ("train", *words, sends(1, number, "test"), "auto_resume=true")
    ended = invoke(*first, cwd=tmp_path, draws=False)
    assert ended.returncode == BY_SIGNAL[number].status, ended.stderr
    facts = summary(tmp_path / "run")
    assert (facts["state"], facts["reason"]) == ("interrupted", BY_SIGNAL[number].reason)
    assert "test" not in facts["metrics"]
    again = invoke("train", *words, "auto_resume=true", cwd=tmp_path, draws=False)
    assert again.returncode == 0, again.stderr
    facts = summary(tmp_path / "run")
    assert (facts["state"], facts["epochs"]) == ("done", 1)
    assert "test" in facts["metrics"]


def test_a_run_that_nohup_began_heeds_no_closed_terminal(tiny_run):
    found = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tiny_run(sends(2, signal.SIGHUP)).state is State.DONE
    finally:
        signal.signal(signal.SIGHUP, found)


@pytest.mark.parametrize("scheduler", ["none", "cosine"])
def test_an_interrupted_run_that_is_continued_is_the_undisturbed_run(tiny_run, scheduler):
    shown = SHOWN if scheduler == "cosine" else ()  # pictures draw no random numbers
    settings = ("trainer.max_epochs=3", "model.dropout=0.2", f"scheduler={scheduler}", *shown)
    whole = tiny_run(*settings, name="whole")
    for step in (1, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2):
        part = tiny_run(*settings, sends(step), name=f"part{step}")
        last = part.folder / "checkpoints" / "last.safetensors"
        rest = tiny_run(*settings, f"ckpt_path={last}", name=f"rest{step}")
        assert same_bits(weights(rest.folder), weights(whole.folder)), step
        assert rest.metrics == whole.metrics, step
        assert [row["epoch"] for row in metrics_csv(rest.folder)] == [1, 2, 3], step


def test_a_run_that_overfits_goes_on_within_its_few_batches(tiny_run):
    settings = ("trainer.overfit_batches=4", "trainer.max_epochs=2")
    whole = tiny_run(*settings, name="whole")
    part = tiny_run(*settings, sends(3), name="part")
    last = part.folder / "checkpoints" / "last.safetensors"
    rest = tiny_run(*settings, f"ckpt_path={last}", name="rest")
    assert same_bits(weights(rest.folder), weights(whole.folder))
    assert rest.metrics == whole.metrics


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("during", ["step", "validation", "epoch end"])
def test_a_signal_at_the_end_of_an_epoch_lets_it_end(tiny_run, number, during):
    result = tiny_run(sends(STEPS_PER_EPOCH, number, during))
    (row,) = metrics_csv(result.folder)
    assert row.keys() >= {"train/loss", "val/loss"}
    assert result.metrics.keys() == {"train", "val"}
    assert summary(result.folder)["epochs"] == 1
    assert checkpoint(result.folder)["global_step"] == STEPS_PER_EPOCH
    assert checkpoint(result.folder, "best")["epoch"] == 0


def test_the_signal_handlers_are_put_back(tiny_run):
    def mine(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, mine), signal.getsignal(signal.SIGINT)
    try:
        tiny_run(sends(2))
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is before[1]
    finally:
        signal.signal(signal.SIGTERM, before[0])


def test_a_second_signal_ends_at_once():
    stop = GracefulStop(None)
    with stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.ended is BY_CTRL_C
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class InterruptedAtItsEnd:
    """A trainer that a second signal meets when Lightning no longer catches it."""

    def fit(self, *_: object, **settings: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_at_the_end_of_a_fit_is_told_as_what_it_was():
    with pytest.raises(SystemExit) as ended:
        fit(InterruptedAtItsEnd(), None, None, None, GracefulStop(None))  # type: ignore[arg-type]
    assert ended.value.code == 143


def test_an_error_is_no_interruption(tiny_run, tmp_path):
    with pytest.raises(RuntimeError, match="mistake"):
        tiny_run("trainer.callbacks=[{_target_: run_files.Raises}]")
    assert summary(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_a_run_in_another_thread_works_without_handlers(tiny_run):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(tiny_run).result().reason == "2 of 2 epochs"


def test_without_a_last_checkpoint_a_signal_at_an_epoch_s_end_saves_after_the_next_batch(tiny_run):
    at_end = sends(STEPS_PER_EPOCH, signal.SIGTERM)
    part = tiny_run("callbacks.last_checkpoint=null", at_end, name="part")
    assert part.state is State.INTERRUPTED
    assert checkpoint(part.folder)["global_step"] == STEPS_PER_EPOCH + 1


def test_within_accumulated_batches_a_run_stops_after_the_step(tiny_run):
    settings = ("trainer.accumulate_grad_batches=4", "trainer.max_epochs=3")
    whole = tiny_run(*settings, name="whole")
    part = tiny_run(*settings, sends(3), name="part")
    assert checkpoint(part.folder)["global_step"] == 3
    rest = tiny_run(*settings, f"ckpt_path={part.folder}", name="rest")
    assert same_bits(weights(rest.folder), weights(whole.folder))
    assert rest.metrics == whole.metrics
