"""`coresetdb explore`: the pool as a page in the browser."""

from __future__ import annotations

import click

from ..schemas.progress import Silence
from .options import open_database, store_argument, talk


@click.command()
@store_argument
@click.option("--feature", metavar="NAME", help="Draw the map by this feature; rds by default.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the page; a free one by default.",
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--notebook",
    metavar="FILE.py",
    help="Show this copy of the page's notebook; it is written where there is none.",
)
@click.option("--edit", is_flag=True, help="Edit that copy in marimo.")
def explore_command(
    store: str, feature: str | None, port: int, no_browser: bool, notebook: str | None, edit: bool
) -> None:
    """Look at a pool in the browser: a map of its rows, filters, distributions, SQL.

    Draw a lasso around points and narrow them by filters: the page shows the condition for
    --where, lists the rows, says why a row was chosen, and makes a coreset of them. The page is at
    an address of this machine alone; Ctrl-C ends it. No model runs. The map is made once, and kept
    in the store. Needs: pip install 'coresetdb[explore]'

    \b
        coresetdb explore pool
        coresetdb explore pool --feature less --no-browser --port 8000
        coresetdb explore pool --notebook mine.py --edit
    """

    class Talk(Silence):
        def say(self, sentence: str) -> None:
            talk(sentence)

    open_database(store).explore(
        feature=feature,
        port=port,
        browser=not no_browser,
        notebook=notebook,
        edit=edit,
        progress=Talk(),
    )
