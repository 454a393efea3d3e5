"""A report as text: everything is in it, texts are harmless, and what cannot be said says why."""

from __future__ import annotations

import builtins
import json
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from helpers.hostile_texts import HUGE

from coresetdb.database import Database
from coresetdb.query.closeness import CoveredExample
from coresetdb.reports.coreset import ShownExample
from coresetdb.reports.page import GENERATOR, number, visible
from coresetdb.reports.rows import text_of
from coresetdb.schemas.errors import UsageError

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, scripts, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open[-3:], tag, self.getpos())
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def pages(hostile, tmp_path_factory) -> dict[str, Page]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for names in (["near"], ["evil"], ["chance"], ["all"], ["near", "both"], []):
        out = folder / f"{'-'.join(names) or 'pool'}.html"
        written = hostile.report(*names, out=out)
        assert written.bytes == out.stat().st_size < 3_000_000
        made[out.stem] = Page(out.read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("name", ["near", "evil", "chance", "all", "near-both", "pool"])
def test_hostile_texts_are_shown_and_do_nothing(pages, name):
    page = pages[name]
    assert not page.open, "every element is closed, so no text closed one"
    kinds = [attributes.get("type") for attributes, _ in page.scripts]
    assert kinds.count(None) == 2 and set(kinds) == {None, "application/json"}
    for attributes, text in page.scripts:
        if attributes.get("type"):
            assert "<" not in text
            json.loads(text)
    assert not [tag for tag, _ in page.elements if tag in ("img", "link", "iframe", "object")]
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "src"], attributes
        assert not (attributes.get("href") or "#").startswith(("http", "javascript"))
    assert "window.hacked" in page.text
    assert "\x07" not in page.text and "\x1b" not in page.text and "\u202e" not in page.text


def test_control_characters_and_cuts_are_open(pages):
    text = pages["evil"].text
    assert "\\x07" in text and "\\x1b[31m" in text and "\\u202e" in text
    assert f"of {HUGE + 14:,} characters" in text and "x" * 2000 not in text
    assert "{{ 7 * 7 }}" in text and "سؤال" in text and "&lt;b&gt;" in text
    assert all(each[1].get("dir") == "auto" for each in pages["evil"].elements
               if each[1].get("class") == "said")  # fmt: skip


def test_a_coresets_page_has_every_part(hostile, pages):
    text, coreset = pages["near"].text, hostile.open_coreset("near")
    assert f"coresetdb coreset replay {hostile.store.typed} near" in text
    assert "coresetdb select" in text and "--method rds:round_robin --budget 30" in text
    for title in (
        "Rows by corpus",
        "Rows by kind",
        "Tokens of the answers",
        "Similarity to the targets",
        "Distance over the budget",
        "Discrepancy over the budget",
        "How well each example is covered",
        "The 10 best rows",
        "At the edge of the budget",
        "Near misses",
        "What the leakage guard left out",
    ):
        assert title in text, title
    ids = coreset.ids
    shown = [row_id for row_id in ids if row_id in text]
    assert set(ids[:10]) | set(ids[-10:]) <= set(shown)
    assert "Pulled by example" in text and "Would be #31" in text
    assert text.count("Nearest pick: #") == 5


def test_headings_do_not_skip_and_charts_have_words(pages):
    for page in pages.values():
        levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in page.elements:
            for name in ("aria-labelledby",):
                assert attributes.get(name) in (None, *ids)
            if (link := attributes.get("href")) is not None:
                assert link.removeprefix("#") in ids
            if attributes.get("role") == "img":
                assert len(attributes["aria-label"]) > 20
        html = next(attributes for tag, attributes in page.elements if tag == "html")
        assert html["lang"] == "en"


def test_two_coresets_side_by_side(hostile, pages):
    text, compared = pages["near-both"].text, hostile.compare("near", "both")
    assert (
        "Side by side" in text and f"{compared.common:,}: {compared.of_first:.1%} of near" in text
    )
    assert (
        "Only in near" in text and "Only in both" in text and "Rows in both, over the ranks" in text
    )
    assert text.count("Near misses") >= 2


def test_without_a_target_it_says_so(pages):
    text = pages["chance"].text
    assert "chosen without a target" in text and "The leakage guard looked at nothing" in text


def test_where_every_row_was_chosen_there_is_no_near_miss(pages):
    assert "Every row that could be chosen was." in pages["all"].text
    assert "No further row can be chosen." in pages["evil"].text


