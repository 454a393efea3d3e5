"""`coresetdb target`: add, list and remove target tasks."""

from __future__ import annotations

import click

from .frame import (
    json_option,
    open_database,
    parse_mapping,
    print_json,
    reading_options,
    store_argument,
    table,
    talk,
)


@click.group(short_help="Add, list and remove target tasks.")
def command() -> None:
    """Targets: a handful of examples that say what a coreset should be good for."""


@command.command("add", short_help="Featurize a target's examples.")
@store_argument
@click.argument("name")
@click.argument("file")
@reading_options
@json_option
def add(
    store: str,
    name: str,
    file: str,
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    as_json: bool,
) -> None:
    """Featurize the examples in FILE and keep them as target NAME.

    This is the last time a model runs for this target: every query after it reads the store.

    \b
        coresetdb target add pool gsm8k examples.jsonl
    """
    added = open_database(store).add_target(
        name,
        file,
        format=format_,
        mapping=parse_mapping(mapping),
        encoding=encoding,
        explanation=explanation,
        unescape=unescape,
    )
    if as_json:
        print_json(added.as_dict())
        return
    for sentence in added.sentences():
        click.echo(sentence)
    talk(f"Next: coresetdb select {store} {name} --budget 1000")


@command.command("list", short_help="List the targets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the targets with their sizes.

    \b
        coresetdb target list pool
    """
    targets = [target.as_dict() for target in open_database(store).targets()]
    if as_json:
        print_json(targets)
    elif targets:
        click.echo(table(targets))
    else:
        talk(f"No targets yet. Next: coresetdb target add {store} NAME FILE")


@command.command("remove", short_help="Remove a target.")
@store_argument
@click.argument("name")
def remove(store: str, name: str) -> None:
    """Remove target NAME; coresets chosen for it stay.

    \b
        coresetdb target remove pool gsm8k
    """
    n = open_database(store).remove_target(name)
    talk(f"{name}: removed, with its {n} examples.")
