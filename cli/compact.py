"""`coresetdb compact`: merge small fragments and drop what no version needs."""

from __future__ import annotations

import click

from .frame import open_database, store_argument, talk

HOUR = 3600.0


@click.command(short_help="Merge small fragments, drop old versions.")
@store_argument
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Versions younger than this stay, for readers that have them open.",
)
def command(store: str, keep_hours: float) -> None:
    """Merge the small fragments that many short ingestions left, and drop old versions.

    Versions that coresets were chosen from always stay. Nobody may be writing meanwhile.

    \b
        coresetdb compact pool
    """
    database = open_database(store)
    merged = database.store.compact()
    cleaned = database.store.clean(older_than_seconds=keep_hours * HOUR)
    talk(
        f"{store}: {merged:,} fragments merged away, {cleaned.versions:,} old versions and "
        f"{cleaned.files:,} files dropped ({cleaned.bytes / 1e6:,.1f} MB)."
    )
