"""The page of a run with few and many classes, of names in any script, on a phone and on paper."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made import CLIPPED, opened

from discern.reports.run_page import write_run_page
from made_runs import keep_test, made_run

PHONE = {"viewport": {"width": 390, "height": 844}}
WIDE = {"viewport": {"width": 1280, "height": 900}}
NAMES = (
    "cat", "狗（拉布拉多寻回犬）", "قطة صغيرة", "बिल्ली", "🐶 dog",
    "northern long-tailed weasel of the mountains", "northern long-tailed weasel of the valleys",
)  # fmt: skip


def named(classes: int) -> list[str]:
    return [f"{NAMES[n % len(NAMES)]} {n // len(NAMES)}" for n in range(classes)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The pages of runs with so many classes, most of whose test images are predicted correctly."""
    made = {}
    for classes in (2, 10, 40, 100):
        folder = made_run(tmp_path_factory.mktemp("runs") / f"of {classes}")
        labels = np.repeat(np.arange(classes), 8)
        predicted = labels.copy()
        predicted[::5] = np.random.default_rng(0).integers(0, classes, len(predicted[::5]))
        keep_test(folder, labels, predicted, names=named(classes))
        made[classes] = write_run_page(folder)
    return made


OVERLAP = """() => {
  const boxes = [...document.querySelectorAll(".confusion bdi")].filter((one) => one.offsetWidth)
    .map((one) => one.parentElement.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return boxes.filter((a, i) => boxes.some((b, j) => i < j && meet(a, b))).length;
}"""
"""The number of names beside the matrix that lie over another one."""


@pytest.mark.parametrize("size", [PHONE, {**WIDE, "color_scheme": "dark"}])
@pytest.mark.parametrize("classes", [2, 10, 40, 100])
def test_the_whole_matrix_fits_the_page(browser, pages, classes, size):
    with opened(browser, pages[classes], **size) as page:
        box = page.locator(".matrix .scroll")
        assert page.locator(".confusion tbody tr").count() == classes
        assert box.evaluate("(box) => box.scrollWidth <= box.clientWidth + 1")
        assert page.evaluate(CLIPPED) == []
        assert page.evaluate(OVERLAP) == 0
        names = page.locator(".confusion tbody th bdi").all_inner_texts()
        if all(names):  # there is room for them
            assert len(set(names)) == classes
        assert page.evaluate("[document.documentElement.scrollWidth <= innerWidth]") == [True]


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  return Math.min(...[...document.querySelectorAll(".confusion td button")].map((button) => {
    const cell = getComputedStyle(button.parentElement);
    const both = [getComputedStyle(button).color, cell.backgroundColor];
    const [low, high] = both.map(light).sort((a, b) => a - b);
    return high / low;
  }));
}"""
"""The smallest contrast of a number with its cell, as the WCAG computes it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_can_be_read_on_every_cell(browser, pages, tmp_path, scheme):
    folder = made_run(tmp_path / "run")
    # Of each class a share of its own is right: cells of many colours.
    labels = np.repeat(np.arange(20), 40)
    predicted = np.where(np.arange(800) % 40 < 2 * labels + 1, labels, (labels + 1) % 20)
    keep_test(folder, labels, predicted, names=named(20))
    with opened(browser, write_run_page(folder), color_scheme=scheme, **WIDE) as page:
        for shown in ("count", "row", "column"):
            page.check(f"input[value={shown}]")
            assert page.evaluate(CONTRAST) >= 4.5


def test_a_name_from_right_to_left_turns_nothing_around_beside_it(browser, tmp_path):
    folder = made_run(tmp_path / "run")
    keep_test(folder, [0, 0, 1], [0, 1, 1], names=["cat", "قطة (3)"])
    with opened(browser, write_run_page(folder), **WIDE) as page:
        said = page.locator("[data-pictures=worst] .thumb").evaluate_all(
            "all => all.map((one) => one.getAttribute('aria-label'))"
        )
        assert any("true cat, predicted \u2068قطة (3)\u2069 (" in each for each in said)
        page.locator("[data-cell='0,1']").hover()
        assert page.locator(".readout bdi").all_inner_texts() == ["cat", "قطة (3)"]


