"""Small stores with synthetic rows and features: no model, no file, the same in every process."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from coresetdb.ingest.jobs.commit import without_removed_columns
from coresetdb.schemas.canonical import canonical_json, digest
from coresetdb.schemas.conversations import TURN_MARKS, as_columns
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.recipe import Recipe
from coresetdb.schemas.tables import POOL, TARGETS
from coresetdb.store import catalog
from coresetdb.store.rows import key_of
from coresetdb.store.store import Store

WIDTH = 16
RECIPE = Recipe("rds", 1, {"scope": "all"}, {"name": "toy"}, ("rds", "rds_norm", "rds_reason"))


def rds_fields(recipe: Recipe | None = None) -> list[pa.Field]:
    """The columns of a vector of 16 numbers, marked as made by the recipe if one is given."""
    metadata = recipe and {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    return [
        pa.field("rds", pa.list_(pa.float16(), WIDTH), metadata=metadata),
        pa.field("rds_norm", pa.float32(), metadata=metadata),
        pa.field("rds_reason", pa.string(), metadata=metadata),
    ]


# -- rows that are numbered ---------------------------------------------------------------------


def numbered_rows(start: int, stop: int) -> pa.Table:
    """Rows number `start` to `stop` of a toy corpus; row n has the id digest(str(n))."""
    vectors = np.random.default_rng(7).standard_normal((stop, WIDTH)).astype(np.float16)
    rows = [
        {
            "id": digest(str(n)),
            "corpus": "toy",
            "messages": [
                {"role": "user", "content": f"question {n} " * 5},
                {"role": "assistant", "content": f"answer {n}"},
            ],
            "tokens": n % 97,
            "rds": vectors[n],
            "rds_norm": 1.0,
        }
        for n in range(start, stop)
    ]
    fixed = [POOL.field(name) for name in ("id", "corpus", "messages", "tokens")]
    return pa.Table.from_pylist(rows, pa.schema([*fixed, *rds_fields()[:2]]))


def numbered_sources(start: int, stop: int) -> pa.Table:
    """Where those rows were seen: row n in line n of toy.jsonl."""
    return pa.Table.from_pylist(
        [
            {
                "key": key_of(digest(str(n)), "toy", "toy.jsonl", n),
                "id": digest(str(n)),
                "corpus": "toy",
                "file": "toy.jsonl",
                "line": n,
            }
            for n in range(start, stop)
        ]
    )


# -- rows of instructions -----------------------------------------------------------------------


def question(topic: str, number: int) -> Instruction:
    """An example of a topic, with an answer of one to seven words."""
    answer = " ".join(["word"] * (1 + number % 7))
    return Instruction.from_turns(("user", f"{topic} question {number}"), ("assistant", answer))


def mute(topic: str) -> Instruction:
    """An example without an answer."""
    return Instruction.from_turns(("user", f"{topic} question"), ("assistant", ""))


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
        rows = []
        for instruction in instructions:
            unit, words = vector(instruction), len(instruction.messages[-1].content.split())
            rows.append(
                {
                    "tokens": words + 5,
                    "prompt_tokens": 5,
                    "response_tokens": words,
                    "truncated": False,
                    "rds": unit,
                    "rds_norm": None if unit is None else 1.0,
                    "rds_reason": "no text" if unit is None else None,
                }
            )
        fixed = [pa.field(name, POOL.field(name).type) for name in list(rows[0])[:4]]
        return pa.Table.from_pylist(rows, pa.schema([*fixed, *rds_fields(RECIPE)]))


def with_features(rows: pa.Table, features: pa.Table) -> pa.Table:
    """The rows with the featurizer's columns, which replace those of the same name."""
    for name in features.column_names:
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, features[name])
        else:
            rows = rows.append_column(name, features[name])
    return rows


def pool_rows(
    instructions: Sequence[Instruction],
    corpora: Sequence[str],
    metadata: Sequence[dict[str, Any]] = (),
) -> pa.Table:
    """Rows of the pool, one an instruction, with their features."""
    conversations = as_columns(instructions)
    rows = [
        {
            "id": instruction.id,
            "corpus": corpora[place],
            "source_id": f"row-{place}",
            **{name: values[place] for name, values in conversations.items()},
            "metadata": canonical_json(metadata[place]) if metadata else "{}",
            "added_at": datetime.now(UTC),
            "run": "r1",
        }
        for place, instruction in enumerate(instructions)
    ]
    fields = [*POOL, *([TURN_MARKS] if TURN_MARKS.name in conversations else [])]
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    return with_features(table, ToyFeaturizer().featurize(instructions))


def toy_store(place: Path, recipe: Recipe = RECIPE, copied: bool = True) -> Store:
    """An empty store with the vector's columns, those of the targets made by `recipe`.

    A copied one is quickly there, and has the identity of all the others.
    """
    if copied and recipe is RECIPE:
        return Store.open(str(shutil.copytree(_empty(), place)))
    return _made(place, recipe)


@cache
def _empty() -> Path:
    """The folder of a store that was made once, and is copied."""
    _FOLDERS.append(TemporaryDirectory(prefix="toy-store-"))
    place = Path(_FOLDERS[-1].name) / "store"
    _made(place, RECIPE)
    return place


_FOLDERS: list[TemporaryDirectory[str]] = []
"""Removed when the process ends."""


def _made(place: Path, recipe: Recipe) -> Store:
    store = Store.create(str(place), {}, rds_fields(RECIPE), rds_fields(recipe))
    catalog.put_recipe(store, RECIPE)
    return store


def add_target(
    store: Store, name: str, instructions: Sequence[Instruction], metadata: Sequence[str] = ()
) -> None:
    """Write what query.targets.add_target writes, without a file; metadata as JSON, if any."""
    rows = [
        {
            "key": key_of(name, instruction.id),
            "target": name,
            "id": instruction.id,
            "position": position,
            "messages": [message.as_dict() for message in instruction.messages],
            "tools": instruction.tools,
            "metadata": metadata[position] if metadata else "{}",
            "file": "t.jsonl",
            "added_at": datetime.now(UTC),
        }
        for position, instruction in enumerate(instructions)
    ]
    schema = store.dataset("targets").schema
    features = without_removed_columns(ToyFeaturizer().featurize(instructions), schema)
    table = with_features(pa.Table.from_pylist(rows, TARGETS), features)
    store.insert(
        "targets", table.select([name for name in schema.names if name in table.schema.names])
    )
