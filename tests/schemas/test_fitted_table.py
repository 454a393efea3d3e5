"""Tables that fit a terminal: every line does, and no text is lost."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from coresetdb.schemas.fitted_table import fitted_table
from coresetdb.schemas.plain_text import text_table

WORD = st.text("abcXYZ019_-:,/(=日本é", min_size=1, max_size=18)
CELL = st.lists(WORD, max_size=6).map(" ".join)


def letters(text: str) -> str:
    return re.sub(r"[\s·─]", "", text)


@given(
    st.integers(20, 100),
    st.integers(1, 6).flatmap(
        lambda size: st.lists(st.lists(CELL, min_size=size, max_size=size), min_size=1, max_size=4)
    ),
)
def test_every_line_fits_and_every_letter_stays(columns, rows):
    names = [f"column {at}" for at in range(len(rows[0]))]
    lines = fitted_table(names, rows, [False] * len(names), columns)
    assert all(cell_len(line) <= columns for line in lines)
    printed = sorted(letters("".join(lines)))
    for letter in set(letters("".join(cell for row in rows for cell in row))):
        cells = "".join(cell for row in rows for cell in row)
        assert printed.count(letter) >= cells.count(letter)


def test_long_cells_go_on_below_and_numbers_stay_whole():
    rows = [["first", "one two three four five six", "1,234,567"]]
    assert fitted_table(["name", "words", "number"], rows, [False, False, True], 34) == [
        "name   words                number",
        "──────────────────────────────────",
        "first  one two three     1,234,567",
        "       four five six",
    ]


def test_a_row_becomes_a_block_where_ids_leave_no_room():
    fingerprint = "df27e5413aa875ddf0be2c25eadd186b"
    names = ["feature", "fingerprint", "a very long heading", "rows without"]
    rows = [["rds", fingerprint, "", "0"]]
    right = [False, False, False, True]
    assert fitted_table(names, rows, right, 48) == [
        "feature rds",
        f"  fingerprint {fingerprint} ·",
        "  rows without 0",
    ]
    narrow = fitted_table(names, rows, right, 36)
    assert any(fingerprint in line for line in narrow) and max(map(len, narrow)) <= 36


@pytest.mark.parametrize(("columns", "lines"), [(80, 3), (24, 4)])
def test_a_table_knows_the_terminal(monkeypatch, columns, lines):
    rows = [{"name": "first", "words": "one two three four five six"}]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert len(text_table(rows).splitlines()) == lines
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert len(text_table(rows).splitlines()) == lines  # COLUMNS is heeded in a pipe, too
    monkeypatch.delenv("COLUMNS")
    assert len(text_table(rows).splitlines()) == 3
