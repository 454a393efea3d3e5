"""Selectors that look at vectors and columns, on a real store: rows, facts, words, and replay."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from coresetdb.query.coresets import remove_coreset
from coresetdb.query.methods import method_names
from coresetdb.query.replay import replay
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import MissingFeatureError, UsageError
from coresetdb.schemas.ids import keys_of
from coresetdb.selectors.random_order import shuffled
from coresetdb.store import maintenance

torch.set_num_threads(1)

METHODS = ("rds:k_center", "rds:facility_location(represent=100)", "source_balanced")
WALK = "rds:deita_filter(score=response_tokens,threshold=0.85)"


def rows_of(store, allowed=lambda row: True):
    """Eligible rows in the order of their ids."""
    columns = ["id", "corpus", "rds", "response_tokens"]
    rows = store.dataset("pool").to_table(columns=columns).to_pylist()
    return sorted((row for row in rows if allowed(row)), key=lambda row: row["id"])


def cosines(rows, others):
    first, second = (np.array([row["rds"] for row in some], np.float64) for some in (rows, others))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first @ second.T


def test_k_center_on_a_store(store):
    made = select(store, method="rds:k_center", budget="25")
    rows = rows_of(store, lambda row: row["rds"] is not None)
    every = cosines(rows, rows)
    places = [[row["id"] for row in rows].index(each) for each in made.ids]
    mean = np.mean([np.array(row["rds"], float) for row in rows], axis=0)
    near = [np.dot(np.array(row["rds"], float), mean) for row in rows]
    assert near[places[0]] == pytest.approx(max(near), abs=1e-3)
    for rank in range(1, 25):
        away = 1 - every[:, places[:rank]].max(axis=1)
        assert away[places[rank]] == pytest.approx(away.max(), abs=2e-6)
        assert made.table()["score"][rank].as_py() == pytest.approx(away.max(), abs=2e-6)
    assert made.parameters["missing"] == 6 and made.eligible == 246 and not made.short_by
    assert any("6 of 246 eligible rows lack rds and" in note for note in made.notes)
    assert set(made.table()["target"].to_pylist()) == {None}
    assert made.distance is None
    with_distance = select(store, ["python"], method="rds:k_center", budget="25")
    assert with_distance.ids == made.ids and with_distance.distance is not None


def test_the_walk_on_a_store(store):
    made = select(store, method=WALK, budget="40")
    taken = []
    order = [row for row in rows_of(store) if row["rds"] is not None]
    for row in sorted(order, key=lambda row: (-row["response_tokens"], row["id"])):
        if not taken or cosines([row], taken).max() < 0.85:
            taken.append(row)
    assert len(taken) > 40 and made.ids == [row["id"] for row in taken[:40]]
    assert not any("response_tokens" in note for note in made.notes)
    everything = select(store, method=WALK, budget="1000")
    assert everything.ids == [row["id"] for row in taken]
    assert everything.short_by == 1000 - len(taken) and everything.parameters["missing"] == 6
    assert any(
        f"all {len(taken)} rows that can be chosen were chosen" in n for n in everything.notes
    )


def test_a_column_that_is_not_there_is_said(store):
    with pytest.raises(UsageError, match=r"no numeric column 'ifd'; it has .*rds_norm") as no:
        select(store, method="rds:deita_filter")
    assert "tokens, prompt_tokens, response_tokens" in str(no.value) and "id," not in str(no.value)
    with pytest.raises(UsageError, match="no numeric column 'corpus'"):
        select(store, method="rds:deita_filter(score=corpus)")


def test_corpora_take_turns(store):
    made = select(store, method="source_balanced", budget="43", seed=4)
    corpora = made.table()["corpus"].to_pylist()
    four = ["code", "facts", "poems", "sums"]
    assert corpora == ["blank", *four] * 6 + four * 3 + ["code"]  # six rows are blank
    for corpus in ("blank", "code"):
        ids = store.dataset("pool").to_table(["id"], filter=f"corpus = '{corpus}'")["id"]
        order = [ids[place].as_py() for place in shuffled(keys_of(ids), 4)]
        own = [each for each, its in zip(made.ids, corpora, strict=True) if its == corpus]
        assert own == order[: len(own)]
    assert select(store, method="source_balanced", budget="43", seed=5).ids != made.ids
    held = select(store, ["python"], method="rds:source_balanced", budget="43", seed=4)
    assert held.ids == made.ids and held.distance is not None
    every = select(store, method="source_balanced", budget="1000")
    assert Counter(every.ids) == Counter(row["id"] for row in rows_of(store))


def lengths(coreset, store):
    rows = store.take(coreset.ids, ["response_tokens"], coreset.pool_version)
    return rows["response_tokens"].to_pylist()


def test_lengths_of_a_coreset_are_matched(store):
    like = select(
        store, method="random", budget="30", name="long", where="response_tokens IN (4, 5, 6)"
    )
    made = select(store, method="length_matched(like=long)", budget="20", seed=1)
    wanted, found = (Counter(lengths(each, store)) for each in (like, made))
    assert set(found) == set(wanted)
    assert all(abs(found[each] - 20 * wanted[each] / 30) <= 1 for each in wanted)
    assert made.method == "length_matched(like=long)"
    assert made.notes == (
        "nothing was checked for leakage: there is neither a target nor an evaluation",
    )
    again = select(store, method="length_matched(like=long)", budget="20", seed=2)
    assert again.ids != made.ids
    half = select(store, method="length_matched(like=long)", budget="10", seed=1)
    assert half.ids == made.ids[:10]


def test_a_walk_that_ends_among_rows_that_stand_by_is_not_told(store):
    every = select(store, ["python"], method=WALK, budget="1000")
    assert any(f"{len(every)} of 246 rows with response_tokens were" in n for n in every.notes)
    fewer = select(store, ["python"], method=WALK, budget=str(len(every) - 3))
    assert fewer.ids == every.ids[:-3]
    assert not any("were taken" in note for note in fewer.notes)


def examples_of(store, target):
    found = store.dataset("targets").to_table(filter=f"target = '{target}'")
    return sorted(found["response_tokens"].to_pylist())


def test_lengths_of_a_target_are_matched_and_what_runs_out_is_said(store):
    made = select(store, ["arithmetic"], method="length_matched", budget="20")
    assert examples_of(store, "arithmetic") == [1, 2, 3, 4, 7]
    found = Counter(lengths(made, store))
    assert [found[each] for each in (1, 2, 3, 4)] == [4, 4, 4, 4]
    assert found[5] + found[6] + found[7] == 4 and not made.notes  # the bin above 4, up to 7
    assert set(made.table()["target"].to_pylist()) == {"arithmetic"}
    both = select(store, ["arithmetic", "python"], method="length_matched", budget="20")
    assert both.table()["target"].to_pylist() == ["arithmetic", "python"] * 10
    much = select(store, ["arithmetic"], method="length_matched", budget="200")
    assert len(much) == 200 and "lengths match for the first 16" in much.notes[0]
    # Rows that only stand by for leaks are no reason for a word.
    close = select(store, ["arithmetic"], method="length_matched", budget="160")
    assert not close.notes
    every = select(store, ["arithmetic"], method="length_matched", budget="1000")
    assert len(set(every.ids)) == 246 and every.short_by == 754


def test_lengths_of_nobody_are_refused(store, toys):
    with pytest.raises(UsageError, match=r"name one or more, or a coreset: length_matched\(like="):
        select(store, method="length_matched")
    with pytest.raises(UsageError, match="no coreset 'gone'"):
        select(store, method="length_matched(like=gone)")
    select(store, method="random", budget="1-total-tokens", name="empty")
    with pytest.raises(UsageError, match="coreset 'empty' has no rows"):
        select(store, method="length_matched(like=empty)")
    with pytest.raises(UsageError, match="bins=0"):
        select(store, ["python"], method="length_matched(bins=0)")
    toys.add_target(store, "mute", [toys.mute("sums")])
    with pytest.raises(UsageError, match="no example of target 'mute' has an answer"):
        select(store, ["mute"], method="length_matched")


def test_same_ids_after_all_that_may_happen(store, toys):
    select(store, method="random", budget="50", where="corpus <> 'code'", name="model")
    made = [
        select(store, method=method, budget=budget, seed=3, where="corpus <> 'poems'")
        for method in (*METHODS, WALK, "length_matched(like=model)")
        for budget in ("15%", "90-tokens")
    ]
    assert all(sum(lengths(each, store)) <= 90 and not each.short_by for each in made[1::2])
    remove_coreset(store, "model")
    more = [toys.question(topic, n) for topic in ("sums", "code") for n in range(900, 940)]
    store.insert("pool", toys.pool_rows(more, ["late"] * len(more)))
    maintenance.compact(store)
    maintenance.clean(store, older_than_seconds=0)
    for each in made:
        assert replay(store, each.name).same, each.name


def test_lengths_of_a_target_are_replayed(store, toys):
    made = select(store, ["python"], method="length_matched", budget="30", seed=3)
    store.insert("pool", toys.pool_rows([toys.question("sums", 999)], ["late"]))
    assert replay(store, made.name).same


def test_prefixes_nest_whatever_the_method(store):
    for method in (*METHODS, WALK):
        longer = select(store, method=method, budget="60").ids
        assert select(store, method=method, budget="23").ids == longer[:23]


def test_what_stands_alone_and_what_does_not(store):
    known = {name: each.representation for name, each in Snapshot(store).features.items()}
    names = method_names(known)
    assert {"source_balanced", "length_matched", "rds:k_center", "rds:length_matched"} <= set(names)
    assert not {"k_center", "deita_filter"} & set(names)
    with pytest.raises(UsageError, match="k_center looks at vectors: name a representation"):
        select(store, method="k_center")


def test_a_pool_without_the_feature_is_said(tmp_path, toys):
    store = toys.toy_store(tmp_path / "bare")
    rows = toys.pool_rows([toys.question("sums", n) for n in range(9)], ["sums"] * 9)
    store.insert("pool", rows.drop_columns(["rds", "rds_norm", "rds_reason"]))
    for method in ("rds:k_center", WALK):
        with pytest.raises(MissingFeatureError, match="featurize"):
            select(store, method=method)


def test_memory_is_checked_before_the_vectors_are_read(store):
    with pytest.raises(UsageError, match="iB of memory"):
        select(store, method="rds:k_center", memory_limit=10_000)


def test_the_baselines_import_no_torch(store):
    code = (
        "import sys; from coresetdb.store.store import Store; "
        "from coresetdb.query.selection import select; "
        f"store = Store.open({store.uri!r}); "
        "select(store, method='source_balanced', budget='5'); "
        "select(store, ['python'], method='length_matched', budget='5'); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
