from __future__ import annotations

import os
import signal
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sweeping import begin, dies, results, sweep

from discern.errors import DiscernError
from discern.runs.sweep_job import TRIAL, Trial
from discern.sweeps.search import search_space
from discern.training.fit import stopping_callbacks
from discern.training.pruning import Pruning
from discern.training.study import PRUNER
from run_files import composed, summary
from starter import end, said, until

QUICK = (
    "data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.max_epochs=2",
    "trainer.accelerator=cpu", "logger=csv", "report=false", "hydra.sweep.dir=sweep",
    "hydra/sweeper=optuna",
)  # fmt: skip
RATES = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1, log=True)),
        ("x=int(interval(1,8))", IntDistribution(1, 8)),
        ("x=tag(log,int(interval(1,8)))", IntDistribution(1, 8, log=True)),
        ("x=range(1,9,2)", IntDistribution(1, 9, step=2)),
        ("x=tag(log,range(1,100))", IntDistribution(1, 100, log=True)),
        ("x=range(0.0,1.0,step=0.25)", FloatDistribution(0, 1, step=0.25)),
        ("x=choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("x=true,false,null", CategoricalDistribution(["true", "false", "null"])),
        ("x=choice([1],[2,3])", CategoricalDistribution(["[1]", "[2,3]"])),
    ],
)
def test_values_mean_what_they_mean_to_hydra_optuna_sweeper(typed, meant):
    space, fixed = search_space(OverridesParser.create().parse_overrides([typed, "y=3"]))
    assert space == {"x": meant}
    assert fixed == {"y": "3"}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("x=tag(log,interval(0,1))", "low > 0"),
        ("x=tag(log,int(interval(-1,8)))", "low >= 1"),
        ("x=interval(2,1)", "low <= high"),
        ("x=range(9,1)", "low <= high"),
        ("x=range(1,9,0)", "step > 0"),
        ("x=tag(log,range(1,9,2))", "step is 1 when"),
        ("x=interval(0,1e400)", "must be finite"),
        ("x=interval(nan,1)", "must be finite"),
        ("x=range(0.0,1.0,step=nan)", "must be finite"),
        ("x=int(interval(-9999999999999999999,1))", "must be at most 9007199254740992"),
        ("x=range(0,100000000000000000000)", "must be at most 9007199254740992"),
    ],
)
def test_values_that_no_search_can_have_are_refused(typed, why):
    with pytest.raises(DiscernError, match=f"cannot be searched: .*{why}"):
        search_space(OverridesParser.create().parse_overrides([typed]))


def test_a_search_ends_in_an_answer_and_its_study_stays(tmp_path):
    settings = (*QUICK, RATES, "model.dropout=choice(0.0,0.5)", "hydra.sweeper.n_trials=6")
    assert sweep(tmp_path, *settings) == 0, said(tmp_path)
    folder = tmp_path / "sweep"
    found = results(folder)
    assert len(found["rows"]) == 6
    kept = {trial.user_attrs["discern:folder"]: trial for trial in study(folder).trials}
    for row in found["rows"]:
        trial = kept[str(folder / row["folder"])]
        assert trial.values == [pytest.approx(row["values"]["val/loss"], abs=1e-6)]
        assert trial.params["optimizer.lr"] == float(row["overrides"]["optimizer.lr"])
    assert found["best"]["folder"] == found["rows"][0]["folder"]
    assert set(found["importance"]["val/loss"]) == {"optimizer.lr", "model.dropout"}


def test_a_ready_made_space_is_a_choice(tmp_path):
    settings = (*QUICK[:-1], "hparams_search=lr_dropout", "hydra.sweeper.n_trials=2")
    assert sweep(tmp_path, *settings) == 0, said(tmp_path)
    (row, _) = results(tmp_path / "sweep")["rows"]
    assert set(row["overrides"]) == {"optimizer.lr", "model.dropout"}
    assert "hparams_search" not in results(tmp_path / "sweep")["best"]["command"]


