"""`coresetdb coreset`: list, show, replay and remove coresets."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from .frame import json_option, open_database, print_json, store_argument, table, talk

if TYPE_CHECKING:
    from ..query.coresets import Coreset


def facts(coreset: Coreset) -> dict[str, Any]:
    """A coreset as JSON values: how it was made, where its rows come from, and their ids."""
    mix = [asdict(share) for share in coreset.mix]
    return {
        **coreset.row(),
        "parameters": coreset.parameters,
        "created_at": coreset.created_at.isoformat(),
        "mmd": coreset.mmd,
        "mix": mix,
        "notes": list(coreset.notes),
        "ids": coreset.ids,
    }


@click.group(short_help="List, show, replay and remove coresets.")
def coreset_command() -> None:
    """Coresets: selections that were made, with everything needed to repeat them."""


@coreset_command.command("list", short_help="List the coresets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the coresets, the newest last.

    \b
        coresetdb coreset list pool
    """
    coresets = open_database(store).coreset_list()
    if as_json:
        print_json(coresets)
    elif coresets:
        shown = ({**row, "targets": ", ".join(row["targets"])} for row in coresets)
        click.echo(table([{**row, "created": row["created"][:16]} for row in shown]))
    else:
        talk(f"No coresets yet. Next: coresetdb select {quote(store)} TARGET")


@coreset_command.command("show", short_help="Show a coreset's facts and where its rows come from.")
@store_argument
@click.argument("name")
@json_option
def show(store: str, name: str, as_json: bool) -> None:
    """Show how coreset NAME was made and where its rows come from.

    \b
        coresetdb coreset show pool gsm8k-rds-round_robin-1
    """
    coreset = open_database(store).coreset(name)
    if as_json:
        print_json(facts(coreset))
    else:
        from .coreset_view import lines

        click.echo("\n".join(lines(coreset)))
        talk(
            f"Next: coresetdb explain {quote(store)} {name} 1, or "
            f"coresetdb coreset replay {quote(store)} {name}"
        )


@coreset_command.command("replay", short_help="Prove that a coreset comes out again.")
@store_argument
@click.argument("name")
@click.option(
    "--memory", default="4GiB", show_default=True, help="What the selection may plan for."
)
def replay(store: str, name: str, memory: str) -> int:
    """Select again as coreset NAME was selected and compare the ids, one by one.

    \b
        coresetdb coreset replay pool gsm8k-rds-round_robin-1
    """
    replayed = open_database(store).replay(name, memory_limit=memory)
    for note in replayed.notes:
        talk(note)
    if replayed.same:
        click.echo(f"{name}: the same {len(replayed.ids):,} ids come out, in the same order.")
        return 0
    click.echo(f"{name}: other ids come out, from rank {replayed.first_difference} on.")
    return 1


@coreset_command.command("remove", short_help="Remove a coreset.")
@store_argument
@click.argument("name")
def remove(store: str, name: str) -> None:
    """Remove coreset NAME; the pool keeps its rows.

    \b
        coresetdb coreset remove pool gsm8k-rds-round_robin-1
    """
    open_database(store).remove_coreset(name)
    talk(f"{name}: removed.")
