from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from discern.commands.cli import main
from made_runs import keep_test, made_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
LABELS = [0, 1, 2] * 20


@pytest.fixture
def page_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        folder = made_run(
            tmp_path / f"a run with a name that is rather long {number}", title=HOSTILE,
            tags=[HOSTILE], config={"optimizer": {"lr": 0.1 * number, HOSTILE: number}},
        )  # fmt: skip
        said = [(label + 1) % 3 if n % 7 == number else label for n, label in enumerate(LABELS)]
        keep_test(folder, LABELS, said, names=[HOSTILE, "dog", "eel"])
    main(["compare", ".", "out=here"])
    return tmp_path / "here" / "compare.html"


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1280, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1280, "light", marks=pytest.mark.slow),
    ],
)
def test_the_page_opens_and_answers(browser: Browser, page_file: Path, width: int, scheme: str):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda sent: wrong.append(sent.url) if sent.url[:4] == "http" else None)
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready=true]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#disputed li").count() == 24
    box = page.locator("#disputed .thumb").first.bounding_box()
    assert box is not None
    assert box["width"] > 40
    assert page.locator(".plot svg path").count() > 10
    # No word of a first column is broken into its letters.
    narrow = page.eval_on_selector_all("tbody th", "all => all.map(one => one.offsetHeight)")
    assert max(narrow) < 250
    gains = page.locator("#pairs tbody td:nth-child(2)")
    page.locator("#pairs thead button").nth(1).click()
    sorted_up = gains.all_inner_texts()
    page.locator("#pairs thead button").nth(1).click()
    assert gains.all_inner_texts() == sorted_up[::-1]
    assert wrong == []
    page.close()
