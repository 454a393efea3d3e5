"""Commands that look into coresets: explain a row, compare two coresets."""

from __future__ import annotations

import click

from .options import json_option, open_database, print_json, store_argument, talk


@click.command(short_help="Hold two coresets against each other.")
@store_argument
@click.argument("first")
@click.argument("second")
@json_option
def compare_command(store: str, first: str, second: str, as_json: bool) -> None:
    """Hold coresets FIRST and SECOND against each other.

    Rows in both, whether they agree on the order of those, corpora and lengths side by side, and
    how far each is from the targets.

    \b
        coresetdb compare pool gsm8k-rds-round_robin-1 gsm8k-trim-top-1
    """
    from ..query.compare import comparison_lines

    found = open_database(store).compare(first, second)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo("\n".join(comparison_lines(found)))
    for note in found.notes:
        talk(note)


@click.command(short_help="Say why a row stands in a coreset.")
@store_argument
@click.argument("coreset")
@click.argument("row")
@click.option(
    "--without",
    is_flag=True,
    help="Also select again from the pool less this row, and say what takes its place.",
)
@click.option(
    "--memory", default="4GiB", show_default=True, help="What that selection may plan for."
)
@json_option
def explain_command(
    store: str, coreset: str, row: str, without: bool, memory: str, as_json: bool
) -> None:
    """Say why ROW (a rank, an id or its beginning) stands in CORESET; no model runs.

    Which example of the target pulled it, what came close, and what the method saw in it: TRIM's
    tokens, NAIT's layers, the neurons of MADS.

    \b
        coresetdb explain pool gsm8k-rds-round_robin-1 17
        coresetdb explain pool gsm8k-trim-top-1 3f2a8c --json
    """
    from ..query.explaining.explanation_text import console, parts

    found = open_database(store).explain(coreset, row, without=without, memory_limit=memory)
    if as_json:
        print_json(found.as_dict())
        return
    screen = console()
    for part in parts(found):
        screen.print(part)
