"""Top: the rows most similar to the queries, by the mean or the maximum over them.

`by=max` is the doubly greedy order of the targeted-selection paper (arXiv 2602.14696), for targets
of several kinds: the mean prefers rows between them. The query that pulled a row is the one most
similar to it. Version 2: means are summed in float64, so that rows that compare equally tie
wherever they are in a block.

Without a representation, `top(score=COLUMN)` ranks rows by a column of the pool, such as a judge's
score, highest first; `order=ascending` turns it round. Rows without a value are left out, and ties
are in the order of the ids.
"""

from __future__ import annotations

import numpy as np

from ..schemas.plain_text import count_of
from .reductions import Columns, TopRows
from .selector import Option, Passes, Ranking, Selector, Task


def _passes(task: Task) -> Passes:
    (best,) = yield (TopRows(task.k, task.options["by"]),)
    assert best.scores is not None and best.queries is not None
    return Ranking(best.keys[0], best.scores[0], best.queries[0])


def _by_column(task: Task) -> Passes:
    name = task.options["score"]
    (rows,) = yield (Columns((name,), numeric=True),)
    values = rows.columns[name]
    ranked_by = values if task.options["order"] == "ascending" else -values
    order = np.argsort(ranked_by, kind="stable")  # rows come by id; NaN goes last
    valued = len(order) - int(np.isnan(values).sum())
    chosen = order[: min(task.k, valued)]
    notes = ()
    if valued < len(rows):
        notes = (f"left out: {count_of(len(rows) - valued, 'eligible row')} without {name}",)
    return Ranking(rows.keys[chosen], values[chosen].astype(np.float32), notes=notes)


_BY_COLUMN = Selector(
    "top",
    1,
    ("columns",),
    _by_column,
    own_memory=lambda task: task.rows * 56,  # keys, values and orders of all rows
    options={
        "score": Option("", required=True),
        "order": Option("descending", ("descending", "ascending")),
    },
)

SELECTOR = Selector(
    "top",
    2,
    ("query_similarity",),
    _passes,
    options={"by": Option("mean", ("mean", "max"))},
    paper="arXiv 2602.14696",
    alone=_BY_COLUMN,
    meaning="rows closest to your examples on average",
)
