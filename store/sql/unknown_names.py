"""What to do about a relation that a query names and the store has not: errors of DuckDB, mended.

DuckDB proposes the relation whose name is most like it. It cannot know that the scores of a target
are a relation only once they were made.
"""

from __future__ import annotations

import re

import duckdb

from ...schemas.errors import suggest
from ...schemas.tables import literal
from ..place import Place
from .names import FEATURES, RELATIONS, SCORES_OF, quoted

_UNKNOWN = re.compile(
    r'Table with name "?(?P<absent>[^"\n]+?)"? does not exist!|'
    r'Referenced table "(?P<outside>[^"\n]+)" not found!'
)
_NO_COLUMN = re.compile(r'Referenced column "(?P<column>[^"\n]+)" not found in FROM clause!')
_TEXTS = {
    *("text", "content", "prompt", "question", "instruction", "input", "user"),
    *("response", "answer", "output", "completion", "assistant", "conversation", "conversations"),
}
_OF_TEXTS = (
    "The texts of a row are its messages: messages[1].content is the first turn, "
    "messages[-1].content the last"
)
_COMPARED = (
    r'"?(?P<with>[A-Za-z_]\w*)"?\s*'
    r'(?:=|==|<>|!=|(?:NOT\s+)?(?:I?LIKE\b|IN\s*\([^)]*?))\s*"?'
)
"""What stands before a text that a column is compared with."""

_PROPOSED = re.compile(r"\n(Did you mean|Candidate tables?:)[^\n]*")


def mended(connection: duckdb.DuckDBPyConnection, place: Place, message: str) -> str:
    """An error of DuckDB with what to do about a relation that it does not know.

    Args:
        connection: with the relations of the store.
        place: of the store.
        message: of the error.
    """
    match = _UNKNOWN.search(message)
    if match is None:
        return _with_quotes(connection, message)
    name = match["absent"] or match["outside"]
    views = _names(connection, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    scored = [view for view in views if view.startswith(SCORES_OF)]
    known = {each.casefold() for each in (*RELATIONS, *FEATURES, *scored)}
    if name.casefold().startswith(SCORES_OF) and name.casefold() not in known:
        advice = _about_scores(connection, place, name[len(SCORES_OF) :], scored)
    elif match["outside"] and name.casefold() in known:
        advice = (
            f"{name} is not among the relations after FROM; in a filter: id IN (SELECT id FROM "
            f"{quoted(name)} WHERE ...)"
        )
    elif match["absent"]:
        advice = f"Relations: {', '.join([*RELATIONS, *FEATURES, *map(quoted, scored)])}"
    else:
        return message
    return _PROPOSED.sub("", message).replace(match[0], f"{match[0]}\n{advice}", 1)


def _with_quotes(connection: duckdb.DuckDBPyConnection, message: str) -> str:
    """An error about a column that the store has not, which may be a text without quotes."""
    match = _NO_COLUMN.search(message)
    if match is None:
        return message
    name = match["column"]
    if name.casefold() in _TEXTS:
        return message.replace(match[0], f"{match[0]}\n{_OF_TEXTS}", 1)
    line = message.partition("\nLINE ")[2].partition("\n")[0].partition(": ")[2]
    compared = re.search(_COMPARED + re.escape(name), line, re.IGNORECASE)
    value, what = _value_like(connection, name, line, compared["with"] if compared else None)
    if value is None and compared is None:
        return message
    advice = f"A text stands between single quotes: {literal(value or name)}"
    advice += f" ({what})" if value else ""
    proposed = re.sub(r"\nCandidate bindings:[^\n]*", "", message)
    return proposed.replace(match[0], f"{match[0]}\n{advice}", 1)


def _value_like(
    connection: duckdb.DuckDBPyConnection, name: str, line: str, column: str | None
) -> tuple[str | None, str]:
    """A value of the store that a name without quotes may be, or begin, and what it is."""
    kinds = {
        "corpus": "SELECT DISTINCT corpus FROM pool",
        "target": "SELECT DISTINCT target FROM targets",
        "coreset": "SELECT name FROM coresets",
    }
    named = [(value, kind) for kind, query in kinds.items() for value in _names(connection, query)]
    for value, kind in sorted(named, key=lambda pair: len(pair[0]), reverse=True):
        begins = value.casefold().startswith(name.casefold()) and value in line
        if begins or value.casefold() == name.casefold():
            return value, f"there is a {kind} of this name"
    if column is None:
        return None, ""
    try:
        found = connection.execute(
            f"SELECT {quoted(column)} FROM pool WHERE {quoted(column)} = ? LIMIT 1", [name]
        ).fetchone()
    except duckdb.Error:  # no column of the pool, or none of texts
        return None, ""
    return (name, f"a value of {column}") if found else (None, "")


def _about_scores(
    connection: duckdb.DuckDBPyConnection, place: Place, target: str, scored: list[str]
) -> str:
    """How the scores of a target come to be a relation."""
    targets = _names(connection, "SELECT DISTINCT target FROM targets")
    for each in targets:
        if each.casefold() == target.casefold():
            return f"It is there once rows are scored: coresetdb score run {place.typed} {each}"
    there = f"there are {', '.join(map(quoted, scored))}" if scored else "no rows were scored yet"
    return (
        f"The scores of a target are {SCORES_OF}TARGET, and {there}; to make them: coresetdb score "
        f"run {place.typed} TARGET. Targets: "
        + suggest(target, targets, f"coresetdb target list {place.typed}")
    )


def _names(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return sorted(name for (name,) in connection.execute(query).fetchall())
