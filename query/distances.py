"""How far a selection is from the queries it was made for: two numbers (METHODS 3.2).

With unit vectors q_1..q_M of the queries and s_1..s_K of the chosen rows:

    nearest = mean over m of (1 - max over j of <q_m, s_j>)
    mmd     = the root of  mean <q_m, q_n> + mean <s_i, s_j> - 2 mean <q_m, s_j>
            = | mean of the q_m - mean of the s_j |

The first asks whether every query has somebody close, the second whether the two crowds agree on
the whole. The kernel of the maximum mean discrepancy is the cosine, all pairs counted, a vector
with itself as well; with that kernel it is the distance of the two mean vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .features import Feature
from .queries import Queries, matrix_of

if TYPE_CHECKING:
    from ..store.store import Store

_BYTES_PER_TAKE = 64 << 20


@dataclass(frozen=True)
class Distances:
    """`nearest` in [0, 2] and `mmd` in [0, 2]; None where there is nothing to measure."""

    nearest: float | None = None
    mmd: float | None = None


def distances(
    store: Store,
    feature: Feature | None,
    queries: Sequence[Queries],
    ids: Sequence[str],
    version: int,
) -> Distances:
    """Both distances of some rows of the pool to the examples of targets.

    Rows without the feature do not count. Vectors are read once, in parts of 64 MB.

    Args:
        feature: whose vectors are compared.
        queries: with their vectors.
        ids: of the rows.
        version: of the pool.

    Returns:
        None twice without vectors to compare, a target or a row that has the feature.
    """
    if feature is None or not feature.column or not queries or not ids:
        return Distances()
    import torch

    matrix = matrix_of(queries)
    highest = torch.full((len(matrix),), -np.inf)
    total, count = torch.zeros(matrix.shape[1], dtype=torch.float64), 0
    rows = max(1, _BYTES_PER_TAKE // (2 * matrix.shape[1]))
    for part in store.stream(ids, [feature.column], version, rows=rows):
        column = part[feature.column].combine_chunks()
        vectors = torch.from_numpy(np.array(column.flatten())).view(-1, matrix.shape[1])
        if len(vectors):
            highest = highest.maximum((matrix @ vectors.float().T).amax(dim=1))
            total += vectors.double().sum(dim=0)
            count += len(vectors)
    if not count:
        return Distances()
    apart = matrix.double().mean(dim=0) - total / count
    return Distances(float((1 - highest.double()).mean()), float(apart.norm()))
