"""`coresetdb index`: prepare a feature for approximate selections."""

from __future__ import annotations

from shlex import quote

import click

from .frame import json_option, open_database, print_json, store_argument, table, talk

_SAID = {
    "built": "is indexed",
    "extended": "has an index, which took in the rows that came since",
    "unchanged": "has an index of all rows already",
}


@click.command(short_help="Index a feature's vectors.")
@store_argument
@click.argument("feature", required=False)
@click.option("--list", "list_", is_flag=True, help="List the indices instead.")
@click.option("--drop", is_flag=True, help="Remove the feature's index instead.")
@json_option
def index_command(store: str, feature: str | None, list_: bool, drop: bool, as_json: bool) -> None:
    """Index the vectors of FEATURE for `select --approximate`, or take in rows that came since.

    Selections compare every row without it; an index pays where few rows are wanted of a large
    pool (docs/indexing.md).

    \b
        coresetdb index pool rds
        coresetdb index pool --list
        coresetdb index pool rds --drop
    """
    from ..store.indices import described

    if list_ == bool(feature) or (drop and not feature):
        raise click.UsageError("name a feature, or ask for --list")
    database = open_database(store)
    if list_:
        found = [described(index) for index in database.indices()]
        if not found and not as_json:
            talk(f"No indices. Next: coresetdb index {quote(store)} FEATURE")
    elif drop:
        assert feature is not None
        found = [described(database.drop_index(feature))]
        talk(f"{feature}: its index is dropped.")
    else:
        assert feature is not None
        indexed = database.index(feature)
        found = [described(indexed.index)]
        talk(f"{feature} {_SAID[indexed.done]}.")
        again = f"{quote(store)} TARGET --method {feature} --approximate --budget 100"
        talk(f"Next: coresetdb select {again}")
    if as_json:
        print_json(found)
    elif found and not drop:
        click.echo(table(found))
