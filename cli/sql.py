"""`coresetdb sql`: one SELECT over a store, or a prompt for many, with completion by Tab."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..schemas.environment import home_folder
from ..schemas.errors import CoresetDBError
from ..store.sql.names import FEATURES, MACROS, POOL_TABLE, RELATIONS, quoted
from .options import overwrite_option, print_text, store_argument, talk

if TYPE_CHECKING:
    from ..store.sql.session import SqlSession


@click.command()
@store_argument
@click.argument("query", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines, an object per row.")
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the rows to a Parquet file.",
)
@overwrite_option
@click.option("--at", metavar="VERSION", help="Query this version or tag of the pool.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop a query that takes longer.",
)
@click.option(
    "--memory",
    default="2GB",
    show_default=True,
    metavar="SIZE",
    help="Stop a query that needs more.",
)
def sql_command(
    store: str,
    query: str | None,
    as_csv: bool,
    as_json: bool,
    parquet: str | None,
    overwrite: bool,
    at: str | None,
    timeout: float,
    memory: str,
) -> None:
    """Ask STORE anything in SQL.

    The pool with its metadata fields, vectors (`features`), sources, targets, scores, coresets,
    runs and rejects are relations of DuckDB. QUERY is one SELECT; without it, it is read from
    standard input, or on a terminal a prompt opens. docs/cookbook.md has queries to start from.

    \b
        coresetdb sql pool "SELECT corpus, count(*) FROM pool GROUP BY corpus"
        coresetdb sql pool "SELECT * EXCLUDE messages FROM members('math')" --csv > math.csv
        coresetdb sql pool "FROM nearest('gsm8k', 'rds', 10) JOIN pool USING (id)" --json
    """
    if as_csv + as_json + (parquet is not None) > 1:
        raise click.UsageError("choose one of --csv, --json and --parquet")
    from ..store.layout import require_outside, require_pool
    from ..store.place import place_at
    from ..store.sql.session import SqlSession
    from .sql_output import check_parquet, show

    if parquet is not None:
        require_outside(parquet)
        if not overwrite:
            check_parquet(parquet)

    if query is None:  # a store that is not there is said before anything is typed
        require_pool(place_at(store))
    number = at is not None and at.isdecimal() and len(at) <= _LONGEST_VERSION
    version = int(at) if at is not None and number else at
    with SqlSession(store, at=version, memory_limit=memory, time_limit=timeout) as session:
        form = "csv" if as_csv else "json" if as_json else "table"
        if query is None and sys.stdin.isatty() and parquet is None:
            prompt(session, store, form)
            return
        text = query if query is not None else sys.stdin.read()
        show(session.run(text), form, parquet)


_LONGEST_VERSION = 30  # digits; more are no version of anything

FIRST, MORE = "sql> ", "...> "
HISTORY_LINES = 1000

LEAVE = {"quit", "exit", "\\q", ".exit", ".quit", ".q", "quit()", "exit()"}
"""What people type to leave a prompt."""

HELP = """\
Type one SELECT that ends in a semicolon, over the relations of .tables (docs/sql.md).
.tables            list the relations and macros of the store
.schema RELATION   list its columns and their types (of pool by default)
.help              print this text
.exit              leave, as quit, exit, \\q and Ctrl-D do
Tab completes names and words of SQL.
Ctrl-C discards what is typed, or stops the query that runs."""


def prompt(session: SqlSession, store: str, form: str, read: Callable[[str], str] = input) -> None:
    """Answer one query after another until `quit`, `exit`, `.exit` or the end of the input.

    A query that is refused, fails or is interrupted is reported on stderr; the prompt goes on.
    `form` is "table", "csv" or "json"; `read` takes the prompt's text and gives a line.
    """
    from .sql_output import show

    talk(f"{store}: type a SELECT and a semicolon, .help, or quit")
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
                talk()
                return
            except KeyboardInterrupt:
                talk("\ninterrupted")
            except CoresetDBError as error:
                talk(f"Error: {error}")


def _statement(read: Callable[[str], str]) -> str | None:
    """The next query or dot command; None for one of `LEAVE`."""
    lines: list[str] = []
    while True:
        line = read(MORE if lines else FIRST).rstrip()
        if line.strip(" \t;").casefold() in LEAVE and _begins_anew(lines, line):
            return None
        if not lines:
            line = _as_dot_command(line)
            if line.startswith("."):
                return line
        if line or lines:
            lines.append(line)
        if line.endswith(";"):
            return "\n".join(lines)


def _begins_anew(lines: Sequence[str], line: str) -> bool:
    """Whether a line that may leave the prompt is not part of a query.

    A column may be called exit; behind an unfinished query only what is no word of SQL leaves.
    """
    return not lines or line.lstrip().startswith((".", "\\"))


def _as_dot_command(line: str) -> str:
    """A command that other prompts know as the one that is meant here; any other line as it is."""
    command, _, rest = line.strip(" \t;").partition(" ")
    known = {"help": ".help", "\\?": ".help", "?": ".help", "\\h": ".help", "\\dt": ".tables"}
    known |= {"\\d": ".schema" if rest else ".tables"}
    return f"{known[command.casefold()]} {rest}".rstrip() if command.casefold() in known else line


def _dot(line: str, session: SqlSession) -> str:
    """The query that answers a dot command, or "" where its answer is a text."""
    command, *words = line.split(maxsplit=1)
    if command == ".tables":
        _write_relations(list(relations_of(session)))
    elif command == ".help":
        print_text(HELP)
    elif command != ".schema":
        talk(f"{command}: no such command; .help lists them")
    else:
        relation = words[0].strip(' ;"') if words else "pool"
        relations = relations_of(session)
        if relation in relations:
            return f"SELECT column_name, column_type FROM (DESCRIBE {quoted(relation)})"
        talk(f"{relation}: no such relation; there are {', '.join(relations)}")
    return ""


def _write_relations(relations: list[str]) -> None:
    kinds = {**RELATIONS, **FEATURES}
    kinds |= {name: "an instruction, scored" for name in relations if name not in kinds}
    size = max(map(len, kinds))
    for name, row in kinds.items():
        print_text(f"{name:<{size}}  a row is {row}")
    for macro, what in MACROS.items():
        print_text(f"{macro}: {what}")


@contextlib.contextmanager
def _line_editing(session: SqlSession) -> Iterator[None]:
    """Completion, and a history kept from one prompt to the next, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or home_folder() / ".local" / "state")
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
    """Map every relation that a query of this session can name to its columns, in order.

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
    """Readline's completer for one session; reads the store when Tab is first pressed."""

    def __init__(self, session: SqlSession) -> None:
        self._session = session
        self._relations: dict[str, list[str]] | None = None
        self._candidates: list[str] = []

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
            self._candidates = candidates(self._line(), text, self._known())
        return self._candidates[state] if state < len(self._candidates) else None

    def _known(self) -> dict[str, list[str]]:
        if self._relations is None:
            try:
                self._relations = relations_of(self._session)
            except CoresetDBError:  # a query will say so; words of SQL are completed all the same
                return {}
        return self._relations


def candidates(line: str, text: str, relations: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the completions of `text`, the unfinished last word of `line`, sorted."""
    if line.startswith("."):
        words = list(relations) if " " in line else list(DOT_COMMANDS)
    else:
        names = {*relations, *chain.from_iterable(relations.values())}
        calls = [f"{macro.partition('(')[0]}(" for macro in MACROS]
        words = [*map(_as_typed, names), *calls, *WORDS]
    start = text.casefold().lstrip('"')
    return sorted(word for word in words if word.casefold().lstrip('"').startswith(start))


def _as_typed(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else quoted(name)
