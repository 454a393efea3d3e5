"""Results in notebooks: tables and bars, escaped and cut."""

from __future__ import annotations

from coresetdb.schemas.notebook import (
    ROWS_SHOWN,
    TEXT_SHOWN,
    html_bars,
    html_cells,
    html_table,
    html_text,
)

EVIL = '<script>alert("1")</script>\x07'


def test_texts_are_escaped_and_cut():
    table = html_table([{EVIL: EVIL, "n": 1234, "x": 0.12345, "none": None, "yes": True}], EVIL)
    bars = html_bars(EVIL, (EVIL, "pool"), [(EVIL, (0.5, 0.25))])
    for shown in (table, bars, html_text(EVIL), html_cells([EVIL], [[EVIL]])):
        assert "<script" not in shown and "&lt;script&gt;" in shown
    assert "\x07" not in table and "\\x07" in table
    assert "1,234" in table and "0.123" in table and ">yes<" in table
    assert "width: 10.00em" in bars and "50.0% " in bars and "25.0% pool" in bars
    long = html_cells(["text"], [["z" * 10_000]])
    assert long.count("z") == TEXT_SHOWN - 1 and "…" in long


def test_long_tables_say_what_they_leave_out():
    shown = html_table([{"n": n} for n in range(ROWS_SHOWN + 3)])
    assert shown.count("<tr>") == ROWS_SHOWN + 1 and "... and 3 more rows" in shown
    assert html_table([]) == ""
