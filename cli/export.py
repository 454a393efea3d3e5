"""`coresetdb export`: write a coreset as a file that trainers read."""

from __future__ import annotations

import click

from .frame import json_option, open_database, print_json, store_argument


@click.command(short_help="Write a coreset for a trainer.")
@store_argument
@click.argument("coreset")
@click.option("--out", required=True, metavar="FILE", help="Where to write (.jsonl or .parquet).")
@click.option(
    "--format",
    "format_",
    default="messages",
    show_default=True,
    type=click.Choice(["messages", "prompt-completion", "alpaca", "sharegpt"]),
)
@click.option("--keep-order", is_flag=True, help="In order of selection instead of shuffled.")
@json_option
def command(
    store: str, coreset: str, out: str, format_: str, keep_order: bool, as_json: bool
) -> None:
    """Write CORESET to a file, with a manifest and trainer snippets beside it.

    \b
        coresetdb export pool gsm8k-rds-1 --out gsm8k.jsonl
        coresetdb export pool gsm8k-rds-1 --out gsm8k.parquet --format alpaca
    """
    exported = open_database(store).export(
        coreset, out, format=format_, shuffle=not keep_order
    )
    if as_json:
        print_json(exported.as_dict())
        return
    for sentence in exported.sentences():
        click.echo(sentence)
