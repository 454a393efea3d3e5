"""The explorer in a real browser, from the command line: one server and one page for all of it."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from helpers.hostile_texts import SCRIPT
from helpers.optional import needs

from coresetdb.database import Database
from coresetdb.explorer.server import NOTEBOOK, explore
from coresetdb.schemas.errors import UsageError

pytestmark = needs("playwright", "pip install 'coresetdb[dev]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
COMMAND = [sys.executable, "-c", "from coresetdb.cli.main import main; main()", "explore"]
SECONDS = 180


@pytest.fixture(scope="module")
def address(explored) -> Iterator[str]:
    """The page's address, as the command prints it; ended by Ctrl-C."""
    running = subprocess.Popen(
        [*COMMAND, explored.store.uri, "--no-browser"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    printed = re.search(r"Explorer: (\S+)", "".join(said))
    assert printed, said
    yield printed[1]
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=SECONDS) == 0
    assert "Traceback" not in running.stderr.read()


@pytest.fixture(scope="module")
def opened(address) -> Iterator[SimpleNamespace]:
    """The page, what it requested, and what its console said."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(SECONDS * 1000)
        opened = SimpleNamespace(page=page, requested=[], failed=[])
        page.on("request", lambda request: opened.requested.append(request.url))
        page.on("pageerror", lambda error: note(opened.failed, str(error)))
        page.on(
            "console",
            lambda message: message.type == "error" and note(opened.failed, message.text),
        )
        page.goto(address)
        page.locator("canvas").first.wait_for()
        page.get_by_role("button", name="Make this a coreset").wait_for()
        yield opened
        browser.close()


def note(failed: list[str], said: str) -> None:
    """Keep an error, but for points that are drawn anew while they are being drawn."""
    if "previous draw call" not in said:
        failed.append(said)


def seen(page, label: str):
    """The control of that label; those of the sidebar stand in the page twice, once unseen."""
    return page.get_by_label(label).filter(visible=True)


def lasso(page, radius: float) -> None:
    """Draw a circle around the middle of the map."""
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    angles = [2 * math.pi * step / 24 for step in range(25)]
    page.mouse.move(x + radius, y)
    page.mouse.down()
    for angle in angles[:-1]:
        page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
    page.mouse.up()


def count_of_selection(page, other_than: int) -> int:
    """The rows of the selection, once they are not those that it had."""
    said = page.get_by_text(re.compile(r"^[\d,]+ of 132 rows$")).filter(
        has_not_text=f"{other_than} of 132"
    )
    said.wait_for()
    return int(said.inner_text().split()[0])


def test_map_filter_sql_row_and_coreset(opened, explored: Database):
    page = opened.page
    page.get_by_text("132 rows, placed by rds").wait_for()

    lasso(page, 230)
    selected = count_of_selection(page, 132)
    assert 0 < selected < 132
    condition = page.get_by_text(re.compile(r"^\s*inside\(map_rds_x|inside\(")).first
    condition.wait_for()

    seen(page, "Condition (DuckDB)").fill("response_tokens > 3")
    seen(page, "Condition (DuckDB)").blur()
    narrowed = count_of_selection(page, selected)
    assert 0 < narrowed < selected

    page.get_by_test_id("select-row-checkbox").first.click()
    page.get_by_text("Nearest by rds").wait_for()

    query = page.get_by_label("One SELECT over the store's relations")
    run = page.get_by_role("button", name="Run", exact=True)
    query.fill(
        "SELECT 6 * 7 AS answer, messages[1].content AS said FROM pool WHERE corpus LIKE 'e%'"
    )
    run.click()
    page.get_by_role("cell", name="42", exact=True).first.wait_for()
    for text, refused in (
        ("FROM read_text('/etc/hostname')", "file system"),
        ("COPY pool TO '/tmp/x.csv'", "only SELECT is allowed"),
        ("FROM query('SELECT 1')", "runs a text as SQL"),
    ):
        query.fill(text)
        run.click()
        page.get_by_role("alert").filter(has_text=refused).wait_for()

    page.get_by_label("Name").fill("from_the_page")
    page.get_by_role("button", name="Make this a coreset").click()
    page.get_by_text(f"from_the_page: {narrowed} rows").wait_for()
    made = explored.open_coreset("from_the_page")
    assert len(made) == narrowed
    where = f"({made.filter})"
    again = explored.sql(f"SELECT id FROM pool WHERE {where} ORDER BY id").to_arrow()
    assert again["id"].to_pylist() == made.ids
    shown = subprocess.run(
        [*COMMAND[:-1], "coreset", "show", explored.store.uri, "from_the_page"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "explorer" in shown.stdout and "inside(" in shown.stdout

    seen(page, "Coreset lit").select_option("from_the_page")
    seen(page, "Colour by").select_option("tokens")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.hacked") is None
    assert SCRIPT not in page.content()
    own = re.match(r"http://127\.0\.0\.1:\d+/", page.url)
    assert own is not None
    elsewhere = [url for url in opened.requested if not url.startswith((own[0], "data:", "blob:"))]
    assert elsewhere == []
    assert opened.failed == []


def test_dark_and_narrow(opened):
    page = opened.page
    page.get_by_text("Nearest by rds").wait_for()
    page.set_viewport_size({"width": 400, "height": 900})
    page.emulate_media(color_scheme="dark")
    page.locator(".dark").first.wait_for()
    ground, words = page.evaluate(
        "[document.querySelector('#App'), document.querySelector('.coresetdb .quiet, .who')]"
        ".map((each, at) => getComputedStyle(each)[at ? 'color' : 'backgroundColor'])"
    )
    assert max(_levels(ground)) < 60 and min(_levels(words)) > 140
    wide = "[...document.querySelectorAll('.coresetdb, .heading, .histograms')]"
    assert page.evaluate(f"{wide}.map(each => each.getBoundingClientRect().right <= 400)") == [
        *[True] * page.locator(".coresetdb, .heading, .histograms").count()
    ]
    drawn = page.locator("canvas").first.bounding_box()
    assert drawn["width"] <= 400 and drawn["height"] <= drawn["width"] + 2  # else cut at the sides
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.emulate_media(color_scheme="light")


def _levels(colour: str) -> list[float]:
    """Red, green and blue of a computed colour."""
    return [float(level) for level in re.findall(r"[\d.]+", colour)[:3]]


def test_without_the_token_nothing_is_shown(address):
    bare = address.partition("?")[0]
    for path in ("", "api/status", "@file/1-x.js", "?access_token=wrong"):
        try:
            with urllib.request.urlopen(bare + path) as answer:
                text = answer.read().decode()
                assert "login" in answer.url, path
        except urllib.error.HTTPError as error:
            assert error.code in (401, 403, 404), path
            text = error.read().decode()
        assert "pool" not in text
    elsewhere = {"Origin": "http://127.0.0.1:1"}, {"Host": "evil.example"}
    for headers in elsewhere:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, headers=headers))
    with urllib.request.urlopen(address) as answer:
        assert "connect-src 'self'" in answer.headers["content-security-policy"]


def test_a_copy_of_the_notebook_and_calls_that_are_refused(explored, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--notebook"):
        explore(explored.store, edit=True)
    with pytest.raises(UsageError, match=r"name it \.py"):
        explore(explored.store, notebook=str(tmp_path / "mine.ipynb"))
    served = []
    monkeypatch.setattr("coresetdb.explorer.server._serve", lambda *call: served.append(call))
    mine = tmp_path / "mine.py"
    for _ in range(2):  # the second time it is there
        explore(explored.store, notebook=str(mine), browser=False)
    assert mine.read_text() == NOTEBOOK.read_text() and served[0][0] == str(mine)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'coresetdb\[explore\]'"):
        explore(explored.store)


def test_the_editor_runs_the_cells_as_it_opens(explored, tmp_path, monkeypatch):
    from marimo._config.manager import EnvConfigReader

    def edited(command, env):
        assert command[3:6] == ["-y", "edit", str(tmp_path / "mine.py")]
        with monkeypatch.context() as its:
            its.setattr("os.environ", env)
            assert EnvConfigReader().read()["runtime"]["auto_instantiate"] is True

    monkeypatch.setattr("coresetdb.explorer.server.subprocess.run", edited)
    explore(explored.store, notebook=str(tmp_path / "mine.py"), edit=True, browser=False)


def test_a_port_that_is_taken_is_said(explored, address):
    port = int(re.findall(r":(\d+)/", address)[0])
    with pytest.raises(UsageError, match="choose another --port"):
        explore(explored.store, port=port, browser=False)
