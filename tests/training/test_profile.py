from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "discern")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return "\n".join(log.messages).splitlines()


@pytest.mark.parametrize("setting", ["trainer.profiler=simple", "debug=profiler"])
def test_the_actions_that_took_longest_end_the_run(tiny_run, log, setting):
    result = tiny_run(setting)
    (row,) = [line for line in lines(log) if line.startswith("run_training_epoch ")]
    assert row.split()[1] == "2"  # epochs
    assert not [line for line in lines(log) if "{" in line and "RunCheckpoint" in line]
    for stage in ("fit", "test"):
        file = result.folder / f"{stage}-profile.txt"
        assert "run_training_epoch" in file.read_text()
        assert f"Profile: {file}" in lines(log)


def test_the_functions_that_took_longest_end_the_run(tiny_run, log, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    result = tiny_run("trainer.profiler=advanced")
    head = next(i for i, line in enumerate(lines(log)) if line.startswith("function "))
    rows = lines(log)[head : head + 14]
    assert all(0 < len(row) <= 60 for row in rows)
    assert rows[0].split() == ["function", "calls", "own", "seconds"]
    seconds = [float(row.split()[-1]) for row in rows[2:]]
    assert seconds == sorted(seconds, reverse=True)
    assert (result.folder / "fit-profile.txt").stat().st_size


def test_without_a_profiler_there_is_none(tiny_run, log):
    result = tiny_run()
    assert not [line for line in lines(log) if line.startswith("Profile: ")]
    assert not [*result.folder.glob("*profile*")]
