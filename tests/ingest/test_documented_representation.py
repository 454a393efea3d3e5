"""The representation that docs/methods.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.representation import Representation
from coresetdb.schemas.instruction import Instruction

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture
def documented(monkeypatch):
    """The example, brought by an entry point as another package would."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    names: dict = {}
    exec(code, names)

    class Point:
        name, value = "answer_mean", "my_package.answer_mean:representation"

        def load(self):
            return names["representation"]

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    registry.forget_installed()
    yield
    registry.forget_installed()


def test_it_is_the_mean_over_the_answers(documented):
    backbone = tiny_backbone()
    rows = [*tiny_conversations(), Instruction.from_turns(("user", "nobody answers"))]
    recipes = registry.parse_features("losses,answer_mean", backbone.info)
    made = Featurizer(backbone, recipes, tokens_per_batch=300).compute(rows).columns
    table = Featurizer(backbone, recipes, tokens_per_batch=1).featurize(rows)
    for place, instruction in enumerate(rows[:-1]):
        encoded = backbone.encode(instruction)
        ids = torch.tensor(encoded.ids.tolist())[None]
        with torch.inference_mode():
            states = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden[0]
        total = sum(states[p] for p in range(len(encoded)) if encoded.response[p])
        expected = (total / total.norm()).numpy()
        assert np.allclose(made["answer_mean"][place], expected, atol=1e-5)
        stored = np.asarray(table["answer_mean"][place].as_py(), dtype=np.float32)
        assert np.allclose(stored, expected, atol=1e-3)
    assert table["answer_mean"][-1].as_py() is None
    assert "no response token" in table["answer_mean_reason"][-1].as_py()
    assert table["answer_mean_reason"].null_count == len(rows) - 1


def test_every_attribute_of_the_protocol_is_explained(documented):
    text = DOCS.read_text("utf-8")
    attributes = {
        *Representation.__annotations__,
        *Representation.__abstractmethods__,
        "passes",
        "reducer",
        "fits",
        "target_artifact",
        "scorer",
        "identity",
        "compute",
    }
    assert {attribute for attribute in attributes if f"`{attribute}" not in text} <= {"name"}
    assert "answer_mean" in registry.names()
