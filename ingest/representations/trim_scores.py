"""TRIM's scores: tokens of the pool against the fingerprints of a target's classes.

Computed from the stored columns, with as many threads as torch has. A token whose class
(vocabulary id) the target has scores its cosine with that class's fingerprint; any other token is
compared with the nearest class and penalised. A row scores (mean + max) / 2 of its tokens.

The basis keeps a part p of a token's unit state and a part q of a fingerprint. Of the parts left
out only the lengths are known; `rest` is what is assumed of them. `alike`: their cosine is that of
the kept parts, so that the whole is cos(p, q) (|p| |q| + sqrt(1 - |p|^2) sqrt(1 - |q|^2)). `none`:
they have nothing in common, so that the whole is <p, q>, which is too low by more for some classes
than for others. Comparing two coresets shows how much a choice depends on that assumption.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from .representation import Scorer
from .trim_codes import Steps, bytes_of

CONTENT, RESPONSE = 1, 2
"""Bits of a token's scope flags: neither special nor template; part of an answer."""

PENALTY = 0.5
"""Lambda of unseen classes by default."""

SCOPES = ("content", "prompt", "response", "all")

RESTS = ("alike", "none")
"""What the parts of state and fingerprint outside the basis are taken to add."""

BLOCK_BYTES = 384 << 10
"""Of the states compared at once: they and their classes' fingerprints stay in a core's cache."""

_LEAST_PER_THREAD = 2048

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ClassTable:
    """A target's fingerprints in the basis of the stored codes.

    Attributes:
        classes: (C,) int32, the vocabulary ids seen, ascending.
        vectors: (C, r) float32.
        nearest: (V,) int32, for every vocabulary id the place in `classes` of the class it is
            compared with: its own where that was seen.
    """

    classes: NDArray[np.int32]
    vectors: Floats
    nearest: NDArray[np.int32]

    @classmethod
    def of(cls, artifact: Artifact) -> ClassTable:
        """Return the table in a target's artifact."""
        arrays = artifact.arrays
        return cls(arrays["classes"], arrays["vectors"], arrays["nearest"])


@dataclass(frozen=True)
class TokenScores:
    """The scores of all tokens of some rows, row after row; all (n,).

    Attributes:
        tokens: vocabulary ids.
        classes: the class each was compared with.
        seen: whether that is its own.
        scores: similarities, penalised where it is not.
    """

    tokens: NDArray[np.int32]
    classes: NDArray[np.int32]
    seen: NDArray[np.bool_]
    scores: Floats


@dataclass(frozen=True)
class RowTerms:
    """Mean and greatest token score of each row, (N,) float32; NaN where no token counts."""

    mean: Floats
    greatest: Floats

    @property
    def scores(self) -> Floats:
        """(mean + max) / 2."""
        return (self.mean + self.greatest) * np.float32(0.5)


def score_tokens(
    tokens: NDArray[np.int32],
    codes: NDArray[Any],
    scales: Floats | None,
    table: ClassTable,
    penalty: float = PENALTY,
    rest: str = RESTS[0],
    steps: Steps | None = None,
) -> TokenScores:
    """Score n tokens.

    Args:
        tokens: (n,) vocabulary ids.
        codes: (n, r) int8 with `scales` (n,), or packed by `steps`, or float32: unit states in
            the basis.
        table: fingerprints in the same basis.
        penalty: lambda in [0, 1]: c - (1 - lambda) |c| for tokens of unseen classes.
        rest: one of RESTS.
        steps: of codes of 4 bits.
    """
    places = table.nearest[tokens]
    classes = table.classes[places]
    seen = classes == tokens
    scores, lengths = products(codes, table.vectors, places, steps)
    if scales is not None:
        scores *= scales
        lengths *= np.square(scales)
    if rest == "alike":
        scores *= _outside_factor(lengths, np.square(table.vectors).sum(1)[places])
    penalised = scores - np.float32(1 - penalty) * np.abs(scores)
    return TokenScores(tokens, classes, seen, np.where(seen, scores, penalised))


