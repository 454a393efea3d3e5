"""The selector that docs/selectors.md shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import torch

from coresetdb.query.scanning.reducers import Block, planned_memory, reducer_for
from coresetdb.schemas.ids import ids_of, keys_of
from coresetdb.selectors import registry
from coresetdb.selectors.selector import Task

DOCS = Path(__file__).parents[2] / "docs" / "selectors.md"


def documented():
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    names: dict = {}
    exec(code, names)
    return names["SELECTOR"]


def test_it_ranks_the_rows_of_the_first_example():
    import pyarrow as pa

    selector = documented()
    ids = [f"{number:032x}" for number in range(20)]
    similarity = np.random.default_rng(0).standard_normal((2, 20)).astype(np.float32)
    passes = selector.passes(Task(2, 20, 5))
    (need,) = next(passes)
    reducer = reducer_for(need, slice(0, 2))
    reducer.feed(Block(keys_of(pa.array(ids)), torch.from_numpy(similarity)))
    try:
        passes.send((reducer.result(),))
    except StopIteration as end:
        assert ids_of(end.value.keys) == [ids[j] for j in np.argsort(-similarity[0])[:5]]
    assert planned_memory(selector, Task(2, 20, 5)) > 0


def test_a_package_can_bring_it(monkeypatch):
    class Point:
        name, value = "nearest_only", "my_package.nearest_only:SELECTOR"

        def load(self):
            return documented()

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    registry.selectors.cache_clear()
    try:
        assert "nearest_only" in registry.selectors()
        assert registry.selectors()["round_robin"].name == "round_robin"
    finally:
        registry.selectors.cache_clear()
