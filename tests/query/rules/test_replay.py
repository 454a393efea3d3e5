"""All rules at once: the same ids after all that may happen to a store, and a plain export."""

import json

import torch
from helpers.files import write_jsonl

from coresetdb.query.coresets import load_coreset, remove_coreset
from coresetdb.query.export import export
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import rules_for
from coresetdb.query.selection import select
from coresetdb.store import maintenance

torch.set_num_threads(1)


def test_same_ids_after_ingestion_compaction_and_clean_up(leaky, toys, tmp_path):
    store = leaky.store
    first = select(store, ["stories"], budget="20", name="first")
    file = write_jsonl(tmp_path / "test.jsonl", [{"question": leaky.story(17), "answer": "7"}])
    rules = rules_for(
        store,
        evaluation=str(file),
        exclude="first",
        quota="three=2%",
        cap=["one=20", "45"],
        distinct=0.9,
    )
    made = select(store, ["stories"], budget="60", rules=rules)
    assert set(made.ids).isdisjoint([*first.ids, *leaky.planted.values()])
    picked = {share.corpus: share.picked for share in made.mix}
    assert picked["one"] == 20 and picked["two"] <= 45
    out = export(store, made, str(tmp_path / "out.jsonl"))
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["coreset"]["parameters"]["rules"] == made.parameters["rules"]
    assert out.rows == len(made)

    file.unlink()
    remove_coreset(store, "first")
    more = [leaky.example_of(seed) for seed in range(20_000, 20_060)]
    store.insert("pool", toys.pool_rows([*more, leaky.example_of(9001, answer="x")], ["one"] * 61))
    maintenance.compact(store)
    maintenance.clean(store, older_than_seconds=0)
    again = replay(store, made.name)
    assert again.same and again.same_queries
    kept = load_coreset(store, made.name)
    assert set(kept.notes) < set(made.notes) and len(kept.notes) >= 4


def test_coresets_from_before_there_were_rules_replay_without(leaky, monkeypatch):
    off = rules_for(leaky.store, leakage="off")
    made = select(leaky.store, ["stories"], budget="30", rules=off)
    recorded = load_coreset(leaky.store, made.name)
    del recorded.parameters["rules"]
    monkeypatch.setattr("coresetdb.query.replay.load_coreset", lambda store, name: recorded)
    assert replay(leaky.store, made.name).same
