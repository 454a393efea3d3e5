"""`coresetdb methods`: every way of choosing, by the name that `select --method` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .frame import json_option, open_database, print_json, table, talk

if TYPE_CHECKING:
    from ..query.method_list import ListedMethod


@click.command(short_help="List the methods, and what each needs.")
@click.argument("store", metavar="[STORE]", required=False)
@json_option
def methods_command(store: str | None, as_json: bool) -> None:
    """List every method, what it needs and its paper; with STORE also whether it can answer now.

    Methods that have a name of their own come first, then pairs of a representation and a selector.
    Where something is missing, the last column has the command that helps.

    \b
        coresetdb methods
        coresetdb methods pool
    """
    from ..query.method_list import list_methods

    found = open_database(store).methods() if store else list_methods()
    if as_json:
        print_json([each.as_dict() for each in found])
        return
    click.echo(table([_shown(each) for each in found if each.named]))
    click.echo("")
    click.echo(table([_shown(each) for each in found if not each.named]))
    talk("Options stand in parentheses, as in rds:top(by=max): docs/selectors.md has them.")


def _shown(method: ListedMethod) -> dict[str, Any]:
    needs = [method.feature or "", "a target" if method.target else ""]
    shown: dict[str, Any] = {
        "method": f"{method.method}, {method.also}" if method.also else method.method,
        "needs": " and ".join(filter(None, needs)) or "nothing",
        "paper": method.paper,
    }
    if method.ready is not None:
        return {**shown, "ready": method.ready, "helps": method.helps}
    return {**shown, "in full": method.full} if method.named else shown
