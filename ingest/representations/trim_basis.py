"""The basis in which TRIM keeps token states, and how many directions are enough.

The uncentred second moments of the unit states of a sample's content tokens give the directions,
strongest first. Pseudo-targets made of a few rows of the sample then score all others, once from
exact states and once from the int8 codes of each rank; a rank is enough when both find nearly the
same best rows. Moments and states come from one pass over the sample, which keeps the states.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...store.catalog import Artifact
from ..columns import ragged
from ..conversations.tokenization import Encoded
from ..fits.fit import PASS_SHARE, Fit, Fitting, PassFit, Work
from ..passes.reducer import Collector, PassInputs, Reducer
from .trim_scores import ClassTable, row_terms, score_tokens

if TYPE_CHECKING:
    import torch

    from ..models.backbone import Backbone
    from ..models.batches import Batch

LARGEST = 127
"""Of a code; -128 is not used, so that a code and its negative are equally far from zero."""


def unit_states(batch: Batch, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States (n, d) float32 of the batch's tokens, row after row, and their lengths (n, 1).

    They are not divided yet: whoever projects them divides fewer numbers afterwards.
    """
    own = states[batch.mask].float()
    return own, own.norm(dim=1, keepdim=True)


def quantise(projected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, r) int8 and scales (n,) float32 with codes * scale about `projected`.

    The greatest number of a token has code 127 or -127, so no number is off by more than half a
    scale. A token of zeros has scale 0.
    """
    import torch

    scales = projected.abs().amax(1) / LARGEST
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return (projected * inverse[:, None]).round().to(torch.int8), scales


class Codes(Reducer):
    """Codes, scales and kept energy of every token of a batch.

    Args:
        basis: (d, r) float32 with orthonormal columns.
    """

    def __init__(self, batch: Batch, basis: np.ndarray) -> None:
        self._batch, self._basis = batch, basis
        self._columns: dict[str, np.ndarray] = {}

    def hidden(self, states: torch.Tensor) -> None:
        import torch

        own, lengths = unit_states(self._batch, states)
        projected = own @ torch.from_numpy(self._basis).to(own.device) / lengths
        energy = projected.square().sum(1)
        codes, scales = quantise(projected)
        usable = torch.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        ends = np.cumsum([len(row) for row in self._batch.rows])[:-1]
        for name, values in {
            "codes": codes,
            "scales": scales,
            "energy": energy,
            "usable": usable,
        }.items():
            self._columns[name] = ragged(np.split(values.cpu().numpy(), ends))

    def columns(self) -> dict[str, np.ndarray]:
        """Object arrays (B,): codes (T, r) int8, scales, energy (T,) float32, usable (T,)."""
        return self._columns


RANKS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Tried as far as they are below the full width, and then that. Steps of a third or a half: bytes
grow with the rank, and between 256 and a wide model's 4096 there would be nothing to choose."""

BEST = 0.05
"""Share of the rows that are the best ones."""

DRAWS, EXAMPLES = 8, 8
"""Pseudo-targets, and the rows each is made of (a quarter of the sample where that is fewer)."""


def ranks_tried(width: int) -> tuple[int, ...]:
    """The ranks among which one is chosen, for states of that width."""
    return (*(rank for rank in RANKS if rank < width), width)


def top_overlap(exact: np.ndarray, other: np.ndarray) -> float:
    """Share of the best `BEST` of the rows by `exact` that are among the best by `other`.

    Args:
        exact, other: (N,) scores; the first of equals is the better one.
    """
    count = max(1, round(BEST * len(exact)))
    best = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (exact, other)]
    return len(best[0] & best[1]) / count


STATES_IN_MEMORY = 1 << 30
"""Bytes of a sample's states that are held in memory; more are kept in a temporary file."""


