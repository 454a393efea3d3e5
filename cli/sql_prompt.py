"""The SQL prompt: a statement ends with a semicolon; words with a dot in front are its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ..schemas.errors import CoresetDBError
from ..store.sql import SqlSession
from ..store.sql_names import FEATURES, MACROS, RELATIONS, quoted
from .sql_completion import Completer, relations_of
from .sql_output import show

FIRST, MORE = "sql> ", "...> "
HISTORY_LINES = 1000

HELP = """\
One SELECT, ended by a semicolon, over the relations that .tables lists; see docs/sql.md.
.tables            the relations and macros of the store
.schema RELATION   its columns and their types (of pool when none is named)
.help              this text
.exit              leave, as Ctrl-D does
Tab completes names and words of SQL.
Ctrl-C drops what is typed, or stops the query that runs."""


def prompt(session: SqlSession, store: str, form: str, read: Callable[[str], str] = input) -> None:
    """Answer one query after another until `.exit` or the end of the input.

    A query that is refused, fails or is interrupted is reported on stderr; the prompt goes on.
    `form` is "table", "csv" or "json"; `read` takes the prompt's text and gives a line.
    """
    click.echo(f"{store}: type a SELECT and a semicolon, or .help", err=True)
    with _line_editing(session):
        while True:
            try:
                text = _statement(read)
                if text is None:
                    return
                if text.startswith("."):
                    text = _dot(text, session)
                if text:
                    show(session.run(text), form)
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo("\ninterrupted", err=True)
            except CoresetDBError as error:
                click.echo(f"Error: {error}", err=True)


def _statement(read: Callable[[str], str]) -> str | None:
    """The next query or dot command; None for `.exit`."""
    lines: list[str] = []
    while True:
        line = read(MORE if lines else FIRST).rstrip()
        if not lines and line.startswith("."):
            return None if line.split()[0] in (".exit", ".quit") else line
        if line or lines:
            lines.append(line)
        if line.endswith(";"):
            return "\n".join(lines)


def _dot(line: str, session: SqlSession) -> str:
    """The query that answers a dot command, or "" where its answer is a text."""
    command, *words = line.split(maxsplit=1)
    if command == ".tables":
        _write_relations(list(relations_of(session)))
    elif command == ".help":
        click.echo(HELP)
    elif command != ".schema":
        click.echo(f"{command} is not known here; .help lists what is", err=True)
    else:
        relation = words[0].strip(' ;"') if words else "pool"
        there = relations_of(session)
        if relation in there:
            return f"SELECT column_name, column_type FROM (DESCRIBE {quoted(relation)})"
        click.echo(f"{relation} is not a relation; they are: {', '.join(there)}", err=True)
    return ""


def _write_relations(there: list[str]) -> None:
    kinds = {**RELATIONS, **FEATURES}
    kinds |= {name: "an instruction, scored" for name in there if name not in kinds}
    size = max(map(len, kinds))
    for name, row in kinds.items():
        click.echo(f"{name:<{size}}  a row is {row}")
    for macro, what in MACROS.items():
        click.echo(f"{macro}: {what}")


@contextlib.contextmanager
def _line_editing(session: SqlSession) -> Iterator[None]:
    """Completion, and a history kept from one prompt to the next, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "coresetdb" / "sql_history"
    with contextlib.suppress(OSError):  # the first time, or a home that cannot be read
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    Completer(session).install(readline)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written keeps no history
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
