"""Reports in a real browser: nothing fails, nothing is requested, and they fit wide and narrow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.optional import needs

from coresetdb.reports.page import TEMPLATES

pytestmark = needs("playwright", "pip install 'coresetdb[dev]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def waits_long(page):
    """A page that a machine under load has time to draw."""
    page.set_default_timeout(180_000)
    return page


@pytest.fixture(scope="module")
def reports(hostile, large, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("browser")
    hostile.report("near", "both", out=folder / "near-both.html")
    hostile.report(out=folder / "pool.html")
    large.report("thousand", out=folder / "thousand.html")
    large.report(out=folder / "large.html")
    return {path.stem: path for path in folder.iterdir()}


def until(page, expression: str) -> None:
    """Wait; the page's policy lets playwright evaluate no text within it, so it is asked again."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {expression}")


@pytest.mark.parametrize("name", ["near-both", "pool", "thousand", "large"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_it_opens_and_fits(browser, reports, name, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, said, requested = waits_long(context.new_page()), [], []
    page.on("console", lambda message: said.append((message.type, message.text)))
    page.on("pageerror", lambda error: said.append(("error", str(error))))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(reports[name].as_uri())
    charts = page.locator("script.chart").count()
    assert charts >= 4
    until(page, f"document.querySelectorAll('.drawn svg').length == {charts}")
    assert said == []
    assert requested == [reports[name].as_uri()]
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    narrow = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.drawn svg')].map(each => each.clientWidth))"
    )
    assert narrow > 250
    assert reports[name].stat().st_size < 3_000_000
    context.close()


def test_charts_follow_the_theme(browser, reports):
    page = waits_long(browser.new_page(color_scheme="light"))
    page.goto(reports["pool"].as_uri())
    page.wait_for_selector(".drawn svg")
    colour = "getComputedStyle(document.querySelector('.drawn svg text')).fill"
    assert page.evaluate(colour) == "rgb(31, 35, 40)"
    page.emulate_media(color_scheme="dark")
    until(page, f"{colour} == 'rgb(230, 237, 243)'")
    page.close()


def test_on_paper_it_is_light_and_unfolded(browser, reports):
    page = waits_long(browser.new_page(color_scheme="dark"))
    page.goto(reports["thousand"].as_uri())
    page.wait_for_selector(".drawn svg")
    folded = "document.querySelectorAll('details:not([open])').length"
    on_screen = page.evaluate(folded)
    assert page.locator("details.fold:not([open])").count() > 0
    page.evaluate(f"addEventListener('beforeprint', () => window.onPaper = {folded})")
    page.emulate_media(media="print", color_scheme="dark")
    page.pdf()  # as printing does, it tells the page before and after
    until(page, f"window.onPaper === 0 && {folded} === {on_screen}")
    colour = "getComputedStyle(document.querySelector('.drawn svg text')).fill"
    until(page, f"{colour} == 'rgb(31, 35, 40)'")
    page.close()


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(scheme):
    style = (TEMPLATES / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))
    for ground in ("ground", "card"):
        for name, least in {"text": 7, "quiet": 4.5, "link": 4.5, "good": 4.5, "bad": 4.5,
                            "pick": 3, "pool": 3, "random": 3}.items():  # fmt: skip
            high, low = sorted(map(_luminance, (colours[name], colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)
