"""Quotas, caps and exclusions on a real store, against rankings made by hand."""

import numpy as np
import pytest
import torch

from coresetdb.query.coresets import remove_coreset
from coresetdb.query.replay import replay
from coresetdb.query.rules.quotas import Caps, shares
from coresetdb.query.rules.rules import Rules, rules_for
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError

torch.set_num_threads(1)


def pool(store, target):
    """(id, corpus) of all rows with the feature, and the target's similarities to them."""
    rows = store.dataset("pool").to_table(columns=["id", "corpus", "rds"]).to_pylist()
    rows = [row for row in rows if row["rds"] is not None]
    asked = store.dataset("targets").to_table(filter=f"target = '{target}'").to_pylist()
    asked.sort(key=lambda row: row["position"])
    queries = np.array([row["rds"] for row in asked], np.float64)
    return rows, queries @ np.array([row["rds"] for row in rows], np.float64).T


def naive(rows, similarity, k, allowed=lambda row: True, most=None):
    """Round-robin that passes over corpora that have their most rows."""
    most, have, picks = most or {}, {}, []
    while len(picks) < k:
        row = similarity[len(picks) % len(similarity)]
        free = [
            j
            for j in range(len(rows))
            if j not in picks
            and allowed(rows[j])
            and have.get(rows[j]["corpus"], 0) < most.get(rows[j]["corpus"], k)
        ]
        if not free:
            break
        best = min(free, key=lambda j: (-row[j], rows[j]["id"]))
        have[rows[best]["corpus"]] = have.get(rows[best]["corpus"], 0) + 1
        picks.append(best)
    return [rows[j]["id"] for j in picks]


def mix(coreset):
    return {share.corpus: share.picked for share in coreset.mix if share.picked}


def test_quota(store):
    rows, similarity = pool(store, "arithmetic")
    rules = rules_for(store, quota=["poems=10", "code=25%"])
    made = select(store, ["arithmetic"], budget="40", rules=rules)
    assert mix(made)["poems"] == 10 and mix(made)["code"] == 10
    assert made.short_by == 0
    for corpora, count in ((("poems",), 10), (("code",), 10), (("sums", "facts", "blank"), 20)):
        own = [
            id for id, corpus in zip(made.ids, corpora_of(made), strict=True) if corpus in corpora
        ]
        assert own == naive(rows, similarity, count, lambda row, own=corpora: row["corpus"] in own)
    for length in (10, 20, 30):  # every beginning holds the corpora in proportion
        begun = corpora_of(made)[:length]
        assert abs(begun.count("poems") - length / 4) <= 1
    assert "quota poems: 10 of 10 rows" in made.notes
    assert replay(store, made.name).same


def corpora_of(coreset):
    return coreset.table()["corpus"].to_pylist()


def test_a_quota_of_everything_and_one_that_cannot_be_met(store):
    rules = rules_for(store, quota={"poems": "50%", "code": 20})
    made = select(store, ["arithmetic"], budget="40", rules=rules)
    assert mix(made) == {"poems": 20, "code": 20}
    few = select(store, ["python"], budget="100", rules=rules_for(store, quota={"poems": 80}))
    assert mix(few)["poems"] == 60 and (len(few), few.short_by) == (80, 20)
    assert "quota poems: 60 of 80 rows; no more of it could be chosen" in few.notes
    assert replay(store, few.name).same


@pytest.mark.parametrize("method", ["rds:round_robin", "rds:top(by=max)"])
def test_cap_of_one_corpus(store, method):
    rows, similarity = pool(store, "arithmetic")
    if "top" in method:
        similarity = similarity.max(axis=0)[None]
    rules = rules_for(store, cap="sums=7")
    made = select(store, ["arithmetic"], method=method, budget="60", rules=rules)
    assert made.ids == naive(rows, similarity, 60, most={"sums": 7})
    assert made.parameters["rules"]["cap"] == {"reached": {"sums": 7}}
    assert "cap reached: sums 7" in made.notes
    assert replay(store, made.name).same


