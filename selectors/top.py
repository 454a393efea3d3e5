"""Top: the rows most similar to the queries, by the mean or the maximum over them.

`by=max` is the doubly greedy order of the targeted-selection paper (arXiv 2602.14696), for targets
of several kinds: the mean prefers rows between them. The query that pulled a row is the one most
similar to it. Version 2: means are summed in float64, so that rows that compare equally tie
wherever they are in a block.
"""

from __future__ import annotations

from .reductions import TopRows
from .selector import Option, Passes, Ranking, Selector, Task


def _passes(task: Task) -> Passes:
    (best,) = yield (TopRows(task.k, task.options["by"]),)
    assert best.scores is not None and best.queries is not None
    return Ranking(best.keys[0], best.scores[0], best.queries[0])


SELECTOR = Selector(
    "top",
    2,
    ("query_similarity",),
    _passes,
    options={"by": Option("mean", ("mean", "max"))},
    paper="arXiv 2602.14696",
)
