"""A recipe: how a feature is made. Its fingerprint is written beside every vector made by it.

Features may be compared only when their fingerprints are equal; `difference` says where two
recipes part. Device, compute dtype and package version are left out: they change features no
further than rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .canonical import digest_of

FINGERPRINT_KEY = b"coresetdb:fingerprint"
"""In the metadata of a column: the fingerprint of the recipe that fills it."""

ANNOTATION, VECTORS = "annotation", "vectors"
"""Representations of what was made elsewhere: its recipes are named by their option `name`."""


@dataclass(frozen=True)
class Recipe:
    """A representation with its options on one backbone.

    Attributes:
        representation: registered name, such as "rds".
        version: the representation's own version; it rises when its numbers change.
        options: everything that changes the numbers (JSON values).
        backbone: identity of model, tokenizer, template and truncation (JSON values); empty for
            features that need no model.
        columns: pool columns this recipe fills, in order.
        stored_dtype: of the vectors on disk.
        artifacts: name -> digest of everything fitted that the feature depends on.
    """

    representation: str
    version: int
    options: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    stored_dtype: str = "float16"
    artifacts: dict[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What the fingerprint is taken of (columns are a matter of naming, not of making)."""
        return {
            "representation": self.representation,
            "version": self.version,
            "options": self.options,
            "backbone": self.backbone,
            "stored_dtype": self.stored_dtype,
            "artifacts": self.artifacts,
        }

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return digest_of(self.identity())

    @property
    def attached(self) -> bool:
        """Whether its values were made elsewhere: no row gets them at ingestion."""
        return self.representation in (ANNOTATION, VECTORS)

    @property
    def made_by(self) -> str:
        """The command that made an annotation of the pool itself; empty for values from files."""
        return self.options.get("made_by", "") if self.attached else ""

    @property
    def feature(self) -> str:
        """What the feature is called: its representation, and `__<8 hex>` for a second recipe."""
        return self.options["name"] if self.attached else self.representation + self._suffix

    @property
    def reason(self) -> str:
        """The column that says why a row has no value."""
        if self.attached:
            return self.columns[-1]
        return f"{self.representation}_reason{self._suffix}"

    @property
    def _suffix(self) -> str:
        suffix = f"__{self.fingerprint[:8]}"
        return suffix if any(column.endswith(suffix) for column in self.columns) else ""


def difference(ours: Recipe, theirs: Recipe) -> list[str]:
    """Every point in which two recipes part, as "name: this, not that"; empty when they agree."""
    return _parts(ours.identity(), theirs.identity(), "")


def _parts(ours: Any, theirs: Any, name: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(set(ours) | set(theirs))
        return [
            part
            for key in keys
            for part in _parts(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if ours == theirs else [f"{name}: {ours!r}, not {theirs!r}"]
