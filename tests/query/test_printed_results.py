"""What `print` and a notebook show of the results of queries: sentences with right plurals."""

from __future__ import annotations

import pytest

from coresetdb.query.replay import Replay, replay
from coresetdb.query.selection import select
from coresetdb.query.targets import CopiedTarget, list_targets


def test_a_target(store, toys):
    toys.add_target(store, "blank", [toys.question("blank", 9), toys.question("sums", 9)])
    select(store, ["python"], budget="3")
    arithmetic, blank, python = list_targets(store)
    assert str(arithmetic) == "Target arithmetic: 5 examples, 42 tokens from t.jsonl"
    assert str(blank).endswith("from t.jsonl; rds is missing for 1")
    assert str(python).endswith("from t.jsonl; 1 coreset")
    copied = CopiedTarget(python, ("rds",), ("less was not copied: ...",))
    assert str(copied).splitlines() == [
        "python: copied 3 examples, with rds",
        "  less was not copied: ...",
    ]


def test_a_replay(store):
    made = select(store, ["python"], budget="3", name="mine")
    again = replay(store, "mine")
    assert str(again) == "mine: the same 3 ids in the same order."
    assert again._repr_html_() == f"<pre>{again}</pre>"
    other = Replay(made, [made.ids[0], made.ids[2]], True)
    assert str(other) == "mine: the ids differ from rank 2 on."


@pytest.mark.parametrize(("budget", "rows"), [("1", "1 row"), ("2", "2 rows")])
def test_a_coreset(store, budget, rows):
    assert f": {rows} by random (pool" in str(select(store, method="random", budget=budget))
