"""Explanations against what a person would work out from the tables by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder

from coresetdb.database import Database
from coresetdb.query.coresets import tag_of
from coresetdb.query.explaining.explain import explain
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store import maintenance

torch.set_num_threads(1)

WORDS = "the sky is blue and two plus three make five while green trees grow by rivers".split()


def vectors(store, ids):
    rows = store.take(ids, ["rds"])["rds"].to_pylist()
    return np.array(rows, np.float32)


def examples(store, *targets):
    """(target, id, position from 1, vector, messages) of all examples that have the feature."""
    found = []
    for target in targets:
        rows = store.dataset("targets").to_table(filter=f"target = '{target}'").to_pylist()
        rows.sort(key=lambda row: row["position"])
        found += [
            (target, row["id"], row["position"] + 1, np.array(row["rds"], np.float32), row)
            for row in rows
        ]
    return found


@pytest.mark.parametrize("targets", [("arithmetic",), ("arithmetic", "python")])
@pytest.mark.parametrize("method", ["rds", "rds:top", "rds:top(by=max)"])
def test_who_pulled_a_row_and_what_came_close(store, targets, method):
    coreset = select(store, list(targets), method=method, budget="24", name="c")
    asked = examples(store, *targets)
    chosen = vectors(store, coreset.ids)
    for member in coreset.members.to_pylist()[::11]:
        found = explain(store, "c", member["rank"])
        own = chosen[member["rank"] - 1]
        similarities = [float(each[3] @ own) for each in asked]
        order = sorted(range(len(asked)), key=lambda at: (-similarities[at], at))
        pulled = found.pulled_by
        assert (pulled.target, pulled.id) == (member["target"], member["query"])
        at = next(i for i, each in enumerate(asked) if each[:2] == (pulled.target, pulled.id))
        assert pulled.position == asked[at][2]
        assert pulled.similarity == pytest.approx(similarities[at], abs=1e-6)
        assert pulled.place == order.index(at) + 1
        assert pulled.messages[0]["content"] == asked[at][4]["messages"][0]["content"]
        second = next(i for i in order if i != at)
        assert found.runner_up.id == asked[second][1]
        assert found.margin == pytest.approx(similarities[at] - similarities[second], abs=1e-6)
        assert (found.compared_by, found.asked) == ("rds", len(asked))
        assert f"rank {member['rank']} of" in repr(found) and len(repr(found)) < 200
        assert [example.place for example in found.examples] == sorted(
            e.place for e in found.examples
        )
        if member["rank"] > 1:
            cosines = chosen[: member["rank"] - 1] @ own
            assert found.nearest.rank == int(cosines.argmax()) + 1
            assert found.nearest.similarity == pytest.approx(cosines.max(), abs=1e-6)
        if member["rank"] < 24:
            assert (found.next.rank, found.next.id) == (
                member["rank"] + 1,
                coreset.ids[member["rank"]],
            )
        text = store.take([member["id"]], ["messages"])["messages"].to_pylist()[0]
        assert found.messages[0]["content"] == text[0]["content"]
        assert found.score == member["score"] and found.cannot == ()
    assert explain(store, "c", 24).next is None and explain(store, "c", 1).nearest is None


def test_a_row_is_named_by_rank_id_or_its_beginning(store):
    coreset = select(store, ["python"], budget="9", name="c")
    for name in (7, "7", "#7", coreset.ids[6], coreset.ids[6][:12], coreset.ids[6].upper()):
        assert explain(store, "c", name).rank == 7
    outside = select(store, ["arithmetic"], budget="1").ids[0]
    for name, said in (
        (0, "c has no rank 0: it has 9 rows"),
        ("#10", "no rank 10"),
        ("abc", "6 characters"),
        (outside, r"is not in c.*coresetdb sql .*WHERE coreset = 'c'"),
    ):
        with pytest.raises(UsageError, match=said):
            explain(store, "c", name)
    with pytest.raises(UsageError, match="no coreset 'd'"):
        explain(store, "d", 1)


def test_without_the_row_another_takes_its_place(store):
    coreset = select(store, ["arithmetic"], budget="20", where="corpus <> 'code'", name="c")
    row = coreset.ids[4]
    again = select(
        store, ["arithmetic"], budget="20", where=f"corpus <> 'code' AND id <> '{row}'"
    ).ids
    found = explain(store, "c", row, without=True).without
    assert list(found.comes) == [each for each in again if each not in coreset.ids]
    assert set(found.goes) == set(coreset.ids) - {row} - set(again)
    assert len(found.comes) == 1 + len(found.goes)


def test_methods_that_ask_nobody_say_so(store):
    select(store, ["python"], method="rds:random", budget="6", name="held")
    found = explain(store, "held", 2)
    assert found.pulled_by is None and found.runner_up.place == 1 and found.margin is None
    assert found.cannot == ("Which example pulled it: rds:random uses no target",)
    assert found.score is None and "drawn at random" in found.score_is
    select(store, method="random", budget="6", name="bare")
    bare = explain(store, "bare", 2)
    assert bare.examples == () and bare.cannot == () and bare.nearest.rank == 1


def test_a_row_without_the_vector(store):
    select(store, method="random", budget="3", where="corpus = 'blank'", name="blanks")
    assert explain(store, "blanks", 2).cannot == ("What it is similar to: the row has no rds",)


def test_what_is_gone_is_said_and_the_row_still_told(store):
    coreset = select(store, ["python"], budget="5", name="c")
    before = explain(store, "c", 3)
    store.delete("targets", "target = 'python'")
    assert explain(store, "c", 3) == before  # the recorded version of targets has it
    maintenance.clean(store, older_than_seconds=0)
    assert explain(store, "c", 3) == before  # which the coreset keeps
    store.untag(tag_of("c", "targets"), "targets")  # as coresets made earlier are
    maintenance.clean(store, older_than_seconds=0)
    after = explain(store, "c", 3)
    assert (after.id, after.messages) == (coreset.ids[2], before.messages)
    assert after.examples == () and "cannot be replayed" in after.cannot[0]


def test_an_explanation_is_json(store):
    select(store, ["python"], budget="5", name="c")
    told = json.loads(json.dumps(explain(store, "c", "#2").as_dict()))
    assert told["rank"] == 2 and told["next"]["rank"] == 3 and told["without"] is None
    assert told["examples"][0]["messages"][0]["role"] == "user" and told["tokens"] is None


# -- what a method saw in a row ----------------------------------------------------------------


def rows(generator, count):
    texts = (generator.choice(WORDS, generator.integers(2, 12)).tolist() for _ in range(count))
    return [
        {"prompt": f"{number} {' '.join(words)}", "completion": " ".join(words[1:])}
        for number, words in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """40 rows with the features of TRIM, NAIT, MADS and the losses; a target of four examples."""
    place = tmp_path_factory.mktemp("inside")
    generator = np.random.default_rng(3)
    made = Database.create(
        str(place / "store"),
        backbone=str(tiny_folder()),
        dtype="float32",
        features="trim:rank=16,nait,mads:share=0.2,rds,lexical",
    )
    made.ingest(write_jsonl(place / "a.jsonl", rows(generator, 40)))
    for name in ("task", "other"):
        made.add_target(name, write_jsonl(place / f"{name}.jsonl", rows(generator, 4)))
    return made


def test_trim_shows_its_tokens_and_the_nearest_example_by_another_feature(database):
    coreset = database.select("task", method="trim(scope=response)", budget=6)
    found = database.explain(coreset.name, 3)
    counted = found.tokens.filter("counts")["score"]
    assert (counted.mean() + counted.max()) / 2 == pytest.approx(found.score, abs=1e-5)
    assert found.tokens.equals(database.token_scores("task", found.id, "trim(scope=response)"))
    assert found.pulled_by is None and found.compared_by == "rds"
    assert found.runner_up.place == 1
    assert "compares rows with target task as a whole" in found.cannot[0]
    assert found.values.keys() == {"trim_kept"}


def test_nait_shows_its_layers(database):
    coreset = database.select("task", "other", method="nait", budget=6)
    for rank in (1, 2, 5):
        found = database.explain(coreset.name, rank)
        assert found.target == coreset.table()["target"][rank - 1].as_py()
        assert found.layers["contribution"].sum() == pytest.approx(found.score, rel=1e-4)


@pytest.mark.parametrize(
    "method", ["mads", "mads(g=log1p,weights=idf)", "mads(g=capped,cap=2)", "mads(weights=target)"]
)
def test_mads_shows_what_each_neuron_added(database, method):
    where = "id >= '2'" if "idf" in method else None
    coreset = database.select("task", method=method, budget=12, where=where)
    sets = database.store.take(coreset.ids, ["mads", "mads_values"]).to_pylist()
    for rank in (12,) if where else (1, 4, 12):
        found = database.explain(coreset.name, rank)
        assert found.neurons is not None, found.cannot
        assert found.neurons["gain"].sum() == pytest.approx(found.score, rel=1e-5)
        own = dict(zip(sets[rank - 1]["mads"], sets[rank - 1]["mads_values"], strict=True))
        assert dict(found.neurons.select("neuron", "value").rows()) == own
        held = {unit: sum(unit in each["mads"] for each in sets[: rank - 1]) for unit in own}
        assert dict(found.neurons.select("neuron", "held").rows()) == held
        width = json.loads((tiny_folder() / "config.json").read_text())["intermediate_size"]
        places = found.neurons.select("layer", "unit").rows()
        assert places == [divmod(unit, width) for unit in found.neurons["neuron"]]
        assert {layer for layer, _ in places} == {0, 1}
        gains = found.neurons["gain"].to_list()
        assert gains == sorted(gains, reverse=True)


def test_mads_says_when_another_targets_rows_hide_the_parts(database):
    coreset = database.select("task", "other", method="mads(weights=target)", budget=8)
    told = [database.explain(coreset.name, rank) for rank in range(1, 9)]
    for found in told:
        if found.neurons is None:
            assert (
                "neuron by neuron: when it was taken, other rows counted as well"
                in found.cannot[-1]
            )
        else:
            assert found.neurons["gain"].sum() == pytest.approx(found.score, rel=1e-5)
    assert told[0].neurons is not None


@pytest.mark.parametrize("method", ["bm25", "dsir"])
def test_words_that_row_and_examples_share(database, method):
    coreset = database.select("task", method=method, budget=6)
    found = database.explain(coreset.name, 2)
    query = coreset.table()["query"][1].as_py()
    assert (found.pulled_by is None) == (query is None) == (method == "dsir")

    def words(table, where="true"):
        rows = database.store.dataset(table).to_table(filter=where).to_pylist()
        return {
            row["id"]: " ".join(turn["content"] for turn in row["messages"]).split() for row in rows
        }

    pool = words("pool")
    asked = words("targets", "target = 'task'" + (f" AND id = '{query}'" if query else ""))
    told = [word for each in asked.values() for word in each]
    shared = set(pool[found.id]) & set(told)
    expected = [
        (word, pool[found.id].count(word), told.count(word), sum(word in e for e in pool.values()))
        for word in shared
    ]
    assert found.words.rows() == sorted(expected, key=lambda each: (each[3], each[0]))
    assert len(shared) > 1


def test_who_pulled_a_row_where_nothing_has_a_vector(tmp_path):
    generator = np.random.default_rng(5)
    made = Database.create(
        str(tmp_path / "words"), backbone=str(tiny_folder()), dtype="float32", features="lexical"
    )
    made.ingest(write_jsonl(tmp_path / "a.jsonl", rows(generator, 8)))
    made.add_target("task", write_jsonl(tmp_path / "task.jsonl", rows(generator, 2)))
    coreset = made.select("task", method="bm25", budget=4, name="c")
    for member in coreset.members.to_pylist():
        found = made.explain("c", member["rank"])
        assert [example.id for example in found.examples] == [member["query"]]
        pulled = found.pulled_by
        assert (pulled.similarity, pulled.place, found.margin) == (None, None, None)
        assert pulled.messages[0]["content"] and found.runner_up is None
        assert "no feature with a cosine" in found.cannot[0]


def test_it_prints_as_the_command_line_shows_it(tmp_path, toys):
    """Text on print, HTML in a notebook; markup of rows and examples stays text in both."""
    odd = Instruction.from_turns(("user", "Is <b>2</b> [bold]even[/bold]?"), ("assistant", "Yes"))
    store = toys.toy_store(tmp_path / "odd")
    store.insert("pool", toys.pool_rows([odd, toys.question("sums", 1)], ["<i>odd</i>", "sums"]))
    toys.add_target(store, "t", [odd])
    select(store, ["t"], budget="2", name="c", rules=Rules(leakage="off"))
    explanation = explain(store, "c", 1)
    shown = str(explanation).splitlines()
    assert shown[0].startswith("#1 of 2 in c: ")
    assert shown[1] == "chosen by rds:round_robin for t, from corpus <i>odd</i>"
    assert "  user: Is <b>2</b> [bold]even[/bold]?" in shown
    html = explanation._repr_html_()
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;2&lt;/b&gt; [bold]even" in html
    assert html.startswith("<pre>") and "font-weight: bold" in html