def test_a_pools_page_has_every_part(hostile, pages):
    text = pages["pool"].text
    for title in (
        "Make-up",
        "Languages",
        "Lengths",
        "Losses and other numbers",
        "Scores for targets",
        "Duplicates",
        "Rejects",
        "Do the fits still suit the pool?",
        "Targets and coresets",
    ):
        assert title in text, title
    assert "135: 132 new, 1 duplicate (the same content), 2 rejected" in text
    assert "2 records could not be used" in text and "not JSON" in text
    assert f"coresetdb dedup {hostile.store.typed}" in text
    assert "arithmetic" in text and "chance" in text


def test_what_is_gone_is_said_and_the_rest_is_shown(hostile, tmp_path):
    shutil.copytree(hostile.store.uri, tmp_path / "copy")
    database = Database.open(tmp_path / "copy")
    database.remove_target("arithmetic")
    database.compact(keep_hours=0)
    gone = database.open_coreset("near").ids[3]
    database.remove(ids=[gone], purge=True)
    database.report("near", out=tmp_path / "gone.html")
    page = Page((tmp_path / "gone.html").read_text(encoding="utf-8"))
    assert "1 row was purged from the pool since" in page.text
    assert database.open_coreset("near").ids[0] in page.text
    assert "was purged" in page.text or "Not known" in page.text


def test_scores_and_duplicates_are_in_the_pools_page(hostile, tmp_path):
    shutil.copytree(hostile.store.uri, tmp_path / "copy")
    database = Database.open(tmp_path / "copy")
    database.score("arithmetic", "rds")
    found = database.dedup(lexical=0.5)
    database.report(out=tmp_path / "pool.html")
    text = Page((tmp_path / "pool.html").read_text(encoding="utf-8")).text
    assert "rds for arithmetic" in text
    assert f"dedup: {found.not_kept:,} of {found.rows:,} rows repeat another one nearly" in text
    assert "The largest clusters of dedup" in text


def test_an_empty_store_has_a_page(empty, tmp_path):
    empty.report(out=tmp_path / "pool.html")
    text = Page((tmp_path / "pool.html").read_text(encoding="utf-8")).text
    assert "The pool is empty" in text and "There is no target yet" in text


def test_a_wrong_call_writes_nothing(hostile, tmp_path):
    foreign = tmp_path / "mine.html"
    foreign.write_text("<p>mine</p>")
    for names, out, words in (
        (["near", "both", "all"], "x.html", "3 were named"),
        (["near", "near"], "x.html", "named twice"),
        (["nosuch"], "x.html", "no coreset 'nosuch'"),
        (["near"], "x.pdf", "suffix .html"),
        (["near"], "mine.html", "--overwrite"),
    ):
        with pytest.raises(UsageError, match=words):
            hostile.report(*names, out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]
    assert foreign.read_text() == "<p>mine</p>"
    hostile.report("chance", out=foreign, overwrite=True)
    assert GENERATOR in foreign.read_text(encoding="utf-8")
    hostile.report("chance", out=foreign)  # one of ours is replaced


def test_without_the_extra_it_says_what_to_install(hostile, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "altair":
            raise ModuleNotFoundError("No module named 'altair'", name="altair")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"altair: pip install 'coresetdb\[report\]'"):
        hostile.report(out=tmp_path / "pool.html")


def test_texts_and_numbers_as_they_are_shown():
    assert visible("a\nb\tc\u200dd\u3000e") == "a\nb\tc\u200dd\u3000e"
    assert visible("a\r\nb\rc") == "a\nb\\rc"
    assert visible("\x00\u202e\u2066\ud800") == "\\x00\\u202e\\u2066\\ud800"
    assert [number(each) for each in (None, float("nan"), 3, 3.0, 12345.6, 0.012345)] == [
        *("", "", "3", "3", "12,346", "0.0123")
    ]


@pytest.mark.parametrize(
    ("messages", "begins"),
    [
        ([("system", "Be brief."), ("user", "2 + 2?"), ("assistant", "4")], "2 + 2?"),
        ([("system", "Be brief."), ("assistant", "4")], "Be brief."),
        ([], ""),
    ],
)
def test_a_folded_example_shows_what_the_user_says(messages, begins):
    turns = [{"role": role, "content": content} for role, content in messages]
    covered = CoveredExample("target", "id", 1, None, 0.5, 1, "pick", 0.6, "row", None)
    example = ShownExample("example 1", covered, text_of(turns), text_of([]))
    assert example.beginning == begins
