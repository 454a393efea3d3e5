"""Planted examples are found, named and left out; what remains is the plain selection."""

import pytest
import torch
from helpers.files import write_jsonl

from coresetdb.query.coresets import load_coreset
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import NONE, rules_for
from coresetdb.query.selection import select
from coresetdb.query.targets import remove_target
from coresetdb.schemas.errors import InputError, UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store import maintenance

torch.set_num_threads(1)

HOW = {
    "verbatim": "equal",
    "re-cased": "equal",
    "embedded": "contains",
    "shared": "13-gram",
    "answer": "13-gram",
}


@pytest.mark.parametrize(
    ("method", "mode"), [("rds:round_robin", "ranked"), ("rds:top", "full"), ("random", "ranked")]
)
def test_all_that_was_planted_is_left_out(shared, method, mode):
    rules = rules_for(shared.store, leakage=mode)
    made = select(shared.store, ["stories"], method=method, budget="282", rules=rules)
    assert set(shared.clean.values()) < set(made.ids)
    found = made.parameters["rules"]["leakage"]
    assert {row["id"]: row["how"] for row in found["rows"]} == {
        shared.planted[name]: how for name, how in HOW.items()
    }
    assert found["left_out"] == 5 and found["examples"] == 4
    assert all(row["of"] == "stories" and row["words"] for row in found["rows"])
    run = next(row for row in found["rows"] if row["id"] == shared.planted["shared"])
    assert run["words"] in shared.examples[2].messages[0].content
    assert run["example"] == shared.examples[2].id
    never = select(shared.less(shared.planted.values()), ["stories"], method=method, budget="282")
    assert made.ids == never.ids
    assert replay(shared.store, made.name).same


@pytest.mark.parametrize("budget", ["1", "60", "600-tokens"])
def test_it_is_the_plain_selection_less_the_rows_left_out(shared, budget):
    made = select(shared.store, ["stories"], budget=budget)
    left = [row["id"] for row in made.parameters["rules"]["leakage"]["rows"]]
    assert set(left) <= set(shared.planted.values()) and left
    plain = select(shared.less(left), ["stories"], budget=budget, rules=NONE)
    assert made.ids == plain.ids and made.short_by == plain.short_by
    counts = made.table()["query"].value_counts().to_pylist()
    assert max(count["counts"] for count in counts) - min(each["counts"] for each in counts) <= 1
    assert replay(shared.store, made.name).same


def test_leaks_may_be_allowed(shared):
    made = select(
        shared.store, ["stories"], budget="20", rules=rules_for(shared.store, leakage="off")
    )
    assert made.ids == select(shared.store, ["stories"], budget="20", rules=NONE).ids
    assert shared.planted["verbatim"] in made.ids
    assert made.parameters["rules"]["asked"]["leakage"] == "off"
    assert any(
        "leakage was allowed" in note for note in load_coreset(shared.store, made.name).notes
    )
    with pytest.raises(UsageError, match="choose from ranked, full, off"):
        rules_for(shared.store, leakage="none")


def test_it_is_said(shared):
    made = select(shared.store, ["stories"], budget="282")
    (note,) = (each for each in made.notes if "leakage" in each)
    assert "5 rows that give examples away (2 13-gram, 1 contains, 2 equal)" in note
    assert note in load_coreset(shared.store, made.name).notes


def test_what_more_than_ten_rows_say_is_wording(leaky, toys):
    """Ten rows that share a run of an example are leaks, eleven make it a way of speaking."""
    run = " ".join(leaky.examples[1].messages[0].content.split()[-13:])
    for count, left in ((9, True), (11, False)):
        rows = [
            Instruction.from_turns(("user", f"sums {run} {number}"), ("assistant", "No"))
            for number in range(count)
        ]
        leaky.store.insert("pool", toys.pool_rows(rows, ["more"] * count))
        made = select(leaky.store, ["stories"], budget="300")
        assert {row.id for row in rows}.isdisjoint(made.ids) == left
        assert replay(leaky.store, made.name).same


def test_an_evaluation_file(leaky, toys, tmp_path):
    """Its examples are guarded too, for any method, and kept for the replay."""
    seeds = (17, 40, 200)
    rows = [{"question": leaky.story(seed), "answer": ""} for seed in seeds]
    file = write_jsonl(tmp_path / "test.jsonl", rows)
    rules = rules_for(leaky.store, evaluation=str(file))
    made = select(leaky.store, method="random", budget="100%", rules=rules)
    found = made.parameters["rules"]
    assert found["leakage"]["left_out"] == 3 and len(made) == made.eligible - 3
    assert {row["of"] for row in found["leakage"]["rows"]} == {"test.jsonl"}
    assert found["asked"]["evaluations"][0]["examples"] == 3
    file.unlink()
    assert replay(leaky.store, made.name).same
    with pytest.raises(UsageError, match="leave out one of the two"):
        rules_for(leaky.store, leakage="off", evaluation=[str(_one(tmp_path))])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no usable example"):
        rules_for(leaky.store, evaluation=str(tmp_path / "empty.jsonl"))


def _one(folder):
    return write_jsonl(folder / "one.jsonl", [{"question": "Why?", "answer": "So."}])


def test_a_pool_full_of_leaks_is_emptied(leaky, toys):
    rows = [
        Instruction.from_turns(
            ("user", f"sums {number} {leaky.examples[number % 4].messages[0].content}"),
            ("assistant", "No"),
        )
        for number in range(150)
    ]
    leaky.store.insert("pool", toys.pool_rows(rows, ["copies"] * 150))
    made = select(leaky.store, ["stories"], budget="3")
    assert len(made) == 3 and {row.id for row in rows}.isdisjoint(made.ids)
    assert made.ids == select(leaky.store, ["stories"], budget="9").ids[:3]


@pytest.mark.parametrize("mode", ["ranked", "full"])
def test_replay_after_everything(leaky, toys, mode):
    rules = rules_for(leaky.store, leakage=mode)
    made = select(leaky.store, ["stories"], budget="30", rules=rules)
    run = " ".join(leaky.examples[1].messages[0].content.split()[-13:])
    more = [
        Instruction.from_turns(("user", f"sums {run} {number}"), ("assistant", "No"))
        for number in range(30)
    ]
    leaky.store.insert("pool", toys.pool_rows(more, ["late"] * 30))
    maintenance.compact(leaky.store)
    remove_target(leaky.store, "stories")
    toys.add_target(leaky.store, "stories", leaky.examples[:3])
    assert replay(leaky.store, made.name).same
    remove_target(leaky.store, "stories")
    toys.add_target(leaky.store, "stories", leaky.examples)
    maintenance.clean(leaky.store, older_than_seconds=0)
    again = replay(leaky.store, made.name)
    assert again.same and again.same_queries
