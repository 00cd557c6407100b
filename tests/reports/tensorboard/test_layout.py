from discern.reports.tensorboard.layout import layout


def test_training_and_validation_of_a_metric_share_a_chart():
    found = layout(["train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/top5_error"])
    assert found["training and validation"] == {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "accuracy": ["Multiline", ["^train/accuracy$", "^val/accuracy$"]],
        "top-5 error": ["Multiline", ["^val/top5_error$"]],
    }