class SampleStates(Collector):
    """The token states of a sample: their moments, and the states themselves for the rank.

    States stay in the dtype the model computes in, all of them, so that the chosen rank is that of
    the whole sample: 2,000 rows of 200 tokens take 0.4 GB at width 256 in float32, and 3.3 GB at
    width 4,096 in bfloat16. Above `STATES_IN_MEMORY` they lie in a file without a name, which
    goes with the process.

    Args:
        rows: of the sample; those without content are left out.
        width: of a state.
        keep: whether the states themselves are kept.
    """

    inputs = PassInputs(hidden=True)

    def __init__(self, rows: Sequence[Encoded | None], width: int, keep: bool = True) -> None:
        own = {i: row for i, row in enumerate(rows) if row is not None and row.content.any()}
        self.rows = list(own.values())
        self.places = np.fromiter(own, dtype=np.int64, count=len(own))
        self.width, self._keep = width, keep
        lengths = [len(row) for row in self.rows]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._starts = dict(zip(own, (self._ends - lengths).tolist(), strict=True))
        self._moments = np.zeros((width, width))
        self._held: torch.Tensor | None = None

    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        return _Taking(self, batch, places)

    def take(self, batch: Batch, places: Sequence[int], states: torch.Tensor) -> None:
        """Take in the final states (B, T, d) of a batch whose rows stand at `places`."""
        own = np.concatenate(
            [
                np.full(len(row), p in self._starts)
                for p, row in zip(places, batch.rows, strict=True)
            ]
        )
        content = np.concatenate([row.content for row in batch.rows])
        floats, lengths = unit_states(batch, states)
        units = (floats / lengths).cpu().numpy()[content & own]
        units = units[np.isfinite(units).all(1)]
        np.add(self._moments, units.T @ units, out=self._moments)
        if not self._keep:
            return
        if self._held is None:
            self._held = _room(int(self._ends[-1]), self.width, states.dtype)
        taken, end = states[batch.mask].cpu(), 0
        for place, row in zip(places, batch.rows, strict=True):
            first, end = end, end + len(row)
            if place in self._starts:
                start = self._starts[place]
                self._held[start : start + len(row)] = taken[first:end]

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Right singular vectors of the unit states of the rows' content tokens.

        Returns:
            Directions (d, d) float32, orthonormal columns, strongest first, and the share of the
            energy along each, (d,) float32.
        """
        values, vectors = np.linalg.eigh(self._moments)
        shares = np.maximum(values[::-1], 0) / values.sum()
        return vectors[:, ::-1].astype(np.float32), shares.astype(np.float32)

    def parts(self, tokens: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Parts of the rows, and their kept states (n, d): at most `tokens`, or one row."""
        assert self._held is not None, "the states were not kept"
        first = 0
        while first < len(self.rows):
            start = int(self._ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(self._ends, start + tokens, side="right")))
            yield slice(first, last), self._held[start : int(self._ends[last - 1])]
            first = last


class _Taking(Reducer):
    def __init__(self, sample: SampleStates, batch: Batch, places: Sequence[int]) -> None:
        self._sample, self._batch, self._places = sample, batch, places

    def hidden(self, states: torch.Tensor) -> None:
        self._sample.take(self._batch, self._places, states)

    def columns(self) -> dict[str, np.ndarray]:
        return {}


