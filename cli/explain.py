"""Commands that look into coresets: explain a row, compare two coresets."""

from __future__ import annotations

import click

from .options import (
    json_option,
    memory_option,
    open_database,
    print_json,
    print_text,
    store_argument,
    talk,
)


@click.command()
@store_argument
@click.argument("coreset")
@click.argument("row")
@click.option(
    "--without",
    is_flag=True,
    help="Select again without this row as well, and show what takes its place.",
)
@memory_option("the new selection")
@json_option
def explain_command(
    store: str, coreset: str, row: str, without: bool, memory: str, as_json: bool
) -> None:
    """Explain why ROW (a rank, an id or its beginning) is in CORESET; no model runs.

    Shows which example of the target pulled it, what came close, and what the method saw in it:
    the tokens of TRIM, the layers of NAIT, the neurons of MADS.

    \b
        coresetdb explain pool gsm8k-rds-round_robin-1 17
        coresetdb explain pool gsm8k-trim-top-1 3f2a8c --json
    """
    from ..query.explaining.explanation import console, parts

    explanation = open_database(store).explain(coreset, row, without=without, memory_limit=memory)
    if as_json:
        print_json(explanation.as_dict())
        return
    screen = console()
    for part in parts(explanation):
        screen.print(part)  # control characters are shown already


@click.command()
@store_argument
@click.argument("first")
@click.argument("second")
@json_option
def compare_command(store: str, first: str, second: str, as_json: bool) -> None:
    """Compare coresets FIRST and SECOND.

    Shows the rows in both and how well their orders agree, corpora and lengths side by side, and
    the distance of each coreset to the targets.

    \b
        coresetdb compare pool gsm8k-rds-round_robin-1 gsm8k-trim-top-1
    """
    from ..query.compare import comparison_lines

    comparison = open_database(store).compare(first, second)
    if as_json:
        print_json(comparison.as_dict())
        return
    print_text("\n".join(comparison_lines(comparison)))
    for note in comparison.notes:
        talk(note)
