"""Where the results of fits are kept while a feature is settled: in a store, or in memory only."""

from __future__ import annotations

from typing import Protocol

from ...store.store import Store
from .artifacts import Artifact, content_of, found_artifact, keep_artifact, load_artifact


class Shelf(Protocol):
    """Artifacts by what was asked for, and by the digest of their content."""

    def find(self, asked: str, name: str) -> str | None:
        """The digest of what such a fit found earlier, or None."""
        ...

    def keep(self, asked: str, name: str, artifact: Artifact) -> str:
        """Keep a result; the digest of the one that stands from now on."""
        ...

    def load(self, content: str, name: str) -> Artifact:
        """The artifact with that digest."""
        ...


class StoreShelf:
    """The table `artifacts` of a store: the first result committed stands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, asked: str, name: str) -> str | None:
        """See Shelf."""
        return found_artifact(self._store, asked, name)

    def keep(self, asked: str, name: str, artifact: Artifact) -> str:
        """See Shelf."""
        return keep_artifact(self._store, asked, name, artifact)

    def load(self, content: str, name: str) -> Artifact:
        """See Shelf; raises DamagedStoreError."""
        return load_artifact(self._store, content, name)


class MemoryShelf:
    """For trials: nothing outlives it. What lies on the shelf `below` is found and left alone."""

    def __init__(self, below: Shelf | None = None) -> None:
        self._below = below
        self._asked: dict[tuple[str, str], str] = {}
        self._kept: dict[str, Artifact] = {}

    def find(self, asked: str, name: str) -> str | None:
        """See Shelf."""
        there = self._below.find(asked, name) if self._below else None
        return there or self._asked.get((asked, name))

    def keep(self, asked: str, name: str, artifact: Artifact) -> str:
        """See Shelf."""
        content = self._asked.setdefault((asked, name), content_of(artifact.pack()))
        self._kept.setdefault(content, artifact)
        return content

    def load(self, content: str, name: str) -> Artifact:
        """See Shelf."""
        if content in self._kept or self._below is None:
            return self._kept[content]
        return self._below.load(content, name)
