"""What Tab completes at the SQL prompt: relations, their columns, macros, words of SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from ..schemas.errors import CoresetDBError
from ..store.sql import SqlSession
from ..store.sql_names import MACROS, POOL_TABLE, quoted

DOT_COMMANDS = ("tables", "schema", "help", "exit")

WORDS = (
    "SELECT FROM WHERE GROUP BY ORDER LIMIT HAVING QUALIFY WITH AS AND OR NOT IN IS NULL LIKE "
    "BETWEEN CASE WHEN THEN ELSE END DISTINCT EXCLUDE FILTER OVER PARTITION JOIN LEFT ANTI SEMI ON "
    "USING UNION ALL DESC ASC UNNEST DESCRIBE SUMMARIZE PIVOT"
).split()

BETWEEN_WORDS = " \t\n,;()[]{}=<>+-*/%!|&^'."
"""Where a word ends; not at a colon or a quotation mark, which method columns need."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def relations_of(session: SqlSession) -> dict[str, list[str]]:
    """Every relation that a query of this session can name -> its columns, in order.

    Raises:
        CoresetDBError: the store cannot be opened.
    """
    query = """
        SELECT table_name AS relation, list(column_name ORDER BY column_index) AS columns
        FROM duckdb_columns() WHERE NOT internal GROUP BY table_name ORDER BY table_name
    """
    rows = session.run(query).read_all().to_pylist()
    return {row["relation"]: row["columns"] for row in rows if row["relation"] != POOL_TABLE}


class Completer:
    """Readline's completer for one session; the store is asked when Tab is first pressed."""

    def __init__(self, session: SqlSession) -> None:
        self._session = session
        self._relations: dict[str, list[str]] | None = None
        self._found: list[str] = []

    def install(self, readline: Any) -> None:
        """Bind Tab."""
        self._line = readline.get_line_buffer
        readline.set_completer_delims(BETWEEN_WORDS)
        readline.set_completer(self.complete)
        libedit = "libedit" in (readline.__doc__ or "")  # macOS
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def complete(self, text: str, state: int) -> str | None:
        """The candidate number `state` for a word that begins with `text`."""
        if state == 0:
            self._found = candidates(self._line(), text, self._known())
        return self._found[state] if state < len(self._found) else None

    def _known(self) -> dict[str, list[str]]:
        if self._relations is None:
            try:
                self._relations = relations_of(self._session)
            except CoresetDBError:  # a query will say so; words of SQL are completed all the same
                return {}
        return self._relations


def candidates(line: str, text: str, relations: Mapping[str, Sequence[str]]) -> list[str]:
    """What `text`, the last word of `line` as far as it is typed, may become, sorted."""
    if line.startswith("."):
        words = list(relations) if " " in line else list(DOT_COMMANDS)
    else:
        names = {*relations, *chain.from_iterable(relations.values())}
        calls = [f"{macro.partition('(')[0]}(" for macro in MACROS]
        words = [*map(_written, names), *calls, *WORDS]
    start = text.casefold().lstrip('"')
    return sorted(word for word in words if word.casefold().lstrip('"').startswith(start))


def _written(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else quoted(name)
