"""The text behind rows of the pool, in the order asked for, as trainers take it.

A conversation here is what `export --format messages` writes: `role` and `content` of every turn,
tool fields only where a turn has them, tool calls as OpenAI writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import UsageError
from ..schemas.instruction import Instruction
from .export.messages import MESSAGES
from .export.shape import Converted, UnfitError

if TYPE_CHECKING:
    from ..store.store import Store

_COLUMNS = ("id", "messages", "tools")


def conversations(
    store: Store, ids: Sequence[str], version: int, columns: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Each row's `messages`, its `tools` where it offers some, and further columns of the pool.

    Rows are read a thousand at a time.

    Raises:
        UsageError: a row has a tool call without a name, or the pool has no such column.
        StoreError: a row is not in that version.
    """
    for part in _parts(store, ids, version, columns):
        for row in part.to_pylist():
            yield _converted(row).fields | {name: row[name] for name in columns}


def conversation_columns(store: Store, ids: Sequence[str], version: int) -> dict[str, pa.Array]:
    """The columns `messages` and, where a row offers some, `tools`, of one type for all rows.

    Read twice, so that never more than a thousand rows are Python objects at once.

    Raises: as `conversations`.
    """
    traits = frozenset[str]()
    for part in _parts(store, ids, version):
        traits = traits.union(*(_converted(row).traits for row in part.to_pylist()))
    types = MESSAGES.columns(traits)
    chunks: dict[str, list[pa.Array]] = {name: [] for name in types}
    for part in _parts(store, ids, version):
        fields = [_converted(row).fields for row in part.to_pylist()]
        for name, kind in types.items():
            chunks[name].append(pa.array([each.get(name) for each in fields], kind))
    return {name: pa.chunked_array(chunks[name], kind) for name, kind in types.items()}


def check_columns(store: Store, columns: Sequence[str], version: int) -> None:
    """Refuse columns that the pool does not have.

    Raises:
        UsageError: names those it has.
    """
    there = store.dataset("pool", version).schema.names
    for name in columns:
        if name not in there:
            raise UsageError(f"the pool of {store.uri} has no column {name!r}: {', '.join(there)}")


def _parts(
    store: Store, ids: Sequence[str], version: int, columns: Sequence[str] = ()
) -> Iterator[pa.Table]:
    check_columns(store, columns, version)
    return store.stream(ids, list(dict.fromkeys([*_COLUMNS, *columns])), version)


def _converted(row: dict[str, Any]) -> Converted:
    try:
        return MESSAGES.convert(Instruction.from_row(row["messages"], row["tools"]))
    except UnfitError as reason:
        raise UsageError(f"row {row['id']}: {reason}") from reason
