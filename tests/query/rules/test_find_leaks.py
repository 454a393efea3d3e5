"""Leaks in a whole pool, which version of the guard is recorded, and what is said of the check."""

import json

import pyarrow as pa
from helpers.files import write_jsonl

from coresetdb.query.coresets import load_coreset
from coresetdb.query.replay import request_of
from coresetdb.query.rules import leakage
from coresetdb.query.rules.examples import examples_of
from coresetdb.query.rules.guard import VERSION
from coresetdb.query.rules.leakage import find_leaks
from coresetdb.query.rules.rules import rules_for
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.ids import IdSet, keys_of
from coresetdb.schemas.tables import literal


def test_every_planted_row_is_found_with_its_example(shared):
    snapshot = Snapshot(shared.store)
    examples = examples_of(snapshot, ["stories"], ())
    found = {leak.id: leak for leak in find_leaks(snapshot, examples)}
    assert set(found) == set(shared.planted.values())
    full = select(
        shared.store, ["stories"], budget="50", rules=rules_for(shared.store, leakage="full")
    )
    listed = full.parameters["rules"]["leakage"]["rows"]
    assert {row["id"]: row["how"] for row in listed} == {id: each.how for id, each in found.items()}
    ids = {example.id for example in shared.examples}
    assert all(leak.example in ids and leak.of == "stories" for leak in found.values())
    some = list(shared.planted.values())[:2]
    eligible = IdSet(keys_of(pa.array(some, pa.string())))
    assert {leak.id for leak in find_leaks(snapshot, examples, eligible)} == set(some)


def test_few_suspicions_are_held_at_once(shared, monkeypatch):
    snapshot = Snapshot(shared.store)
    examples = examples_of(snapshot, ["stories"], ())
    everything = set(find_leaks(snapshot, examples))
    monkeypatch.setattr(leakage, "MOST_HELD", 1)
    assert set(find_leaks(snapshot, examples)) == everything and len(everything) == 5
    full = select(
        shared.store, ["stories"], budget="5", rules=rules_for(shared.store, leakage="full")
    )
    assert full.parameters["rules"]["leakage"]["left_out"] == 5


def test_a_check_is_said_even_if_nothing_is_found(shared, tmp_path):
    strangers = [shared.example_of(seed) for seed in range(7000, 7012)]
    rows = [{"prompt": each.messages[0].content, "completion": "no"} for each in strangers]
    file = write_jsonl(tmp_path / "test.jsonl", rows)
    rules = rules_for(shared.store, evaluation=str(file))
    made = select(shared.store, method="random", budget="40", rules=rules)
    (note,) = (each for each in made.notes if each.startswith("checked for leakage"))
    assert note.endswith("rows against 12 examples of test.jsonl; none gives one away")
    assert made.parameters["rules"]["leakage"]["compared"] >= 40
    assert note in load_coreset(shared.store, made.name).notes
    both = select(shared.store, ["stories"], budget="282", rules=rules)
    (note,) = (each for each in both.notes if each.startswith("checked for leakage"))
    assert note.endswith("against 4 examples of stories and 12 examples of test.jsonl")
    assert any(each.startswith("left out for leakage") for each in both.notes)


def test_coresets_that_record_no_version_are_replayed_with_the_first(leaky):
    made = select(leaky.store, ["stories"], budget="20", name="old")
    assert made.parameters["rules"]["leakage"]["guard"] == VERSION
    _, request = request_of(leaky.store, load_coreset(leaky.store, "old"))
    assert request.rules.guard == VERSION
    older = json.loads(json.dumps(made.parameters))
    del older["rules"]["leakage"]["guard"]
    row = leaky.store.dataset("coresets").to_table(filter=f"name = {literal('old')}")
    place = row.schema.get_field_index("parameters")
    changed = row.set_column(place, row.schema.field(place), pa.array([json.dumps(older)]))
    leaky.store.upsert("coresets", changed)
    _, request = request_of(leaky.store, load_coreset(leaky.store, "old"))
    assert request.rules.guard == 1
