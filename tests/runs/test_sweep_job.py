from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.runs.sweep_job import DRAWS, TRIAL, Trial, current_trial, sweep_draws
from starter import invoke


def test_a_run_of_its_own_belongs_to_no_sweep(monkeypatch):
    for name in (DRAWS, TRIAL):
        monkeypatch.delenv(name, raising=False)
    assert not sweep_draws()
    assert current_trial() is None


@given(st.text(), st.text(), st.integers(0))
def test_a_trial_comes_back_as_it_was_handed_over(storage, study, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRIAL, str(Trial(storage, study, number)))
        assert current_trial() == Trial(storage, study, number)


@pytest.mark.parametrize("setting", ["study=x", "name=x", "trial=3", "draws=true"])
def test_what_a_sweep_hands_to_its_jobs_is_not_a_setting(tmp_path, setting):
    done = invoke("train", f"sweep.{setting}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"sweep.{setting.partition('=')[0]} is not a setting" in done.stdout + done.stderr


def test_a_config_that_an_earlier_version_has_written_is_an_experiment(tmp_path):
    (tmp_path / "old.yaml").write_text(
        "seed: 7\nsweep: {resume: null, study: null, name: null, trial: null, draws: true}\n"
    )
    done = invoke("train", "experiment=old.yaml", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout
    assert "draws" not in done.stdout
