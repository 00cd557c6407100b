"""Make the pictures of the README: a terminal session as it was, and the report of its run.

    python docs/pictures.py [--data-dir DIR]

The command runs on a terminal of its own, 100 columns wide; what it printed becomes terminal.svg.
The report is opened in headless Chromium, and its upper part becomes report.png.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS, LINES = 100, 60
COMMAND = "python train.py trainer.max_epochs=5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("DISCERN_DATA_DIR", "data"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        printed = record(Path(name), Path(options.data_dir).resolve())
        draw(printed, IMAGES / "terminal.svg")
        (report,) = Path(name).glob("outputs/*/*/report.html")
        photograph(report, IMAGES / "report.png")


def record(folder: Path, data: Path) -> str:
    """What the command prints on a terminal."""
    reader, writer = pty.openpty()
    environment = {
        **os.environ, "COLUMNS": str(COLUMNS), "LINES": str(LINES), "DISCERN_DATA_DIR": str(data),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "train.py", *COMMAND.split()[2:]],
        cwd=folder, stdin=writer, stdout=writer, stderr=writer, env=environment,
    )  # fmt: skip
    os.close(writer)
    parts = []
    # A terminal that nobody holds open any more is at its end.
    while part := read(reader):
        parts.append(part)
    process.wait()
    return b"".join(parts).decode()


def read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:
        return b""


def draw(printed: str, path: Path) -> None:
    """Draw the session, each line as it stood in the end."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ {COMMAND}", style="bold"))
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in printed.splitlines()]
    text = re.sub(r"\x1b\[[0-9;]*[A-Z]", "", "\n".join(lines)).strip("\n")
    console.print(Text.from_ansi(text))
    drawing = console.export_svg(title="discern")
    # Its fonts would come from the network; those of the system do.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.S))


def photograph(page: Path, path: Path) -> None:
    """Take a picture of the upper part of a page."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser, args=args)
        tab = chromium.new_page(viewport={"width": 1120, "height": 1000})
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]")
        tab.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1120, "height": 1000})
        chromium.close()


if __name__ == "__main__":
    main()
