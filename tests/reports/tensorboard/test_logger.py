from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from discern.training.history import MetricsCSV
from run_files import composed, metrics_csv


def test_an_epoch_is_one_row_of_its_training_and_validation_metrics(tmp_path):
    rows = [
        {"epoch": epoch, "step": 9 * epoch, "train/loss": 3.0 - epoch, "val/loss": 3.5 - epoch}
        for epoch in (1, 2)
    ]
    MetricsCSV(tmp_path / "metrics.csv").write([{**row, "lr-Adam": 0.1} for row in rows])
    assert metrics_csv(tmp_path) == rows


def test_numbers_have_the_digits_of_their_precision(tmp_path):
    row = {"epoch": 1, "step": 1, "train/loss": 0.1 + 1e-9, "train/lr": 1.25e-7}
    MetricsCSV(tmp_path / "metrics.csv").write([row])
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,train/loss,train/lr\n1,1,0.1,1.25e-07\n"
    )


def test_the_file_is_always_whole(tmp_path, monkeypatch):
    logger, rows = (
        MetricsCSV(tmp_path / "metrics.csv"),
        [{"epoch": 1, "step": 1, "train/loss": 1.0}],
    )
    logger.write(rows)
    before = (tmp_path / "metrics.csv").read_text()
    monkeypatch.setattr("discern.training.history.csv_cell", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logger.write(2 * rows)
    assert (tmp_path / "metrics.csv").read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for path in sorted(folder.glob("events.out.tfevents*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return found


def test_tensorboard_and_csv_tell_the_same(tiny_run):
    result = tiny_run("logger=default")
    found, rows = scalars(result.folder), metrics_csv(result.folder)
    assert not {"hp_metric", "epoch"} & found.keys()
    of_class = {name for name in rows[0] if name.startswith("val/accuracy/")}
    assert of_class.isdisjoint(found)  # a curve for each class would bury the others
    for name in set(rows[0]) - of_class - {"epoch", "step"}:
        values = [value for _, value in found[name]]
        assert values == pytest.approx([row[name] for row in rows], rel=1e-5), name
    ((_, loss),) = found["train-result/test/loss"]
    assert loss == pytest.approx(result.metrics["test"]["loss"], rel=1e-5)


def test_tensorboard_writes_into_the_runs_folder_and_no_settings_twice(tiny_run):
    folder = tiny_run("logger=tensorboard").folder
    assert list(folder.glob("events.out.tfevents*"))
    assert not list(folder.rglob("hparams.yaml"))
    assert not list(folder.rglob("lightning_logs"))


def test_mlflow_keeps_runs_in_a_database():
    """MLflow 3 refuses to keep them in plain files."""
    assert composed("logger=mlflow").logger.mlflow.tracking_uri.startswith("sqlite:///")


def test_a_run_is_in_mlflow(tiny_run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    tiny_run("logger=mlflow")
    client = mlflow.MlflowClient("sqlite:///outputs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("discern").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/loss"] > 0
