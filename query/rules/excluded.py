"""Rows of an earlier coreset that must not be chosen again, kept as long as a replay needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...schemas.canonical import digest
from ...schemas.errors import UsageError
from ...selectors.keys import ids_of, keys_of

if TYPE_CHECKING:
    from ...store.store import Store

_EXCLUDED = "excluded"
_ID_BYTES = 16


@dataclass(frozen=True)
class Excluded:
    """The rows of a coreset as it was: its name and its ids, 16 bytes each."""

    coreset: str
    packed: bytes

    @property
    def digest(self) -> str:
        """Of its rows; the store keeps them under this name, whatever becomes of the coreset."""
        return digest(self.packed.hex())

    @property
    def keys(self) -> np.ndarray:
        """(n, 2) int64."""
        text = self.packed.hex()
        ids = [text[at : at + 32] for at in range(0, len(text), 32)]
        return keys_of(pa.array(ids, pa.string()))

    def __len__(self) -> int:
        return len(self.packed) // _ID_BYTES


def excluded(store: Store, coreset: str) -> Excluded:
    """The rows of a coreset.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    from ..coresets import load_coreset

    members = load_coreset(store, coreset).members
    return Excluded(coreset, bytes.fromhex("".join(ids_of(keys_of(members["id"])))))


def keep_excluded(store: Store, rows: Excluded) -> None:
    """Keep them, so that a selection can be replayed after the coreset was removed."""
    store.put_artifact(rows.digest, _EXCLUDED, rows.packed)


def kept_excluded(store: Store, coreset: str, digest: str) -> Excluded:
    """The rows that were kept under a digest.

    Raises:
        UsageError: the store lost them.
    """
    packed = store.artifact(digest, _EXCLUDED)
    if packed is None:
        raise UsageError(f"{store.uri} has lost the rows of coreset {coreset} ({digest})")
    return Excluded(coreset, packed)
