"""A real run and a real sweep to look at, and what a page is asked for by several tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOSTILE = "<script>document.title = 'hacked'</script>"
"""A name that would run if a page did not escape it."""

SHORT = ("data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.accelerator=cpu")


@contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    """A page opened from its file, all of whose charts are drawn.

    Fails where it logs an error or asks for anything but what is in it.
    """
    faults: list[str] = []
    around = browser.new_context(**context)
    page = around.new_page()
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if _is_remote(asked.url) else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=20_000)
    yield page
    around.close()
    assert faults == [], faults


def _is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


CLIPPED = """() => [...document.querySelectorAll("h1,h2,h3,p,dt,dd,th,td,li,figcaption,summary")]
  .filter((one) => {
    const box = one.getBoundingClientRect();
    const scrolls = one.closest(".scroll, .name");
    const inside = box.left >= -1 && box.right <= document.documentElement.clientWidth + 1;
    return box.width && !scrolls && (!inside || one.scrollWidth > one.clientWidth + 2);
  }).map((one) => one.tagName + ": " + one.textContent.slice(0, 60))"""
"""Texts that stick out of the page or of their own box, but for what scrolls."""
