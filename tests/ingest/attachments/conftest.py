"""A store of synthetic rows that were seen in files, in three fragments."""

from __future__ import annotations

import pyarrow as pa
import pytest
from helpers import toy_stores

from coresetdb.database import Database
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.tables import SOURCES
from coresetdb.store.rows import key_of
from coresetdb.store.store import Store


def place_of(
    row: Instruction, corpus: str, file: str, line: int, own: str | None
) -> dict[str, object]:
    """A row of the table `sources`."""
    place = {"id": row.id, "corpus": corpus, "file": file, "line": line, "source_id": own}
    return place | {"key": key_of(row.id, corpus, file, line)}


class World:
    """A store, and the rows that stand in it."""

    def __init__(self, store: Store) -> None:
        self.store, self.database = store, Database(store)
        self.rows: list[Instruction] = []

    def add(self, first: int, last: int, corpus: str = "toy", ids: bool = True) -> None:
        """Insert rows, seen in lines of a file of their own, with ids such as "a7"."""
        rows = [toy_stores.question("sums", number) for number in range(first, last)]
        self.store.insert("pool", toy_stores.pool_rows(rows, [corpus] * len(rows)))
        places = [
            place_of(row, corpus, f"{corpus}.jsonl", number, f"a{number}" if ids else None)
            for number, row in enumerate(rows, first)
        ]
        self.store.insert("sources", pa.Table.from_pylist(places, SOURCES))
        self.rows += rows

    def saw(self, row: Instruction, corpus: str, file: str, line: int, own: str | None) -> None:
        """Note that a row was seen in a place under an id of its own."""
        place = place_of(row, corpus, file, line, own)
        self.store.insert("sources", pa.Table.from_pylist([place], SOURCES))

    def column(self, *names: str) -> dict[str, tuple | object]:
        """Id -> what the columns hold."""
        rows = self.store.dataset("pool").to_table(columns=["id", *names]).to_pylist()
        if len(names) == 1:
            return {row["id"]: row[names[0]] for row in rows}
        return {row["id"]: tuple(row[name] for name in names) for row in rows}


@pytest.fixture
def world(tmp_path) -> World:
    """Thirty rows of the corpus toy."""
    world = World(toy_stores.toy_store(tmp_path / "store"))
    world.store.configure(backbone={"name": "toy"}, features="")
    for first in (0, 10, 20):
        world.add(first, first + 10)
    return world
