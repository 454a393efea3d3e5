"""`coresetdb ingest`: read files into the pool."""

from __future__ import annotations

import shlex
import sys
from shlex import quote

import click

from .frame import (
    json_option,
    open_database,
    print_json,
    read_options,
    reading_options,
    store_argument,
    talk,
)


@click.command(short_help="Read files into the pool.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--corpus", help="Name of the corpus; each file's own name otherwise.")
@reading_options
@click.option("--limit", type=click.IntRange(min=1), help="Read no more than this many records.")
@json_option
def ingest_command(
    store: str,
    sources: tuple[str, ...],
    corpus: str | None,
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    """Read SOURCE (files, folders, globs, hf:// or s3:// addresses, - for stdin) into the pool.

    The shape of each file is found by looking at it, and said. What the pool already has is
    skipped, so an interrupted ingestion goes on when it is called again.

    \b
        coresetdb ingest pool data/*.jsonl.gz
        coresetdb ingest pool qa.csv --map user=question,assistant=answer
        zcat more.jsonl.gz | coresetdb ingest pool - --corpus more
    """
    from .progress import ShownProgress

    with ShownProgress() as progress:
        account = open_database(store).ingest(
            list(sources),
            corpus=corpus,
            **read_options(format_, mapping, encoding, explanation, unescape),
            limit=limit,
            progress=progress,
            command=shlex.join(["coresetdb", *sys.argv[1:]]),
        )
    if as_json:
        print_json(account.as_dict())
    else:
        click.echo("\n".join(account.sentences()))
    if account.total("rejected"):
        talk(f'Rejected records: coresetdb sql {quote(store)} "SELECT * FROM rejects"')
    return 1 if account.faults else 0