def test_counts_and_shares_of_rows_and_of_columns_are_chosen_with_the_keyboard(browser, tmp_path):
    folder = made_run(tmp_path / "run")
    keep_test(folder, [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0])
    with opened(browser, write_run_page(folder), **WIDE) as page:
        cell = page.locator("[data-cell='0,1']")  # true in rows, predicted in columns
        assert page.locator(".confusion tbody tr").first.locator("td").nth(1).inner_text() == "1"
        page.focus("input[value=count]")
        assert cell.inner_text() == "1"
        page.keyboard.press("ArrowRight")
        assert cell.inner_text() == "25"
        page.keyboard.press("ArrowRight")
        assert cell.inner_text() == "33"
        cell.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowDown")  # over an empty cell
        assert page.evaluate("document.activeElement.dataset.cell") == "2,0"
        said = page.inner_text(".readout").replace("\u00a0", " ")
        assert said == "true eel, predicted cat: 1 image (50.0 % of the row, 25.0 % of the column)"
        assert page.locator(".confusion button[tabindex='0']").count() <= 1


def test_a_hundred_classes_are_zoomed_and_found(browser, pages):
    with opened(browser, pages[100], has_touch=True, **PHONE) as page:
        names = named(100)
        page.locator(".confusion tbody tr").nth(40).locator("td").nth(60).dispatch_event("click")
        assert f"true {names[40]}, predicted {names[60]}: " in page.inner_text(".readout")
        assert page.locator(".confusion tbody th bdi").first.is_hidden()
        for _ in range(4):
            page.click("[data-zoom=in]")
        assert page.locator(".confusion tbody th bdi").first.is_visible()
        page.select_option(".matrix select", label=names[77])
        # Where the bands are, from the cell that they cross at; all at once, since it scrolls.
        away = page.evaluate("""() => {
          const at = (name) => document.querySelector(name).getBoundingClientRect();
          const cell = at("[data-cell='77,77']");
          return [at(".band.row").top - cell.top, at(".band.column").left - cell.left];
        }""")
        assert away == pytest.approx([0, 0], abs=2)
        assert f"{names[77]}: row and column 78 of 100" in page.inner_text(".readout")
        page.click("[data-zoom=fit]")
        assert page.locator(".confusion tbody th bdi").first.is_hidden()


def test_intervals_are_whole_and_wide_tables_say_that_they_scroll(browser, pages):
    with opened(browser, pages[100], **PHONE) as page:
        for interval in page.locator("#metrics small").all():
            box = interval.bounding_box()
            assert 0 <= box["x"] < box["x"] + box["width"] <= 390
        table = page.locator("#classes .scroll")
        hint = page.locator("#classes .hint")
        wide = table.evaluate("(box) => box.scrollWidth > box.clientWidth + 1")
        assert wide
        assert hint.is_visible()
        first = table.locator("tbody th").first
        before = first.bounding_box()["x"]
        table.evaluate("(box) => box.scrollBy(200, 0)")
        assert first.bounding_box()["x"] == before
        page.set_viewport_size({"width": 1280, "height": 900})
        page.wait_for_function("document.querySelector('#classes .hint').hidden")


def test_pictures_are_enlarged_and_escape_closes_them(browser, pages):
    with opened(browser, pages[10], **PHONE) as page:
        small = page.locator("#mistakes .enlarge").first
        small.focus()
        page.keyboard.press("Enter")
        large = page.locator("dialog .thumb").bounding_box()
        assert large["width"] > 2 * small.bounding_box()["width"]
        assert "true " in page.get_attribute("dialog", "aria-label")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        assert small.evaluate("(button) => button === document.activeElement")


def test_links_are_marked_where_the_page_is_opened_elsewhere(browser, pages, tmp_path):
    with opened(browser, pages[2]) as page:
        assert page.locator("#files a").count() >= 3
        assert page.locator(".elsewhere").is_hidden()
    with opened(browser, Path(shutil.copy(pages[2], tmp_path))) as page:
        assert page.locator("#files li").count() >= 3
        assert page.locator("#files a").count() == 0
        assert page.locator(".elsewhere").is_visible()


@pytest.mark.parametrize("classes", [10, 100])
def test_nothing_is_cut_on_paper(browser, pages, classes):
    with opened(browser, pages[classes], viewport={"width": 680, "height": 1000}) as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        wide = """[...document.querySelectorAll("table, .plot, figure, pre")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => one.outerHTML.slice(0, 80))"""
        assert page.evaluate(wide) == []
        assert page.locator(".hint:visible, .controls:visible, .band:visible").count() == 0
        adjust = "getComputedStyle(document.querySelector('.confusion td')).printColorAdjust"
        assert page.evaluate(adjust) == "exact"
