"""`coresetdb fit`: learn what features need from a sample, before anything is ingested."""

from __future__ import annotations

from shlex import quote

import click

from .frame import (
    json_option,
    open_database,
    print_json,
    read_options,
    reading_options,
    store_argument,
    table,
    talk,
)


@click.command(short_help="Learn what features need from a sample of files.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@reading_options
@click.option("--limit", type=click.IntRange(min=1), help="Read no more than this many records.")
@json_option
def fit_command(
    store: str,
    sources: tuple[str, ...],
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Learn adapters, bases and ensembles that STORE's features need, from a sample of SOURCE.

    The first `ingest` does this by itself with the files it is given; `fit` is for a sample from
    other files, or to have it done. A killed fit goes on where it was when it is called again.

    \b
        coresetdb fit pool data/*.jsonl.gz
    """
    from .progress import ShownProgress

    with ShownProgress() as progress:
        recipes = open_database(store).fit(
            list(sources),
            **read_options(format_, mapping, encoding, explanation, unescape),
            limit=limit,
            progress=progress,
        )
    if as_json:
        print_json(
            [
                {
                    "representation": recipe.representation,
                    "fingerprint": recipe.fingerprint,
                    "columns": list(recipe.columns),
                    "artifacts": recipe.artifacts,
                }
                for recipe in recipes
            ]
        )
    elif recipes:
        rows = [
            {
                "feature": recipe.representation,
                "learned": ", ".join(recipe.artifacts),
                "columns": ", ".join(recipe.columns),
            }
            for recipe in recipes
        ]
        click.echo(table(rows))
        talk(f"Next: coresetdb ingest {quote(store)} FILE...")
    else:
        talk(f"{store}: nothing to learn; all its features can be made.")
