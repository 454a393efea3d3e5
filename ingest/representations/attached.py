"""What was made elsewhere: vectors that are compared like any other, and annotations.

Neither is computed here: `ingest/attachments` brings the values in. Their recipes are named by the
option `name`, and an installed package cannot replace them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ...schemas.recipe import ANNOTATION, VECTORS, Recipe
from .representation import Representation, Setup


class Vectors(Representation):
    """Columns: `vectors` unit vector (float16 on disk), `vectors_norm` before, `vectors_reason`.

    In the pool they have the name that was given: `minilm`, `minilm_norm`, `minilm_reason`.
    """

    name = VECTORS
    version = 1
    similarity = VECTORS
    sees = "{name} vectors"

    def fields(self, setup: Setup) -> list[pa.Field]:
        return vector_fields(setup.options["width"])


class Annotation(Representation):
    """Columns of numbers, truth values or texts, and one that says why a row has no value."""

    name = ANNOTATION
    version = 1

    def fields(self, setup: Setup) -> list[pa.Field]:
        kinds = setup.options["columns"]
        return [pa.field(name, TYPES[kind]) for name, kind in kinds.items()]


TYPES = {
    "truth value": pa.bool_(),
    "whole number": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
}
"""What a value of an annotation is -> the type of its column."""

ATTACHED: Mapping[str, Representation] = {VECTORS: Vectors(), ANNOTATION: Annotation()}


def vector_fields(width: int) -> list[pa.Field]:
    """Return the fields of vectors of `width` numbers, by the representation's own names."""
    return [
        pa.field("vectors", pa.list_(pa.float16(), width)),
        pa.field("vectors_norm", pa.float32()),
        pa.field("vectors_reason", pa.string()),
    ]


def annotation_fields(recipe: Recipe) -> list[pa.Field]:
    """Return the fields of an annotation's columns in their order, the reason last."""
    kinds: Mapping[str, str] = recipe.options["columns"]
    values = [pa.field(name, TYPES[kinds[name]]) for name in recipe.columns[:-1]]
    return [*values, pa.field(recipe.reason, pa.string())]


def own_columns(recipe: Recipe) -> dict[str, str]:
    """Return the representation's own name of each column -> the pool's."""
    if recipe.representation == VECTORS:
        own = [field.name for field in vector_fields(1)]
        return dict(zip(own, recipe.columns, strict=True))
    return {column: column for column in recipe.columns}
