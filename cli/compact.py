"""`coresetdb compact`: merge small fragments and drop what no version needs."""

from __future__ import annotations

import click

from .frame import open_database, store_argument, talk


@click.command(short_help="Merge small fragments, drop old versions.")
@store_argument
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Versions younger than this stay, for readers that have them open.",
)
def compact_command(store: str, keep_hours: float) -> None:
    """Merge the small fragments that many short ingestions left, and drop old versions.

    Versions that coresets were chosen from always stay. Nobody may be writing meanwhile.

    \b
        coresetdb compact pool
    """
    done = open_database(store).compact(keep_hours)
    talk(
        f"{store}: {done.merged:,} fragments merged away, {done.versions:,} old versions and "
        f"{done.files:,} files dropped ({done.bytes / 1e6:,.1f} MB)."
    )
