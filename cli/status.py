"""`coresetdb status`: what a store holds and what it lacks."""

from __future__ import annotations

import click

from .frame import json_option, open_database, print_json, store_argument, table, talk


@click.command(short_help="Tell what a store holds.")
@store_argument
@json_option
def status_command(store: str, as_json: bool) -> None:
    """Tell what STORE holds: rows per corpus, features, targets, coresets, unfinished runs.

    \b
        coresetdb status pool
    """
    status = open_database(store).status()
    if as_json:
        print_json(status.as_dict())
        return
    click.echo(status.headline())
    for title, rows in status.sections():
        if rows:
            click.echo(f"\n{title}")
            click.echo(table(rows))
    for sentence in status.advice():
        talk(sentence)
