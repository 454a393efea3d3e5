"""Names in errors: a few are all listed, of hundreds those most like what was asked for."""

from __future__ import annotations

import pytest

from coresetdb.query import coresets, targets
from coresetdb.query.coresets import load_coreset, remove_coreset
from coresetdb.query.names import unknown_coreset, unknown_target
from coresetdb.query.rules.quotas import shares
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.query.targets import remove_target
from coresetdb.schemas.errors import UsageError, suggest

HUNDREDS = [f"gsm8k-rds-round_robin-{number}" for number in range(1, 501)] + ["chance"]


def test_a_few_are_all_named():
    assert suggest("x", {"b", "a"}, "how") == "a, b"
    assert suggest("x", [], "how") == "none yet"
    ten = [f"n{number}" for number in range(10)]
    assert suggest("x", reversed(ten), "how") == ", ".join(ten)


def test_of_hundreds_the_nearest_and_how_to_list_them():
    assert suggest("chances", HUNDREDS, "how") == "chance, ... (501 in all; how)"
    said = suggest("gsm8k-rds-round_robin-17x", HUNDREDS, "how")
    assert said.startswith("gsm8k-rds-round_robin-17, ") and said.count(",") == 3
    first = "chance, gsm8k-rds-round_robin-1, gsm8k-rds-round_robin-10"
    assert suggest("???", HUNDREDS, "how") == f"{first}, ... (501 in all; how)"


@pytest.mark.parametrize("ask", [load_coreset, remove_coreset])
def test_a_coreset_that_is_not_there(store, monkeypatch, ask):
    monkeypatch.setattr(coresets, "coreset_names", lambda store: HUNDREDS)
    with pytest.raises(UsageError, match="coresets: chance, ") as told:
        ask(store, "chanc")
    assert len(str(told.value)) < 300 and f"coresetdb coreset list {store.uri}" in str(told.value)


def test_a_target_that_is_not_there(store, monkeypatch):
    monkeypatch.setattr(targets, "_names", lambda store: HUNDREDS)
    with pytest.raises(UsageError, match=r"targets: chance, .*coresetdb target list "):
        remove_target(store, "chanc")


@pytest.mark.parametrize("between", [",", ", ", ";", " ", "+", ",,"])
def test_targets_in_one_word(store, monkeypatch, between):
    known = ["mbpp", "svamp"]
    said = unknown_target(store, f"svamp{between}mbpp", known)
    assert "one by one" in said and "several: svamp mbpp (in Python: 'svamp', 'mbpp')" in said
    assert "targets:" not in said, "all are known"
    assert "several: svamp (in" in unknown_target(store, f"svamp{between}", known)
    assert "targets: mbpp, svamp" in unknown_target(store, f"svamp{between}gsm8k", known)
    assert "Add it" in unknown_target(store, "svamp", [])


def test_a_corpus_that_is_not_there(store, toys):
    rows = [toys.question("tales", number) for number in range(20)]
    store.insert("pool", toys.pool_rows(rows, [f"tales-{number}" for number in range(20)]))
    named = r"corpora: tales-1.* in all; coresetdb status lists them\)"
    with pytest.raises(UsageError, match=named):
        select(
            store, method="random", budget="3", rules=Rules(quotas=shares("quota", "tales-1x=2"))
        )


def test_a_name_is_told_from_one_of_another_kind(store):
    assert "Did you mean svamp?" in unknown_target(store, "swamp", ["mbpp", "svamp"])
    assert "Did you mean" not in unknown_target(store, "other", ["mbpp", "svamp"])
    assert "Did you mean Best-1?" in unknown_coreset(store, "best1", ["Best-1", "other"])
