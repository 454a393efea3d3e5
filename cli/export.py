"""`coresetdb export`: write a coreset as a file that trainers read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .frame import json_option, open_database, overwrite_option, print_json, store_argument

if TYPE_CHECKING:
    from ..query.export.export import Exported


FORMATS = ("messages", "prompt-completion", "alpaca", "sharegpt")


def told(exported: Exported) -> list[str]:
    """What was written and what the format says otherwise, a sentence each."""
    sentences = [f"{exported.out}: {exported.rows:,} rows"]
    sentences += [f"  left out, {why}: {rows:,}" for why, rows in exported.left_out.items()]
    sentences += [f"  {what}: {rows:,} rows" for what, rows in exported.remarks.items()]
    return sentences + [f"  beside it: {file}" for file in exported.files[1:]]


@click.command(short_help="Write a coreset for a trainer.")
@store_argument
@click.argument("coreset")
@click.option("--out", required=True, metavar="FILE", help="Where to write (.jsonl or .parquet).")
@click.option(
    "--format",
    "format_",
    default="messages",
    show_default=True,
    type=click.Choice(FORMATS),
)
@click.option("--no-shuffle", is_flag=True, help="Rows by rank instead of shuffled.")
@click.option("--seed", type=int, help="Of the shuffling; the coreset's otherwise.")
@click.option("--skip-unfit", is_flag=True, help="Leave out rows that the format cannot hold.")
@overwrite_option
@json_option
def export_command(
    store: str,
    coreset: str,
    out: str,
    format_: str,
    no_shuffle: bool,
    seed: int | None,
    skip_unfit: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write CORESET to a file, with a manifest and trainer snippets beside it.

    An earlier export of that name is replaced; any other file only by --overwrite.

    \b
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.jsonl
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.parquet --format alpaca
    """
    exported = open_database(store).export(
        coreset,
        out,
        format=format_,
        shuffle=not no_shuffle,
        seed=seed,
        skip_unfit=skip_unfit,
        overwrite=overwrite,
    )
    if as_json:
        print_json(asdict(exported))
    else:
        click.echo("\n".join(told(exported)))
