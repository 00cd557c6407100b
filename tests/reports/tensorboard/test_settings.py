from discern.reports.tensorboard.settings import settings_page


def test_it_shows_what_was_typed_what_differs_and_everything():
    changed = {"model.dropout": {"default": 0.0, "value": 0.25}}
    page = settings_page("seed: 0\nmodel:\n  dropout: 0.25\n", ["model.dropout=0.25"], changed)
    assert "    model.dropout=0.25" in page
    assert "model.dropout | 0.0 | 0.25" in page
    assert "    seed: 0" in page


def test_a_value_is_shown_as_it_is_whatever_it_means_to_markdown():
    changed = {"tags": {"default": None, "value": "<script>|`x`\nnext"}}
    page = settings_page("", [], changed)
    row = next(line for line in page.splitlines() if line.startswith("tags |"))
    assert row.count("|") == 2
    assert "<" not in row
    assert "`" not in row
    assert "None." in settings_page("", [], {})
