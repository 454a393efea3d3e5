"""A real store with synthetic rows and features, and a featurizer that needs no model."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.recipe import Recipe
from coresetdb.schemas.tables import POOL
from coresetdb.store import catalog
from coresetdb.store.store import Store

WIDTH = 16
RECIPE = Recipe("rds", 1, {"scope": "all"}, {"name": "toy"}, ("rds", "rds_norm", "rds_reason"))


def feature_fields(recipe=RECIPE):
    metadata = {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    return [
        pa.field("rds", pa.list_(pa.float16(), WIDTH), metadata=metadata),
        pa.field("rds_norm", pa.float32(), metadata=metadata),
        pa.field("rds_reason", pa.string(), metadata=metadata),
    ]


def vector(instruction: Instruction) -> np.ndarray | None:
    """A unit vector from the text alone; texts that start alike lie close. None for "blank"."""
    text = instruction.messages[-2].content if len(instruction.messages) > 1 else "?"
    if text.startswith("blank"):
        return None
    parts = [(text.split() or [""])[0], instruction.id]
    seeds = [int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big") for part in parts]
    topic, own = (np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds)
    mixed = topic + 0.6 * own
    return (mixed / np.linalg.norm(mixed)).astype(np.float16)


class ToyFeaturizer:
    """Stands for ingest.featurizer.Featurizer: the same columns, no model."""

    recipes = ()

    def compute(self, instructions, on_batch=None, of="pool"):
        return SimpleNamespace(encoded=[], table=self.featurize(instructions))

    def table(self, features):
        return features.table

    def featurize(self, instructions):
        vectors = [vector(instruction) for instruction in instructions]
        answers = [len(each.messages[-1].content.split()) for each in instructions]
        kinds = {field.name: field.type for field in feature_fields()}
        made = pa.table(
            {
                "tokens": pa.array([count + 5 for count in answers], pa.int32()),
                "prompt_tokens": pa.array([5] * len(answers), pa.int32()),
                "response_tokens": pa.array(answers, pa.int32()),
                "truncated": pa.array([False] * len(answers)),
                "rds": pa.array([v if v is None else list(v) for v in vectors], kinds["rds"]),
                "rds_norm": pa.array([None if v is None else 1.0 for v in vectors], pa.float32()),
                "rds_reason": pa.array(
                    ["no text" if v is None else None for v in vectors], pa.string()
                ),
            }
        )
        return made.cast(pa.schema([*list(made.schema)[:4], *feature_fields()]))


def pool_rows(instructions, corpora):
    fixed = pa.Table.from_pylist(
        [
            {
                "id": each.id,
                "corpus": corpus,
                "messages": [message.as_dict() for message in each.messages],
                "tools": each.tools,
                "metadata": "{}",
                "added_at": datetime.now(UTC),
                "run": "r1",
            }
            for each, corpus in zip(instructions, corpora, strict=True)
        ],
        POOL,
    )
    features = ToyFeaturizer().featurize(instructions)
    for name in features.column_names:
        if name in fixed.column_names:
            fixed = fixed.set_column(fixed.column_names.index(name), name, features[name])
        else:
            fixed = fixed.append_column(name, features[name])
    return fixed


def question(topic: str, number: int) -> Instruction:
    answer = " ".join(["word"] * (1 + number % 7))
    return Instruction.from_turns(("user", f"{topic} question {number}"), ("assistant", answer))


def mute(topic: str) -> Instruction:
    """An example without an answer."""
    return Instruction.from_turns(("user", f"{topic} question"), ("assistant", ""))


def new_store(place, recipe=RECIPE) -> Store:
    store = Store.create(str(place), {}, feature_fields(), feature_fields(recipe))
    catalog.put_recipe(store, RECIPE)
    return store


def add_toy_target(store, name, instructions):
    """What add_target writes, without a file."""
    from coresetdb.query.targets import _rows
    from coresetdb.schemas.instruction import Record

    records = [Record(each, "t", "t.jsonl", line) for line, each in enumerate(instructions, 1)]
    features = ToyFeaturizer().featurize(instructions)
    store.insert("targets", _rows(store, name, records, features))


@pytest.fixture
def store(tmp_path):
    """240 rows of four corpora in three fragments, six of them without the feature; two targets."""
    made = new_store(tmp_path / "store")
    for start in (0, 80, 160):
        rows = [
            question(topic, number)
            for number in range(start, start + 80, 4)
            for topic in ("sums", "code", "poems", "facts")
        ]
        corpora = [row.messages[0].content.split()[0] for row in rows]
        made.insert("pool", pool_rows(rows, corpora))
    blank = [question("blank", number) for number in range(6)]
    made.insert("pool", pool_rows(blank, ["blank"] * 6))
    add_toy_target(made, "arithmetic", [question("sums", 1000 + n) for n in range(5)])
    add_toy_target(made, "python", [question("code", 2000 + n) for n in range(3)])
    return made


@pytest.fixture(scope="session")
def toys():
    """The makers above, for tests that build more."""
    return SimpleNamespace(
        recipe=RECIPE,
        width=WIDTH,
        vector=vector,
        question=question,
        mute=mute,
        pool_rows=pool_rows,
        new_store=new_store,
        add_target=add_toy_target,
        feature_fields=feature_fields,
        featurizer=ToyFeaturizer(),
    )
