"""Take the pictures of the documentation from real pages, in a real browser: `make pictures`.

    python docs/take_pictures.py STORE CORESET [--pool STORE]

STORE and CORESET are those of the README's session, which chooses CORESET for TARGET; it is chosen
here where it is not there yet. Writes docs/report.png, docs/report-rows.png and docs/explore.png
(1280 pixels wide) and docs/report-narrow.png (400). With --pool also docs/report-pool.png, the
report of that pool alone: `make pictures POOL=STORE`. Needs Chromium and the extra [dev].
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import coresetdb

FOLDER = Path(__file__).parent
SETTLES_MS = 2000
STARTS_MS = 300_000
LASSO = 110  # pixels
MAIN = "from coresetdb.cli.main import main; main()"
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
TARGET, BUDGET = "grade_school_math", 150
PICTURES = {
    "report.png": (1280, 1200, None),
    "report-rows.png": (1280, 1000, "The 10 best rows"),
    "report-narrow.png": (400, 900, "Nearness to the targets"),
}
"""Picture -> width and height of the window, and the link of the contents that is followed."""
POOL_PICTURES = {"report-pool.png": (1280, 1000, "Lengths")}
"""Likewise, of the report of a pool alone."""


def take(
    browser: Browser, page_file: Path, picture: Path, width: int, height: int, link: str | None
) -> None:
    """Open a report, follow a link of its contents, and save what the window shows."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.wait_for_selector(".drawn svg")
    page.wait_for_timeout(SETTLES_MS)
    if link is not None:
        page.get_by_role("link", name=link).click()
        page.wait_for_timeout(SETTLES_MS)
    page.screenshot(path=picture)
    page.close()


@contextmanager
def explored(store: str) -> Iterator[str]:
    """The address of the explorer of a store, while it runs."""
    command = [sys.executable, "-c", MAIN, "explore", store, "--no-browser"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    try:
        yield next(line.split()[1] for line in running.stderr if line.startswith("Explorer: "))
    finally:
        running.send_signal(signal.SIGINT)
        running.wait()


def take_explorer(browser: Browser, address: str, coreset: str, picture: Path) -> None:
    """Light a coreset on the map, colour it by source, draw a lasso, and save the window."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(STARTS_MS)
    page.goto(address)
    page.get_by_role("button", name="Make this a coreset").wait_for()
    page.get_by_label("Colour by").filter(visible=True).select_option("source")
    page.get_by_label("Coreset lit").filter(visible=True).select_option(coreset)
    page.wait_for_timeout(2 * SETTLES_MS)
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + LASSO, y)
    page.mouse.down()
    for step in range(1, 24):
        angle = 2 * math.pi * step / 24
        page.mouse.move(x + LASSO * math.cos(angle), y + LASSO * math.sin(angle))
    page.mouse.up()
    page.get_by_text("inside(").first.wait_for()
    page.wait_for_timeout(2 * SETTLES_MS)
    page.screenshot(path=picture)
    page.close()


def main() -> None:
    """Write the report, and take its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("coreset")
    parser.add_argument("--pool", metavar="STORE", help="a large pool, for a report of it alone")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        page_file = Path(scratch) / "report.html"
        db = coresetdb.connect(options.store)
        if options.coreset not in {coreset["coreset"] for coreset in db.list_coresets()}:
            db.select(TARGET, budget=BUDGET, name=options.coreset)
        db.report(options.coreset, out=page_file)
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, (width, height, link) in PICTURES.items():
            take(browser, page_file, FOLDER / name, width, height, link)
        if options.pool:
            coresetdb.connect(options.pool).report(out=page_file)
            for name, (width, height, link) in POOL_PICTURES.items():
                take(browser, page_file, FOLDER / name, width, height, link)
        with explored(options.store) as address:
            take_explorer(browser, address, options.coreset, FOLDER / "explore.png")
        browser.close()


if __name__ == "__main__":
    main()
