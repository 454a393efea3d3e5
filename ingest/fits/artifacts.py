"""What was learned once and is kept: bases, adapters, ensembles, facts about a target.

An artifact is arrays and JSON facts, packed as safetensors (never pickle) and kept in the table
`artifacts` under the digest of its bytes. A fit's result is found by what was asked for: a small
reference from the fit's own digest to the content's. Whoever refers first wins, so two processes
that fit the same thing at once end up with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.canonical import DIGEST_BYTES, canonical_json
from ...schemas.errors import DamagedStoreError

if TYPE_CHECKING:
    from ...schemas.recipe import Recipe
    from ...store.store import Store

_FACTS = "facts"


@dataclass(frozen=True, eq=False)
class Artifact:
    """Named arrays with JSON facts about them; never changed, so it can be a key of caches."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The same artifact always gives the same bytes."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        return save(arrays, {_FACTS: canonical_json(dict(self.facts))})

    @classmethod
    def unpack(cls, data: bytes) -> Artifact:
        """What `pack` made.

        Raises:
            DamagedStoreError: the bytes are something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays, facts = load(data), _facts(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise DamagedStoreError(
                f"an artifact of the store cannot be read ({error}). Run `coresetdb verify --full`"
            ) from error
        return cls(arrays, facts)


def keep_artifact(store: Store, asked: str, name: str, artifact: Artifact) -> str:
    """Keep what a fit found.

    Args:
        asked: digest of everything the fit depends on.
        name: of this part of it.

    Returns:
        The digest of the artifact that stands for the fit from now on: the first one committed.
    """
    data = artifact.pack()
    content = content_of(data)
    store.put_artifact(content, name, data)
    return store.put_artifact(asked, name, content.encode()).decode()


def found_artifact(store: Store, asked: str, name: str) -> str | None:
    """The digest of what such a fit found earlier, or None."""
    reference = store.artifact(asked, name)
    return None if reference is None else reference.decode()


def load_artifact(store: Store, content: str, name: str) -> Artifact:
    """The artifact with that digest.

    Raises:
        DamagedStoreError: it is gone, or its bytes changed.
    """
    data = store.artifact(content, name)
    if data is None or content_of(data) != content:
        what = "is gone" if data is None else "is not what was kept"
        raise DamagedStoreError(
            f"{store.uri}: the artifact {name!r} ({content}) {what}. Run `coresetdb verify --full`"
        )
    return Artifact.unpack(data)


def facts_of(store: Store, content: str, name: str) -> Mapping[str, Any]:
    """The facts of an artifact, without its arrays; none where it is gone or damaged."""
    data = store.artifact(content, name)
    try:
        return _facts(data) if data else {}
    except (ValueError, KeyError):
        return {}  # status goes on; `verify --full` says what is wrong


def artifacts_of(store: Store, recipe: Recipe) -> dict[str, Artifact]:
    """Everything fitted that a recipe depends on, by name."""
    return {name: load_artifact(store, content, name) for name, content in recipe.artifacts.items()}


class LazyArtifacts(Mapping[str, Artifact]):
    """The same, each loaded when it is first looked at: a query may need few of them.

    Args:
        references: name -> digest.
    """

    def __init__(self, store: Store, references: Mapping[str, str]) -> None:
        self._store, self._references = store, references
        self._loaded: dict[str, Artifact] = {}

    def __getitem__(self, name: str) -> Artifact:
        if name not in self._loaded:
            self._loaded[name] = load_artifact(self._store, self._references[name], name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)


def content_of(data: bytes) -> str:
    """The digest that a packed artifact is kept under."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _facts(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"][_FACTS])
