from __future__ import annotations

import io
import sys

import pytest

from discern.training import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Turns standard error into a terminal, when called; gives what is shown there."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWS", 0)

    def turn() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return turn


def test_a_terminal_shows_epoch_images_and_loss_and_is_left_clean(tiny_run, terminal):
    screen = terminal()
    tiny_run()
    shown = screen.getvalue()
    assert "epoch 1/2" in shown
    assert "epoch 2/2" in shown
    assert "240/240" in shown
    assert " images/s" in shown
    assert "loss " in shown
    assert "test" in shown
    assert shown.rpartition("\r")[2].strip() == ""


def test_the_images_are_those_of_the_batches_that_are_used(tiny_run, terminal):
    screen = terminal()
    tiny_run("trainer.limit_train_batches=2", "trainer.max_epochs=-1", "trainer.max_steps=7")
    assert "/80.0 [" in screen.getvalue()
    assert "/240" not in screen.getvalue()
    assert "epoch 1:" in screen.getvalue()


def test_the_loss_on_show_is_that_of_the_batch_also_when_gradients_are_accumulated(
    tiny_run, terminal
):
    screen = terminal()
    tiny_run("trainer.accumulate_grad_batches=6", "trainer.max_epochs=1")
    losses = [float(part.split()[0].rstrip("]")) for part in screen.getvalue().split("loss ")[1:]]
    assert losses
    assert all(1.5 < loss < 4 for loss in losses)


def test_nobody_watches_and_nothing_is_drawn(tiny_run, capfd):
    tiny_run()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "override", ["trainer.enable_progress_bar=false", "callbacks=none", "callbacks=checkpoints"]
)
def test_switched_off_it_is_off_on_a_terminal_too(tiny_run, terminal, override):
    screen = terminal()
    tiny_run(override)
    assert "epoch" not in screen.getvalue()


def test_an_error_takes_the_bar_away_first(tiny_run, terminal):
    screen = terminal()
    with pytest.raises(RuntimeError, match="mistake"):
        tiny_run("trainer.callbacks=[{_target_: run_files.Raises}]")
    assert "epoch 1/2" in screen.getvalue()
    assert screen.getvalue().rpartition("\r")[2].strip() == ""
