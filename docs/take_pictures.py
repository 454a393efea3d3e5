"""Take the pictures of the documentation from real pages, in a real browser: `make pictures`.

    python docs/take_pictures.py STORE CORESET

STORE and CORESET are those of the README's session. Writes docs/report.png (1280 pixels wide) and
docs/report-narrow.png (400). Needs Chromium and the extra [dev].
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import coresetdb

FOLDER = Path(__file__).parent
SIZES = {"report.png": (1280, 1500), "report-narrow.png": (400, 1500)}
"""Picture -> width and height of the window."""


def take(browser: Browser, page_file: Path, picture: Path, width: int, height: int) -> None:
    """Open a report and save what its window shows once every visible chart is drawn."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.wait_for_selector(".drawn svg")
    page.wait_for_timeout(2000)
    page.screenshot(path=picture)
    page.close()


def main() -> None:
    """Write the report, and take its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("coreset")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        page_file = Path(scratch) / "report.html"
        coresetdb.connect(options.store).report(options.coreset, out=page_file)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            take(browser, page_file, FOLDER / name, width, height)
        browser.close()


if __name__ == "__main__":
    main()