def products(
    codes: NDArray[Any], vectors: Floats, places: NDArray[Any], steps: Steps | None = None
) -> tuple[Floats, Floats]:
    """Return <codes_i, vectors_places[i]> and |codes_i|^2, both (n,) float32.

    Args:
        codes: (n, r) int8 or float32, or (n, ceil(r / 2)) int8 packed by `steps`, which then stand
            for numbers.
        vectors: (C, r) float32.
        places: (n,) the row of `vectors` that each is multiplied with.
    """
    import torch

    scores, lengths = (np.empty(len(codes), np.float32) for _ in range(2))
    rows = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))

    def multiply(part: range) -> None:
        states, fingerprints = (np.empty((rows, vectors.shape[1]), np.float32) for _ in range(2))
        wider = np.empty(
            (rows, codes.shape[1]), np.int16 if codes.dtype == np.int8 else codes.dtype
        )
        for start in range(part.start, part.stop, rows):
            block = slice(start, min(start + rows, part.stop))
            block_states, wide = states[: block.stop - start], wider[: block.stop - start]
            if steps is not None:
                steps.unpack(codes[block], block_states)
            else:
                np.copyto(wide, codes[block])  # two steps take half the time of one
                np.copyto(block_states, wide)
            # Places are in bounds; "clip" avoids the copy that "raise" makes for its check.
            classes = np.take(
                vectors, places[block], 0, fingerprints[: len(block_states)], mode="clip"
            )
            np.vecdot(block_states, classes, out=scores[block])
            np.vecdot(block_states, block_states, out=lengths[block])

    threads = min(torch.get_num_threads(), max(1, len(codes) // _LEAST_PER_THREAD))
    ends = np.linspace(0, len(codes), threads + 1).astype(int).tolist()
    parts = [range(first, last) for first, last in pairwise(ends)]
    if threads == 1:
        multiply(parts[0])
    else:  # NumPy uses one thread for this, and releases the interpreter's lock
        with ThreadPoolExecutor(threads, "coresetdb-trim") as pool:
            list(pool.map(multiply, parts))
    return scores, lengths


def _outside_factor(states: Floats, vectors: Floats) -> Floats:
    """Return the factor from <p, q> to the whole cosine, given |p|^2 and |q|^2."""
    inside = states * vectors
    outside = np.clip(1 - states, 0, 1) * np.clip(1 - vectors, 0, 1)
    # A fingerprint or state of which the basis keeps nothing stays at <p, q> = 0.
    return 1 + np.sqrt(np.divide(outside, inside, out=np.zeros_like(inside), where=inside > 0))


def row_terms(scores: Floats, counted: NDArray[np.bool_], lengths: NDArray[Any]) -> RowTerms:
    """Return mean and greatest score of each row's counted tokens.

    Args:
        scores, counted: of the tokens of all rows, row after row.
        lengths: (N,) tokens of each row.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)[counted]
    values = scores[counted]
    counts = np.bincount(rows, minlength=len(lengths))
    present = counts > 0
    starts = (np.cumsum(counts) - counts)[present]
    mean, greatest = (np.full(len(lengths), np.nan, np.float32) for _ in range(2))
    if len(values):
        mean[present] = np.add.reduceat(values.astype(np.float64), starts) / counts[present]
        greatest[present] = np.maximum.reduceat(values, starts)
    return RowTerms(mean, greatest)


def counted_tokens(scope: NDArray[np.int8], which: str) -> NDArray[np.bool_]:
    """Return which tokens count in a scope of SCOPES; template tokens count in `all` alone.

    Args:
        scope: (n,) flags of the tokens.
    """
    content, response = (scope & CONTENT) > 0, (scope & RESPONSE) > 0
    if which == "all":
        return np.ones(len(scope), dtype=bool)
    return {
        "content": content,
        "prompt": content & ~response,
        "response": content & response,
    }[which]


def variance_shares(terms: RowTerms) -> dict[str, float]:
    """Return the shares of the scores' variance over a pool due to the `mean` and `max` terms.

    cov(term / 2, score) / var(score); the two add up to 1, and one may be negative. Rows without
    a score are left out; NaN where all scores are equal.
    """
    scored = np.isfinite(terms.scores)
    parts = np.stack([terms.mean[scored], terms.greatest[scored]]).astype(np.float64) / 2
    total = parts.sum(0)
    centred = parts - parts.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = centred @ (total - total.mean()) / np.square(total - total.mean()).sum()
    return {"mean": float(shares[0]), "max": float(shares[1])}


class TokenScorer(Scorer):
    """Scores rows of the pool by their stored tokens.

    Raises:
        UsageError: an unknown scope or rest, or a penalty outside [0, 1].
    """

    columns = ("trim", "trim_codes", "trim_scales", "trim_scope")

    def __init__(
        self,
        table: ClassTable,
        scope: str,
        penalty: float,
        rest: str,
        steps: Steps | None = None,
    ) -> None:
        for name, value, known in (("scope", scope, SCOPES), ("rest", rest, RESTS)):
            if value not in known:
                raise UsageError(f"trim: {name} {value!r}: choose from {', '.join(known)}")
        if not 0 <= penalty <= 1:
            raise UsageError(f"trim: penalty {penalty}: give a number from 0 to 1")
        self._table, self._scope = table, scope
        self._penalty, self._rest, self._steps = penalty, rest, steps
        if steps is not None:
            self.columns = ("trim", "trim_codes", "trim_scope")

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        return self.terms(rows).scores

    def terms(self, rows: pa.RecordBatch) -> RowTerms:
        """Return the two terms of each row's score."""
        lengths = pc.fill_null(_lists(rows, "trim").value_lengths(), 0).to_numpy()
        counted = counted_tokens(_values(rows, "trim_scope"), self._scope)
        return row_terms(self.tokens(rows).scores, counted, lengths)

    def tokens(self, rows: pa.RecordBatch) -> TokenScores:
        """Return the scores of all stored tokens of these rows, whatever the scope."""
        rank, steps = self._table.vectors.shape[1], self._steps
        codes = _values(rows, "trim_codes").reshape(-1, bytes_of(rank) if steps else rank)
        scales = None if steps else _values(rows, "trim_scales")
        return score_tokens(
            _values(rows, "trim"), codes, scales, self._table, self._penalty, self._rest, steps
        )

    def counted(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which of these tokens count in the scorer's scope."""
        return counted_tokens(_values(rows, "trim_scope"), self._scope)


def _lists(rows: pa.RecordBatch, column: str) -> pa.ListArray:
    lists = rows.column(column)
    assert isinstance(lists, pa.ListArray)
    return lists


def _values(rows: pa.RecordBatch, column: str) -> np.ndarray:
    """Return the numbers of all rows, row after row; vectors are flattened too."""
    values = _lists(rows, column).flatten()  # leaves out the space of null rows
    if isinstance(values, pa.FixedSizeListArray):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)
