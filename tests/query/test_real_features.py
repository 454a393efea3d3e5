"""With a real model: a target from a file, its features, a selection that needs no model."""

import pyarrow as pa
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_backbone
from helpers.toy_stores import with_features

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.representations.registry import fields_of, parse_features
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.query.targets import add_target
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.tables import POOL
from coresetdb.store import catalog
from coresetdb.store.store import Store

torch.set_num_threads(1)


def test_rows_equal_to_an_example_come_first(tmp_path):
    backbone = tiny_backbone("llama")
    recipes = parse_features("rds,losses", backbone.info)
    fields = [field for recipe in recipes for field in fields_of(recipe, backbone.info)]
    store = Store.create(str(tmp_path / "store"), {}, fields, fields)
    for recipe in recipes:
        catalog.put_recipe(store, recipe)
    rows = [
        Instruction.from_turns(("user", f"what is {n} and {n * 7 % 11}?"), ("assistant", str(n)))
        for n in range(60)
    ]
    featurizer = Featurizer(backbone, recipes)
    features = featurizer.featurize(rows)
    fixed = pa.Table.from_pylist(
        [
            {
                "id": row.id,
                "corpus": "sums",
                "messages": [message.as_dict() for message in row.messages],
            }
            for row in rows
        ],
        POOL,
    )
    store.insert("pool", with_features(fixed, features).select(store.dataset("pool").schema.names))
    examples = rows[10:14]
    file = write_jsonl(
        tmp_path / "task.jsonl",
        (
            {"prompt": row.messages[0].content, "completion": row.messages[1].content}
            for row in examples
        ),
    )
    added = add_target(store, "task", str(file), ReadOptions(), lambda: featurizer)
    assert added.target.examples == 4 and added.target.missing == {"rds": 0, "losses": 0}
    coreset = select(store, ["task"], budget="8", rules=Rules(leakage="off"))
    assert set(coreset.ids[:4]) == {row.id for row in examples}
    assert coreset.distance is not None and abs(coreset.distance) < 1e-3
    assert replay(store, coreset.name).same
