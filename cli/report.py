"""`coresetdb report`: a coreset, two of them, or a pool as one HTML page."""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import (
    ShownProgress,
    json_option,
    memory_option,
    open_database,
    overwrite_option,
    print_json,
    store_argument,
    talk,
)


@click.command()
@store_argument
@click.argument("coresets", nargs=-1, metavar="[CORESET] [CORESET]")
@click.option("--out", required=True, metavar="FILE.html", help="File to write.")
@memory_option("the selections that are repeated (random rows, near misses)")
@overwrite_option
@json_option
def report_command(
    store: str, coresets: tuple[str, ...], out: str, memory: str, overwrite: bool, as_json: bool
) -> None:
    """Write a report on CORESET, on two coresets side by side, or on the pool alone.

    One HTML file that requests nothing: what was asked and how to repeat it, where rows come from,
    how they differ from the pool, how well each example is covered, and why rows were chosen, all
    but chosen, or left out. No model runs. Needs: pip install 'coresetdb[report]'

    \b
        coresetdb report pool --out pool.html
        coresetdb report pool gsm8k-rds-round_robin-1 --out report.html
        coresetdb report pool gsm8k-rds-round_robin-1 gsm8k-trim-top-1 --out both.html
    """
    database = open_database(store)
    with ShownProgress() as progress:
        written = database.report(
            *coresets, out=out, memory_limit=memory, overwrite=overwrite, progress=progress
        )
    if as_json:
        print_json(asdict(written))
    else:
        for line in written.lines():
            talk(line)