def test_several_objectives_have_a_front(tmp_path):
    objectives = "objective=[val/loss,train/loss]"
    settings = (*QUICK, RATES, objectives, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3")
    assert sweep(tmp_path, *settings) == 0, said(tmp_path)
    assert [o["metric"] for o in results(tmp_path / "sweep")["objectives"]] == [
        "val/loss", "train/loss",
    ]  # fmt: skip
    assert len(study(tmp_path / "sweep").best_trials) >= 1


def test_failures_and_losses_that_diverge_end_no_search(tmp_path):
    settings = (*QUICK, "optimizer=sgd", "optimizer.lr=choice(-1,1e20,0.01)")
    more = ("hydra.sweeper.n_trials=8", "hydra/sweeper/sampler=random")
    assert sweep(tmp_path, *settings, *more) == 1
    states = {trial.state.name for trial in study(tmp_path / "sweep").trials}
    assert states == {"COMPLETE", "FAIL"}
    assert len(results(tmp_path / "sweep")["rows"]) == 8


def test_a_search_whose_jobs_are_interrupted_ends(tmp_path):
    settings = (*QUICK, RATES, dies("sysexit"), "hydra.sweeper.n_trials=2")
    assert sweep(tmp_path, *settings) == 1
    assert [row["state"] for row in results(tmp_path / "sweep")["rows"]] == ["interrupted"] * 2


def test_a_search_that_was_killed_goes_on_with_its_study(tmp_path):
    settings = (*QUICK, RATES, "trainer.max_epochs=8", "hydra.sweeper.n_trials=5")
    number = begin(tmp_path, *settings)
    folder = tmp_path / "sweep"
    until(lambda: list(folder.glob("*/checkpoints/last.safetensors")), number)
    os.kill(number, signal.SIGKILL)
    assert end(number) == -signal.SIGKILL
    more = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=5")
    assert sweep(tmp_path, "sweep.resume=sweep") == 1
    assert f"is a search: add {' '.join(more)}." in said(tmp_path)
    assert sweep(tmp_path, "sweep.resume=sweep", *more) == 0, said(tmp_path)
    assert len(results(folder)["rows"]) == 5
    assert {trial.state.name for trial in study(folder).trials} <= {"COMPLETE", "PRUNED"}
    assert len(study(folder).trials) == 5


def rates(folder: Path) -> list[str]:
    """The learning rate of each job, in order of number."""
    rows = sorted(results(folder)["rows"], key=lambda row: row["number"])
    return [row["overrides"]["optimizer.lr"] for row in rows]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_search_that_goes_on_tries_other_values(tmp_path, sampler):
    chosen = f"hydra/sweeper/sampler={sampler}"
    first = (*QUICK, RATES, chosen, "trainer.max_epochs=1", "hydra.sweeper.n_trials=3")
    assert sweep(tmp_path, *first) == 0, said(tmp_path)
    before = rates(tmp_path / "sweep")
    more = ("hydra/sweeper=optuna", chosen, "hydra.sweeper.n_trials=6")
    assert sweep(tmp_path, "sweep.resume=sweep", *more) == 0, said(tmp_path)
    after = rates(tmp_path / "sweep")
    assert after[:3] == before
    assert len(set(after)) == 6


def test_an_undisturbed_search_depends_on_the_seed_alone(tmp_path):
    settings = (*QUICK, RATES, "trainer.max_epochs=1", "hydra.sweeper.n_trials=3", "seed=7")
    assert sweep(tmp_path, *settings) == 0, said(tmp_path)
    alone = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7))
    space = {"optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True)}
    asked = [alone.ask(space).params["optimizer.lr"] for _ in range(3)]
    assert [float(rate) for rate in rates(tmp_path / "sweep")] == asked


def test_two_sweeps_join_one_study(tmp_path):
    shared = (*QUICK[:-2], QUICK[-1], RATES, f"hydra.sweeper.storage={tmp_path / 'study.log'}")
    first = begin(tmp_path, *shared, "hydra.sweeper.n_trials=6", "hydra.sweep.dir=one")
    second = begin(tmp_path, *shared, "hydra.sweeper.n_trials=6", "hydra.sweep.dir=two")
    assert (end(first), end(second)) == (0, 0), said(tmp_path)
    tried = [rates(tmp_path / name) for name in ("one", "two")]
    assert 6 <= sum(map(len, tried)) <= 7  # each may have asked for the last one
    assert all(tried)
    assert not set(tried[0]) & set(tried[1])


def test_a_study_of_other_values_is_refused_by_the_name_of_the_setting(tmp_path):
    shared = (*QUICK[:-2], QUICK[-1], f"hydra.sweeper.storage={tmp_path / 'study.log'}")
    first = ("optimizer=adam,sgd", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=one")
    assert sweep(tmp_path, *shared, *first) == 0, said(tmp_path)
    second = ("optimizer=adam,adamw", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=two")
    assert sweep(tmp_path, *shared, *second) == 1
    assert "optimizer=adam,adamw is not what the trials" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert not (tmp_path / "two").exists()


def test_hopeless_jobs_are_pruned_as_optuna_says(tmp_path):
    settings = (
        *QUICK, "trainer.max_epochs=5", "optimizer=sgd", "hydra/sweeper/sampler=random",
        "optimizer.lr=tag(log,interval(1e-6,1e-1))", "hydra.sweeper.n_trials=10",
        "hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.pruner.n_warmup_steps=2",
    )  # fmt: skip
    assert sweep(tmp_path, *settings) == 0, said(tmp_path)
    rows = {row["number"]: row for row in results(tmp_path / "sweep")["rows"]}
    pruned = [number for number, row in rows.items() if row["state"] == "pruned"]
    assert pruned
    found = study(tmp_path / "sweep")
    # The same curves again, told to Optuna by hand.
    again = optuna.create_study(
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2)
    )
    for trial in found.trials:
        repeated = again.ask()
        hopeless = False
        for epoch, value in trial.intermediate_values.items():
            repeated.report(value, epoch)
            hopeless = repeated.should_prune()
            assert hopeless == (trial.number in pruned and epoch == max(trial.intermediate_values))
        state = optuna.trial.TrialState.PRUNED if hopeless else None
        again.tell(repeated, None if hopeless else trial.value, state=state)
    for number in pruned:
        assert rows[number]["epochs"] < 5
        folder = tmp_path / "sweep" / rows[number]["folder"]
        assert summary(folder)["state"] == "pruned"


def test_a_pruner_may_hold_another(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    made = optuna.create_study(storage=storage, study_name="sweep")
    for loss in (0.1, 0.1, 9.0):
        trial = made.ask()
        for epoch in (1, 2, 3):
            trial.report(loss + epoch, epoch)  # all get worse
        if loss < 1:
            made.tell(trial, loss)
    median = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}
    patient = {"_target_": "optuna.pruners.PatientPruner", "patience": 1}
    made.set_user_attr(PRUNER, {**patient, "wrapped_pruner": median})
    assert found_trial(Trial(storage, "sweep", 2)).should_prune()
    made.set_user_attr(PRUNER, {**patient, "wrapped_pruner": None})
    assert found_trial(Trial(storage, "sweep", 2)).should_prune()
    made.set_user_attr(PRUNER, {**patient, "wrapped_pruner": {"_target_": "os.system"}})
    with pytest.raises(DiscernError, match="not a pruner"):
        found_trial(Trial(storage, "sweep", 2))


def found_trial(place: Trial) -> optuna.Trial:
    """The trial as a job finds it."""
    callback = Pruning(place, "val/loss")

    class Zero:
        is_global_zero = True

    callback.setup(Zero(), None, "fit")  # type: ignore[arg-type]
    assert callback._trial is not None
    return callback._trial


def test_an_objective_in_a_list_prunes_as_one_that_is_not(monkeypatch):
    monkeypatch.setenv(TRIAL, str(Trial("study.log", "sweep", 0)))
    for objective in ("val/loss", "[val/loss]"):
        callbacks = stopping_callbacks(composed(f"objective={objective}"))
        (pruning,) = [one for one in callbacks if isinstance(one, Pruning)]
        assert pruning.metric == "val/loss"


def test_a_study_from_a_stranger_names_no_class_but_a_pruner(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    made = optuna.create_study(storage=storage, study_name="sweep")
    made.ask()
    for target in ("os.system", "optuna.pruners.json", "optuna.create_study", "builtins.eval"):
        made.set_user_attr(PRUNER, {"_target_": target, "command": "false"})
        with pytest.raises(DiscernError, match="not a pruner"):
            found_trial(Trial(storage, "sweep", 0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hydra.sweeper.n_trials=0", RATES], "n_trials=0 is not allowed"),
        (["hydra.sweeper.n_trials=abc", RATES], "Error: hydra.sweeper.n_trials=abc is not allowed"),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr is not a setting"),
        (["model.head=choice([],[8])"], "model.head is not a setting"),
        (["optimizer.lr=1"], "has nothing to search"),
        (["model=choice(mlp,nosuch)"], "model=nosuch is not a choice"),
        (["find_lr=choice(use,true)", RATES], "find_lr=use trains with it"),
        (["hydra.sweeper.direction=up", RATES], "hydra.sweeper.direction=up is not allowed"),
        (["hydra.sweeper.direction=[minimize,maximize]", RATES], "direction has 2 values"),
        (["+hydra.sweeper.sampler.n_startups=1", RATES], "hydra.sweeper.sampler: "),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, arguments, sentence):
    assert sweep(tmp_path, *QUICK, *arguments) == 1
    assert sentence in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
