"""TRIM in a store: fitted at the first ingestion, asked when the model is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import trim_reference as reference
from helpers.files import write_jsonl
from helpers.tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from coresetdb.database import Database
from coresetdb.ingest.columns import ragged
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations.trim import Trim
from coresetdb.ingest.representations.trim_scores import variance_shares
from coresetdb.query.comparison import scorer_of
from coresetdb.query.methods import parse_method
from coresetdb.query.queries import load_queries
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.integrity.verify import verify

torch.set_num_threads(1)

FLAT = pa.list_(pa.int8())
WORDS = "the sky is blue and two plus three make five while green trees grow by rivers".split()


def rows(generator: np.random.Generator, count: int) -> list[tuple[str, str]]:
    def text(most: int) -> str:
        return " ".join(generator.choice(WORDS, generator.integers(1, most)))

    return [(f"{number} {text(9)}", text(14)) for number in range(count)]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    return write_jsonl(path, ({"prompt": prompt, "completion": text} for prompt, text in pairs))


def instruction(pair: tuple[str, str]) -> Instruction:
    return Instruction.from_turns(("user", pair[0]), ("assistant", pair[1]))


def test_a_store_answers_without_a_model_as_the_reference_does_with_one(tmp_path):
    generator = np.random.default_rng(1)
    model = save_tiny_model(tmp_path / "model", "llama")
    pool, examples = rows(generator, 60), rows(generator, 4)
    database = Database.create(
        str(tmp_path / "store"), backbone=str(model), dtype="float32", features="trim:rank=32"
    )
    assert database.pending() == ["trim:rank=32"]
    database.ingest(write_pairs(tmp_path / "a.jsonl", pool[:40]))
    assert database.pending() == []
    database.ingest(write_pairs(tmp_path / "b.jsonl", pool[40:]))
    database.add_target("task", write_pairs(tmp_path / "task.jsonl", examples))

    backbone = Backbone.load(BackboneConfig(str(model), "cpu", "float32"))
    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    encoded = {instruction(pair).id: backbone.encode(instruction(pair)) for pair in pool}
    classes = reference.fingerprints(eager, [backbone.encode(instruction(e)) for e in examples])
    expected = {id: reference.score(eager, row, classes) for id, row in encoded.items()}
    answers = {
        id: reference.score(eager, row, classes, scope="response") for id, row in encoded.items()
    }

    (model / "model.safetensors").unlink()
    database = Database.open(str(tmp_path / "store"))
    table = database.select("task", method="trim", budget=60).table()
    scores = dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert scores.keys() == expected.keys()
    assert max(abs(scores[id] - expected[id]) for id in scores) < 0.01
    asked = database.select("task", method="trim(scope=response)", budget=5).table()
    for id, score in zip(asked["id"].to_pylist(), asked["score"].to_pylist(), strict=True):
        assert score == pytest.approx(answers[id], abs=0.01)
    with pytest.raises(UsageError, match="choose from content, prompt, response, all"):
        database.select("task", method="trim(scope=answers)", budget=5)

    # What explains a row token by token.
    store = database.store
    feature = Snapshot(store).feature("trim")
    method = parse_method("trim", {"trim": feature.representation})
    (batch,) = store.dataset("pool").to_table(filter=f"id = '{table['id'][0]}'").to_batches()
    scorer = scorer_of(
        Snapshot(store), feature, method, load_queries(Snapshot(store), "task", feature)
    )
    row = encoded[str(table["id"][0])]
    told = scorer.tokens(batch)
    assert told.tokens.tolist() == row.ids.tolist()
    assert told.seen.tolist() == [token in classes for token in row.ids.tolist()]
    assert scorer.counted(batch).tolist() == row.content.tolist()
    states, _ = reference.run(eager, row)
    for place in np.flatnonzero(row.content):
        unit = states[place] / np.linalg.norm(states[place])
        single = reference.token_score(eager, int(row.ids[place]), unit, classes)
        assert told.scores[place] == pytest.approx(single, abs=0.02)
    whole = store.dataset("pool").to_table().combine_chunks().to_batches()[0]
    assert sum(variance_shares(scorer.terms(whole)).values()) == pytest.approx(1)


def test_a_store_with_its_codes_in_one_list_a_row_is_read_and_added_to(tmp_path, monkeypatch):
    """As stores were made before codes were lists of vectors; the scores are the same."""
    generator = np.random.default_rng(2)
    model = save_tiny_model(tmp_path / "model", "llama")
    pool, examples = rows(generator, 50), rows(generator, 4)
    first = write_pairs(tmp_path / "a.jsonl", pool[:40])
    rest = write_pairs(tmp_path / "b.jsonl", pool[40:])
    task = write_pairs(tmp_path / "task.jsonl", examples)
    kinds, found = [], []
    for name in ("before", "now"):
        database = Database.create(
            str(tmp_path / name), backbone=str(model), dtype="float32", features="trim:rank=32"
        )
        with monkeypatch.context() as patch:
            if name == "before":
                patch.setattr(Trim, "fields", _with_flat_codes(Trim.fields))
                patch.setattr(Trim, "finish", _in_one_list(Trim.finish))
            database.ingest(first)
        database = Database.open(str(tmp_path / name))
        database.ingest(rest)
        database.add_target("task", task)
        kinds.append(database.store.dataset("pool").schema.field("trim_codes").type)
        table = database.select("task", method="trim", budget=50).table()
        found.append(dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True)))
        assert verify(database.store.uri, full=True).ok
    assert kinds == [FLAT, pa.list_(pa.list_(pa.int8(), 32))]
    assert found[0] == found[1] and len(found[0]) == 50


def _with_flat_codes(fields):
    def flat(self, setup):
        return [
            pa.field("trim_codes", FLAT) if field.name == "trim_codes" else field
            for field in fields(self, setup)
        ]

    return flat


def _in_one_list(finish):
    def flat(self, *given):
        made = finish(self, *given)
        return {**made, "trim_codes": ragged([each.ravel() for each in made["trim_codes"]])}

    return flat
