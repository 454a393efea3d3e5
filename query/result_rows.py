"""Results whose rows are rows of the pool, as data frames, a dataset, text, or HTML in a notebook.

A subclass names a store, the version of its pool, and a table of ids with what is known about
them; a coreset is one, the scores of a pool are another. A conversation is what `export --format
messages` writes: `role` and `content` of every turn, tool fields only where a turn has them, tool
calls as OpenAI writes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.conversations import conversation_columns, conversations_in
from ..schemas.errors import UsageError
from ..schemas.notebook import html_cells, html_text
from ..schemas.plain_text import count_of
from .formats import MESSAGES, Converted, UnfitError

if TYPE_CHECKING:
    import datasets
    import polars as pl

    from ..store.store import Store


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
        further = part.select(list(columns)).to_pylist() if columns else [{}] * len(part)
        for converted, row in zip(_converted(part), further, strict=True):
            yield converted.fields | row


def written_conversations(store: Store, ids: Sequence[str], version: int) -> dict[str, pa.Array]:
    """The columns `messages` and, where a row offers some, `tools`, of one type for all rows.

    Read twice, so that never more than a thousand rows are Python objects at once.

    Raises: as `conversations`.
    """
    traits = frozenset[str]()
    for part in _parts(store, ids, version):
        traits = traits.union(*(converted.traits for converted in _converted(part)))
    types = MESSAGES.columns(traits)
    chunks: dict[str, list[pa.Array]] = {name: [] for name in types}
    for part in _parts(store, ids, version):
        fields = [converted.fields for converted in _converted(part)]
        for name, kind in types.items():
            chunks[name].append(pa.array([field.get(name) for field in fields], kind))
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
    own = ["id", *conversation_columns(store.dataset("pool", version).schema)]
    return store.stream(ids, list(dict.fromkeys([*own, *columns])), version)


def _converted(rows: pa.Table) -> Iterator[Converted]:
    for row_id, instruction in zip(rows["id"].to_pylist(), conversations_in(rows), strict=True):
        try:
            yield MESSAGES.convert(instruction)
        except UnfitError as reason:
            raise UsageError(f"row {row_id}: {reason}") from reason


ROWS_SHOWN = 10
"""Rows of a result that a notebook shows."""

TEXT_SHOWN = 200
"""Characters of a turn that a notebook shows."""


class ResultRows(ABC):
    """Rows of a pool, best first, as tables, frames, datasets, conversations or HTML.

    Attributes:
        store: that holds their text.
        pool_version: of the pool they were found in; text and columns are read at that version.
    """

    store: Store
    pool_version: int

    @abstractmethod
    def table(self) -> pa.Table:
        """A row for each, best first, with `id` and what was found about it."""

    def to_arrow(self, *columns: str, text: bool = False) -> pa.Table:
        """The rows as an Arrow table.

        Args:
            columns: further columns of the pool, such as `nll` or `response_tokens`.
            text: with `messages`, and `tools` where a row offers some, as an export has them.

        Raises:
            UsageError: the pool has no such column, or a row has a tool call without a name.
            StoreError: a row is not in the pool at that version.
        """
        found = self.table()
        ids = found["id"].to_pylist()
        if text:
            for name, values in written_conversations(self.store, ids, self.pool_version).items():
                found = found.append_column(name, values)
        further = [name for name in dict.fromkeys(columns) if name not in found.column_names]
        if further:
            check_columns(self.store, further, self.pool_version)
            taken = self.store.take(ids, further, self.pool_version)
            for name in further:
                found = found.append_column(taken.schema.field(name), taken[name])
        return found

    def to_polars(self, *columns: str, text: bool = False) -> pl.DataFrame:
        """The rows as a polars frame; arguments and errors as `to_arrow`."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow(*columns, text=text))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_dataset(self, *columns: str, text: bool = True) -> datasets.Dataset:
        """The rows as a Hugging Face `datasets.Dataset`, with their text unless told otherwise.

        Arguments and errors as `to_arrow`, and:

        Raises:
            UsageError: the package `datasets` is not installed.
        """
        try:
            import datasets
        except ImportError as error:
            raise UsageError(
                "to_dataset needs the package datasets: pip install 'coresetdb[datasets]'. "
                "to_arrow and to_polars work without it"
            ) from error
        return datasets.Dataset(self.to_arrow(*columns, text=text))

    def rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Each row with its text, read in parts: the table's columns, `messages`, `tools`.

        Args:
            columns: further columns of the pool.

        Raises: as `to_arrow`.
        """
        table = self.table()
        own = {*table.column_names, "messages", "tools"}
        further = [name for name in dict.fromkeys(columns) if name not in own]
        ids = table["id"].to_pylist()
        texts = conversations(self.store, ids, self.pool_version, further)
        facts = (row for batch in table.to_batches(1000) for row in batch.to_pylist())
        for fact, text in zip(facts, texts, strict=True):
            yield fact | text

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The conversations, best first: lists of turns as `apply_chat_template` takes them."""
        ids = self.table()["id"].to_pylist()
        for conversation in conversations(self.store, ids, self.pool_version):
            yield conversation["messages"]

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts, and the first rows with the beginning of their text."""
        table = self.table()
        first = table.slice(0, ROWS_SHOWN)
        ids = first["id"].to_pylist()
        texts = conversations(self.store, ids, self.pool_version)
        further = self._beside(first)
        names = [*first.column_names, *further, "question", "answer"]
        rows = []
        for place, (fact, text) in enumerate(zip(first.to_pylist(), texts, strict=True)):
            found = (values[place] for values in further.values())
            cells = [*map(_shown, fact.values()), *found, *beginnings(text["messages"])]
            rows.append(cells)
        more = table.num_rows - len(rows)
        rest = f"<p>... and {count_of(more, 'more row')}</p>" if more else ""
        return f"{html_text(repr(self))}{html_cells(names, rows)}{rest}{self._chart()}"

    def _beside(self, first: pa.Table) -> dict[str, list[str]]:
        """What a notebook shows beside these rows: a name, and a text for each of them."""
        return {}

    def _chart(self) -> str:
        """A small chart as HTML, below the rows in a notebook."""
        return ""


def beginnings(messages: list[dict[str, Any]], most: int = TEXT_SHOWN) -> tuple[str, str]:
    """The last thing a user said before the last answer, and that answer, each cut to `most`."""
    last = next((turn for turn in reversed(messages) if turn["role"] == "assistant"), {})
    answer = last.get("content") or last.get("reasoning_content", "")
    asked = next((each["content"] for each in reversed(messages) if each["role"] == "user"), "")
    return _cut(asked, most), _cut(answer, most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
