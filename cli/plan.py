"""`coresetdb plan`: what an ingestion will cost, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from ..ingest.planning.planned import Plan


@click.command(short_help="Tell what an ingestion will cost.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--features", metavar="NAME,...", help="Plan for these, not for the store's own.")
@reading_options
@json_option
def plan_command(
    store: str,
    sources: tuple[str, ...],
    features: str | None,
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    as_json: bool,
) -> None:
    """Tell what ingesting SOURCE into STORE would cost: bytes, passes, fits and time.

    Rows are counted, or told from a part of large files; time and what differs from row to row are
    measured on a few dozen rows. Nothing is changed.

    \b
        coresetdb plan pool data/*.jsonl.gz
        coresetdb plan pool data/*.jsonl.gz --features fast,embed
    """
    from .progress import ShownProgress

    with ShownProgress() as progress:
        plan = open_database(store).plan(
            list(sources),
            features=features,
            **read_options(format_, mapping, encoding, explanation, unescape),
            progress=progress,
        )
    if as_json:
        print_json(plan.as_dict())
        return
    click.echo("\n".join(_told(plan)))
    for note in plan.notes:
        talk(note)


def _told(plan: Plan) -> list[str]:
    counted = "counted" if plan.exact else f"told from the first {plan.read:,} and the bytes"
    told = [
        f"{plan.records:,} records ({counted}), {plan.rows:,} new to the pool, "
        f"{plan.tokens_per_row:,.0f} tokens a row",
        "",
        table(
            [
                {
                    "column": each.column,
                    "of": each.feature,
                    "type": each.type,
                    "bytes a row": max(1, round(each.bytes_per_row)),
                    "known from": "the trial" if each.measured else "its type",
                }
                for each in plan.columns
            ]
        ),
    ]
    if plan.fits:
        fits = [
            {
                "learned first": each.fit,
                "from rows": each.rows,
                "MB": each.bytes / 1e6,
                "time": spell(each.seconds),
            }
            for each in plan.fits
        ]
        told += ["", table(fits)]
    passes = [
        {
            "pass": each.what,
            "shared by": ", ".join(each.features),
            "s per 1,000 rows": each.seconds_per_1000_rows,
            "time": spell(each.seconds),
        }
        for each in plan.passes
    ]
    told += [
        "",
        table(passes),
        "",
        f"{plan.bytes_per_row:,.0f} bytes a row, {plan.gigabytes:,.2f} GB; about "
        f"{spell(plan.seconds)} on this machine ({plan.trial_rows} rows tried)",
    ]
    return told


def spell(seconds: float) -> str:
    """A span of time in the unit a person would use."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"
