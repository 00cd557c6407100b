"""A real browser, for pages that people look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


# Not of the session: a process that another module's data loader forks would keep the pipe to the
# browser's driver open, which then never ends.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, the system's; with DISCERN_REQUIRE_BROWSER=1 a test may not do without."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        found, missing = None, "the package playwright is not installed"
    else:
        missing = f"no browser was found: none of {', '.join(NAMES)}"
    if found is None:
        if os.environ.get("DISCERN_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    # Chromium refuses to sandbox itself for root, who runs tests in containers.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield chromium
        chromium.close()
