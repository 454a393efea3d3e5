"""Examples of evaluation files, kept under the digest of their ids so that a replay needs no file.

They hold conversations in full, so a purge writes those that have content of purged rows again.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..schemas.canonical import canonical_json, digest_of
from ..schemas.conversations import TURN_MARKS, as_columns
from ..schemas.errors import DamagedStoreError
from ..schemas.ids import IdSet, keys_of
from ..schemas.instruction import Instruction
from ..schemas.tables import literal
from . import catalog

if TYPE_CHECKING:
    from .store import Store

_NAME = "evaluation"


def digest_of_evaluation(instructions: Sequence[Instruction]) -> str:
    """The digest that examples are kept under."""
    return digest_of([instruction.id for instruction in instructions])


def keep(store: Store, instructions: Sequence[Instruction]) -> str:
    """Keep examples in their order; returns their digest."""
    rows = [
        {name: values[0] for name, values in as_columns([instruction]).items()}
        for instruction in instructions
    ]
    digest = digest_of_evaluation(instructions)
    catalog.put_artifact(store, digest, _NAME, zlib.compress(canonical_json(rows).encode()))
    return digest


def kept(store: Store, digest: str) -> tuple[Instruction, ...] | None:
    """The examples kept under a digest; None where the store has none.

    Raises:
        DamagedStoreError: they cannot be read.
    """
    data = catalog.artifact(store, digest, _NAME)
    if data is None:
        return None
    try:
        rows = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise DamagedStoreError(
            f"{store.uri}: the examples of an evaluation file ({digest}) cannot be read ({error}). "
            "Run `coresetdb verify --full`"
        ) from error
    return tuple(
        Instruction.from_row(row["messages"], row["tools"], row.get(TURN_MARKS.name))
        for row in rows
    )


def keep_without(store: Store, gone: IdSet) -> dict[str, tuple[str, int]]:
    """Keep examples that have content of these rows once more, without it.

    Returns:
        Digest of the examples -> digest of those that are left, and how many are not.
    """
    return {digest: (keep(store, left), lost) for digest, left, lost in _losing(store, gone)}


def losing(store: Store, gone: IdSet, every: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count the examples of each evaluation file that have content of these rows.

    Args:
        every: parameters of all coresets, which know the files' names.

    Returns:
        Name of the file (the digest of its examples where no coreset has it) -> examples.
    """
    names = {
        evaluation["artifact"]: evaluation["name"]
        for parameters in every
        for evaluation in parameters.get("rules", {}).get("asked", {}).get("evaluations", ())
    }
    counts: Counter[str] = Counter()
    for digest, _, lost in _losing(store, gone):
        counts[names.get(digest, digest)] += lost
    return dict(sorted(counts.items()))


def _losing(store: Store, gone: IdSet) -> Iterator[tuple[str, list[Instruction], int]]:
    """Digests of examples that have content of these rows, those without, and how many have it."""
    rows = store.dataset("artifacts").to_table(
        columns=["fingerprint"], filter=f"name = {literal(_NAME)}"
    )
    for digest in sorted(rows["fingerprint"].to_pylist()):
        instructions = kept(store, digest) or ()
        ids = [instruction.id for instruction in instructions]
        doomed = gone.contains(keys_of(ids)) if ids else []
        left = [each for each, purged in zip(instructions, doomed, strict=True) if not purged]
        if len(left) < len(instructions):
            yield digest, left, len(instructions) - len(left)


def drop(store: Store, digest: str) -> None:
    """Delete the examples kept under a digest."""
    store.delete("artifacts", f"name = {literal(_NAME)} AND fingerprint = {literal(digest)}")


def replace_in(rules: dict[str, Any], changed: dict[str, tuple[str, int]]) -> None:
    """Let the recorded rules of a coreset name examples that were kept once more."""
    for evaluation in rules.get("asked", {}).get("evaluations", ()):
        if evaluation["artifact"] in changed:
            evaluation["artifact"], purged = changed[evaluation["artifact"]]
            evaluation["purged"] = evaluation.get("purged", 0) + purged