def test_cap_of_every_corpus(store):
    made = select(store, ["arithmetic"], budget="40", rules=rules_for(store, cap=["30%", "code=2"]))
    assert max(count for corpus, count in mix(made).items() if corpus != "code") == 12
    assert mix(made)["code"] <= 2 and len(made) == 38 and made.short_by == 2
    short = select(store, ["arithmetic"], budget="100", rules=rules_for(store, cap=5))
    assert (len(short), short.short_by) == (20, 80) and set(mix(short).values()) == {5}
    beside = rules_for(store, cap=5, quota="poems=30")
    made = select(store, ["arithmetic"], budget="45", rules=beside)
    assert mix(made) == {"poems": 30, "sums": 5, "code": 5, "facts": 5}
    assert replay(store, made.name).same


def test_cap_and_tokens(store):
    made = select(store, ["arithmetic"], budget="150-tokens", rules=rules_for(store, cap="sums=5"))
    assert mix(made)["sums"] == 5 and made.parameters["tokens"] <= 150
    assert replay(store, made.name).same


def test_a_cap_met_beyond_the_tokens_is_not_told(store, monkeypatch):
    rejected, left = Caps.rejected, []

    def heard(caps, ids, chosen):
        left.append(len(rejected(caps, ids, chosen)))
        return rejected(caps, ids, chosen)

    monkeypatch.setattr(Caps, "rejected", heard)
    rules = rules_for(store, cap="sums=20")
    made = select(store, ["arithmetic"], budget="30-tokens", rules=rules)
    assert 0 < mix(made)["sums"] < 20 and max(left) > 0
    assert made.parameters["rules"]["cap"] == {"reached": {}}
    assert not any("cap reached" in note for note in made.notes)


def test_exclude(store):
    first = select(store, ["arithmetic"], budget="30")
    second = select(store, ["python"], budget="10")
    rules = rules_for(store, exclude=[first.name, second.name])
    made = select(store, ["arithmetic"], budget="50%", rules=rules)
    rows, similarity = pool(store, "arithmetic")
    gone = {*first.ids, *second.ids}
    assert made.eligible == 246 - len(gone) and len(made) == round((246 - len(gone)) / 2)
    assert made.ids == naive(rows, similarity, len(made), lambda row: row["id"] not in gone)
    assert f"eligible: {246 - len(gone)} of 246 rows" in made.notes
    assert f"not eligible: the 30 rows of coreset {first.name}" in made.notes
    remove_coreset(store, first.name)
    select(store, ["python"], budget="3", name=first.name)  # another one of that name
    assert replay(store, made.name).same


def test_what_cannot_be_is_said(store):
    for asked, said in (
        ({"quota": "sums"}, "write CORPUS=ROWS"),
        ({"quota": "sums=10k-tokens"}, "rows .100. or per cent"),
        ({"quota": ["sums=1", "sums=2"]}, "sums is given twice"),
        ({"cap": ["1", "2"]}, "every corpus is given twice"),
        ({"quota": "sums=1", "cap": "sums=2"}, "has a quota and a cap"),
        ({"exclude": "nothing"}, "no coreset 'nothing'"),
        ({"distinct": 1.5}, "a cosine above 0"),
        ({"distinct_by": "rds"}, "say how close"),
    ):
        with pytest.raises(UsageError, match=said):
            rules_for(store, **asked)
    for asked, budget, said in (
        ({"quota": "math=3"}, "10", "no corpus of that name; corpora: blank, code, facts"),
        ({"cap": "math=3"}, "10", "cap math=3: the pool has no corpus"),
        ({"quota": ["sums=60%", "code=5"]}, "10", "add up to 11 rows, and the budget is 10"),
        ({"quota": "sums=1"}, "50-tokens", "give the budget in rows"),
        ({"cap": "10%"}, "50-tokens", "10%: a share of the budget needs"),
        ({"cap": "sums=1%"}, "10", "of 10 rows that is less than one"),
    ):
        with pytest.raises(UsageError, match=said):
            select(store, ["arithmetic"], budget=budget, rules=rules_for(store, **asked))


def test_a_corpus_may_have_an_equals_sign_in_its_name():
    (share,) = shares("quota", "flan=v2=10%")
    assert (share.corpus, share.rows(50), str(share)) == ("flan=v2", 5, "flan=v2=10%")
    assert Rules(quotas=(share,)).quotas == shares("quota", {"flan=v2": "10%"})
