"""Representations as another package would add them, compared by scorers; they need no model.

`length` ranks rows by themselves, `words` by the tokens they share with a target as a whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coresetdb.ingest.columns import ragged
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.representation import Representation, Scorer
from coresetdb.schemas.errors import UsageError
from coresetdb.store.catalog import Artifact

MOST = 60
"""Rows of more tokens have none of the two features."""


class Length(Representation):
    """`length`: tokens of a row, the most first, or the fewest with `fewest=true`."""

    name = "length"
    version = 1
    query_defaults = {"fewest": False}  # noqa: RUF012
    selector = "top"

    def fields(self, setup):
        return [pa.field("length", pa.float32()), pa.field("length_reason", pa.string())]

    def finish(self, rows, passed, setup):
        lengths = np.array([len(row) for row in rows], np.float32)
        reason = np.where(lengths > MOST, "too long", None)
        lengths[lengths > MOST] = np.nan
        return {"length": lengths, "length_reason": reason}

    def scorer(self, options, artifacts, facts, query_options):
        assert facts is None
        return ByLength(-1 if query_options["fewest"] else 1)


class ByLength(Scorer):
    columns = ("length",)

    def __init__(self, sign):
        self.sign = sign

    def scores(self, rows):
        return self.sign * rows.column("length").to_numpy(zero_copy_only=False)


class Words(Representation):
    """`words`: ids of a row's tokens; a row scores the share of them that the target has."""

    name = "words"
    version = 1
    defaults = {"first": 0}  # noqa: RUF012
    query_defaults = {"power": 1.0, "scope": "all"}  # noqa: RUF012
    selector = "top"

    def fields(self, setup):
        return [
            pa.field("words", pa.list_(pa.int32())),
            pa.field("words_mean", pa.list_(pa.float16(), 2)),
            pa.field("words_reason", pa.string()),
        ]

    def finish(self, rows, passed, setup):
        ids = [np.asarray(row.ids, np.int32)[setup.options["first"] :] for row in rows]
        usable = np.array([len(row) <= MOST for row in rows])
        mean = np.array([[len(each), 1] for each in ids], np.float32)
        mean[~usable] = np.nan
        return {
            "words": ragged([each if yes else None for each, yes in zip(ids, usable, strict=True)]),
            "words_mean": mean,
            "words_reason": np.where(usable, None, "too long"),
        }

    def target_artifact(self, backbone, rows, columns, setup):
        assert setup.side == "target" and len(rows) == len(columns["words"])
        have = [column for column in columns["words"] if column is not None]
        if len(have) < 2:
            return Artifact({}, {"refused": f"it takes 2 examples, this target has {len(have)}"})
        return Artifact({"tokens": np.unique(np.concatenate(have)).astype(np.int32)})

    def scorer(self, options, artifacts, facts, query_options):
        scope = query_options["scope"]
        if scope not in ("all", "odd"):
            raise UsageError(f"words: scope {scope!r}: choose from all, odd")
        return ByWords(facts.arrays["tokens"], query_options)


class ByWords(Scorer):
    columns = ("words", "words_mean")

    def __init__(self, tokens, options):
        self.tokens, self.options = tokens, options

    def scores(self, rows):
        words = rows.column("words")
        starts = words.offsets.to_numpy()
        shared = np.isin(words.values.to_numpy(), self.tokens)
        if self.options["scope"] == "odd":
            shared &= words.values.to_numpy() % 2 == 1
        scores = np.full(len(words), np.nan, np.float32)
        for row in np.flatnonzero(words.is_valid()):
            scores[row] = shared[starts[row] : starts[row + 1]].mean() ** self.options["power"]
        return scores


REPRESENTATIONS = (Length(), Words())


@pytest.fixture
def toy_representations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register them through entry points."""

    class Point:
        def __init__(self, representation):
            self.name = representation.name
            self.value = f"my_package:{self.name}"
            self.load = lambda: representation

    points = [Point(representation) for representation in REPRESENTATIONS]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.forget_installed()
    yield
    registry.forget_installed()
