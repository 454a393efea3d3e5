"""`coresetdb compare`: two coresets side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .frame import json_option, open_database, print_json, store_argument, table, talk

if TYPE_CHECKING:
    from ..query.compare import Lengths, SideBySide


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
    found = open_database(store).compare(first, second)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo("\n".join(_told(found)))
    for note in found.notes:
        talk(note)


def _told(found: SideBySide) -> list[str]:
    first, second = found.first, found.second
    order = "none" if found.spearman is None else f"{found.spearman:.3f}"
    lines = [
        table([_side(first), _side(second)]),
        "",
        f"{found.common:,} rows in both: {found.of_first:.1%} of {first.name}, "
        f"{found.of_second:.1%} of {second.name}; Jaccard {found.jaccard:.3f} "
        f"({found.by_chance:,.1f} rows by chance)",
        f"Rank correlation on them (Spearman): {order}",
    ]
    if found.prefixes:
        lines.append(
            "In both among the first rows of each: "
            + ", ".join(f"{each.common:,} of {each.ranks:,}" for each in found.prefixes)
        )
    lines += ["", "Corpora", table([_mix(found, each) for each in found.corpora])]
    lengths = [row for each in found.lengths for row in _lengths(found, each)]
    lines += ["", "Lengths in tokens", table(lengths)]
    if found.measured:
        rows = [
            {
                "target": each.target,
                "feature": each.feature,
                f"distance of {first.name}": each.first.nearest,
                f"of {second.name}": each.second.nearest,
                f"MMD of {first.name}": each.first.mmd,
                f"MMD of {second.name}": each.second.mmd,
            }
            for each in found.measured
        ]
        lines += ["", "Distances to the targets", table(rows)]
    return lines


def _side(side: Any) -> dict[str, Any]:
    return {
        "coreset": side.name,
        "rows": side.rows,
        "method": side.method,
        "targets": ", ".join(side.targets),
        "budget": side.budget,
        "filter": side.filter,
        "version": side.pool_version,
    }


def _mix(found: SideBySide, each: Any) -> dict[str, Any]:
    return {
        "corpus": each.corpus,
        found.first.name: each.first,
        "share": f"{each.first_share:.1%}",
        found.second.name: each.second,
        "share ": f"{each.second_share:.1%}",
        "pool": each.pool,
        "share  ": f"{each.pool_share:.1%}",
    }


def _lengths(found: SideBySide, each: Lengths) -> list[dict[str, Any]]:
    rows = ((found.first.name, each.first, None), (found.second.name, each.second, each.gap))
    return [
        {
            "": each.what,
            "coreset": name,
            **{key: f"{value:,.0f}" for key, value in numbers.items()},
            "gap": "" if gap is None else f"{gap:.3f}",
        }
        for name, numbers, gap in rows
    ]