def _room(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Space for (rows, width) numbers, in memory or in a temporary file.

    Raises:
        UsageError: the disk has no room for the file.
    """
    import torch

    size = rows * width * dtype.itemsize
    if size <= STATES_IN_MEMORY:
        return torch.empty(rows, width, dtype=dtype)
    with tempfile.TemporaryFile(prefix="coresetdb-states-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise UsageError(
                f"trim: the states of the sample take {size / 1e9:,.1f} GB of disk, and "
                f"{tempfile.gettempdir()} has no room for them ({error.strerror}). Set TMPDIR to a "
                "folder with more room, or give trim:sample= fewer rows or trim:rank= a fixed rank"
            ) from error
        held = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    return torch.from_numpy(held).view(dtype).view(rows, width)


def overlaps(
    backbone: Backbone,
    sample: SampleStates,
    adapter: Artifact | None,
    directions: np.ndarray,
    layers: int,
    seed: int,
    tell: Callable[[float], None] = lambda done: None,
) -> dict[int, float]:
    """Rank -> mean overlap of the stored score's best rows with the exact one's.

    The fingerprints of the pseudo-targets need attention maps, so their few rows run through the
    model once more.

    Args:
        directions: (d, d) float32 orthonormal columns, strongest first.
        layers: attention layers of a fingerprint.
        seed: draws the pseudo-targets.
    """
    from .trim_fingerprints import fingerprints, nearest_classes

    rows = sample.rows
    draw = np.random.default_rng(seed)
    size = min(EXAMPLES, len(rows) // 4)
    drawn = [draw.choice(len(rows), size, replace=False) for _ in range(DRAWS)]
    tables: list[ClassTable] = []
    for members in drawn:
        found = fingerprints(backbone, [rows[i] for i in members], layers, adapter)
        nearest = nearest_classes(backbone.model, found.classes)
        tables.append(ClassTable(found.classes, found.vectors @ directions, nearest))
    ranks = ranks_tried(len(directions))
    scores = scores_by_rank(sample, directions, tables, ranks, backbone.device, tell)
    shares = np.zeros((DRAWS, len(ranks)))
    for target, members in enumerate(drawn):
        others = np.delete(scores[:, target], members, axis=0)
        others = others[np.isfinite(others).all(1)]
        shares[target] = [top_overlap(others[:, 0], each) for each in others.T[1:]]
    return dict(zip(ranks, shares.mean(0).tolist(), strict=True))


def scores_by_rank(
    sample: SampleStates,
    directions: np.ndarray,
    tables: Sequence[ClassTable],
    ranks: Sequence[int],
    device: torch.device | str = "cpu",
    tell: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
    """Scores of the sample's rows for some targets: (N, targets, 1 + ranks) float32.

    The exact score comes first.

    Args:
        tables: each target's fingerprints along all `directions`.
        ranks: of the codes the other scores are made from.
        device: where states are projected.
    """
    import torch

    from ..models.batches import TOKENS_PER_BATCH_ACCELERATOR, TOKENS_PER_BATCH_CPU

    widths = (len(directions), *ranks)
    cut = [
        [replace(each, vectors=np.ascontiguousarray(each.vectors[:, :r])) for r in widths]
        for each in tables
    ]
    scores = np.empty((len(sample.rows), len(tables), len(widths)), np.float32)
    turning = torch.from_numpy(directions).to(device)
    cpu = torch.device(device).type == "cpu"
    for part, states in sample.parts(TOKENS_PER_BATCH_CPU if cpu else TOKENS_PER_BATCH_ACCELERATOR):
        own = states.to(device).float()
        turned = own @ turning / own.norm(dim=1, keepdim=True)
        stored: list[tuple[np.ndarray, np.ndarray | None]] = [(turned.cpu().numpy(), None)]
        for rank in ranks:
            codes, scales = quantise(turned[:, :rank])
            stored.append((codes.cpu().numpy(), scales.cpu().numpy()))
        rows = sample.rows[part]
        tokens = np.concatenate([row.ids for row in rows])
        content = np.concatenate([row.content for row in rows])
        lengths = np.array([len(row) for row in rows])
        for target, tables_of_target in enumerate(cut):
            for place, (table, kept) in enumerate(zip(tables_of_target, stored, strict=True)):
                token_scores = score_tokens(tokens, *kept, table).scores
                scores[part, target, place] = row_terms(token_scores, content, lengths).scores
        tell(part.stop / len(sample.rows))
    return scores


VERSION = 1
"""Rises when the same sample would give another basis."""

ENOUGH = 0.95
"""Share of the exact score's best rows that the stored score must find."""

LEAST_ROWS = 4

OUTPUT = "trim-basis"


@dataclass(frozen=True)
class TrimBasis(PassFit[SampleStates]):
    """Fits the basis.

    Leaves one artifact: `basis` (d, r) float32, `spectrum` (d,) float32 (shares of the energy,
    falling), and as facts `rank`, `overlap` at each rank tried, `kept` (share of the energy) and
    the `rows` it was made from.

    Attributes:
        rank: directions to keep; 0 for as few as are enough.
        rows: of the sample.
        layers: attention layers of a fingerprint.
        seed: draws the pseudo-targets.
        warmup: the fit whose last output the model wears; None for the model as it is.
    """

    name: ClassVar[str] = OUTPUT

    rank: int
    rows: int
    layers: int
    seed: int
    warmup: Fit | None = None

    def spec(self) -> dict[str, Any]:
        """Everything the basis depends on beside backbone, sample and warm-up."""
        return {
            "version": VERSION,
            "rank": self.rank,
            "rows": self.rows,
            "layers": self.layers,
            "seed": self.seed,
        }

    def outputs(self) -> tuple[str, ...]:
        """One artifact."""
        return (OUTPUT,)

    def sample_rows(self, total: int) -> int:
        """`rows`, or all there are."""
        return min(self.rows, total)

    def needs(self) -> tuple[Fit, ...]:
        """The warm-up, if the model wears one."""
        return () if self.warmup is None else (self.warmup,)

    def work(self, rows: int) -> Work:
        """Measured with the proxy: moments and ranks take half a forward a row, maps two."""
        if self.rank:
            return Work(forwards=1.3 * rows)
        return Work(forwards=1.5 * rows + 2 * DRAWS * min(EXAMPLES, rows // 4))

    def checkpoint(self) -> str:
        return "" if self.warmup is None else self.warmup.outputs()[-1]

    def collect(self, fitting: Fitting, rows: Sequence[Encoded | None]) -> SampleStates:
        """Take in the states of the rows that have text.

        Raises:
            UsageError: fewer than `LEAST_ROWS` rows have any.
        """
        width = fitting.backbone.info.hidden_size
        sample = SampleStates(rows[: self.rows], width, keep=not self.rank)
        if len(sample.rows) < LEAST_ROWS:
            raise UsageError(
                f"trim: {count_of(len(sample.rows), 'row')} of the sample with text; a basis needs "
                f"at least {LEAST_ROWS}. Use a larger corpus"
            )
        return sample

    def finish(self, fitting: Fitting, collected: SampleStates) -> None:
        directions, spectrum = collected.directions()
        found: dict[int, float] = {}
        if not self.rank:
            adapter = fitting.kept[self.checkpoint()] if self.warmup else None
            found = overlaps(
                fitting.backbone,
                collected,
                adapter,
                directions,
                self.layers,
                self.seed,
                lambda done: fitting.tell(
                    PASS_SHARE + (1 - PASS_SHARE) * done, "how many directions are enough"
                ),
            )
        enough = [rank for rank, overlap in found.items() if overlap >= ENOUGH]
        rank = self.rank or min(enough, default=len(directions))
        facts = {
            "rank": rank,
            "overlap": {str(tried): round(overlap, 4) for tried, overlap in found.items()},
            "kept": round(float(spectrum[:rank].sum()), 6),
            "rows": len(collected.rows),
        }
        basis = np.ascontiguousarray(directions[:, :rank])
        fitting.keep(OUTPUT, Artifact({"basis": basis, "spectrum": spectrum}, facts))
        fitting.tell(1.0, f"{rank} directions keep {facts['kept']:.1%} of the energy")
