"""`coresetdb sql`: one SELECT over a store, or a prompt for many."""

from __future__ import annotations

import sys

import click

from .frame import overwrite_option


@click.command(short_help="Ask a store anything in SQL.")
@click.argument("store", metavar="STORE")
@click.argument("query", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header line.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: an object per row.")
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the rows to a Parquet file.",
)
@overwrite_option
@click.option("--at", metavar="VERSION", help="Look at this version or tag of the pool.")
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
    """Ask anything of STORE in SQL.

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
    if parquet is not None and not overwrite:
        from .sql_output import check_parquet

        check_parquet(parquet)
    from ..store.sql import SqlSession

    version = int(at) if at is not None and at.isdecimal() else at
    with SqlSession(store, at=version, memory_limit=memory, time_limit=timeout) as session:
        from .sql_output import show

        form = "csv" if as_csv else "json" if as_json else "table"
        if query is None and sys.stdin.isatty() and parquet is None:
            from .sql_prompt import prompt

            prompt(session, store, form)
            return
        text = query if query is not None else sys.stdin.read()
        show(session.run(text), form, parquet)
