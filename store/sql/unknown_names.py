"""What to do about a relation that a query names and the store has not: errors of DuckDB, mended.

DuckDB proposes the relation whose name is most like it. It cannot know that the scores of a target
are a relation only once they were made.
"""

from __future__ import annotations

import re

import duckdb

from ...schemas.errors import suggest
from ..place import Place
from .names import FEATURES, RELATIONS, SCORES_OF, quoted

_UNKNOWN = re.compile(
    r'Table with name "?(?P<absent>[^"\n]+?)"? does not exist!|'
    r'Referenced table "(?P<outside>[^"\n]+)" not found!'
)
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
        return message
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
