"""UOT: rows by the mass that unbalanced optimal transport sends them.

The code of the targeted-selection paper (arXiv 2602.14696) transports with the cost (1 - S) / 2,
uniform marginals, entropic `reg` 0.01 and a KL penalty on the rows' side of 1e-4, so weak that rows
may take any mass. What a row receives is then mean_m softmax_j(S_mj / (2 reg)): the top 500 agree
with the solver's to more than 99 %. That takes two passes: the log of every query's normaliser,
then the votes.

The query that pulled a row is the one that sends it the most.
"""

from __future__ import annotations

import numpy as np

from .reductions import LogSumExp, Reduction, Votes
from .selector import Option, Passes, Ranking, Selector, Task


def _passes(task: Task) -> Passes:
    temperature = 2 * task.options["reg"]
    (logs,) = yield (LogSumExp(temperature),)
    (best,) = yield (Votes(task.k, temperature, logs),)
    assert best.scores is not None and best.queries is not None
    scores, notes = best.scores[0], ()
    if spent := int((scores == 0).sum()):
        notes = (
            f"uot with reg={task.options['reg']:g}: after the first {len(scores) - spent:,} rows "
            "the masses are too small for a float32, and rows are in the order of their ids; a "
            "larger reg tells them apart",
        )
    return Ranking(best.keys[0], scores, best.queries[0], notes)


def _later(task: Task) -> tuple[Reduction, ...]:
    return (Votes(task.k, 2 * task.options["reg"], np.empty(0)),)


SELECTOR = Selector(
    "uot",
    1,
    ("query_similarity", "vectors"),
    _passes,
    # Below this nothing but each query's nearest row would count.
    options={"reg": Option(0.01, least=1e-4)},
    later=_later,
    paper="arXiv 2602.14696",
    meaning="rows near your examples, shared out by optimal transport",
)
