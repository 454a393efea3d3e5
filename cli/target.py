"""`coresetdb target`: add, list, copy and remove targets."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.plain_text import count_of, text_table
from .options import (
    json_option,
    open_database,
    print_json,
    print_result,
    print_text,
    reading_options,
    store_argument,
    talk,
)

if TYPE_CHECKING:
    from ..database import Database


@click.group()
def target_command() -> None:
    """Targets: a handful of examples that say what a coreset should be good for."""


@target_command.command("add", short_help="Add a target from its examples.")
@store_argument
@click.argument("name")
@click.argument("file")
@reading_options
@click.option(
    "--vectors",
    multiple=True,
    metavar="NAME=FILE",
    help="Vectors of the same records in the same order, made as NAME of the pool was.",
)
@json_option
def add(
    store: str,
    name: str,
    file: str,
    reading: dict[str, Any],
    vectors: tuple[str, ...],
    as_json: bool,
) -> None:
    """Featurize the examples in FILE and keep them as target NAME.

    This is the last time a model runs for this target: every query after it reads the store.

    \b
        coresetdb target add pool gsm8k examples.jsonl
        coresetdb target add pool gsm8k examples.jsonl --vectors minilm=examples.npy
    """
    given: dict[str, Any] = {}
    for text in vectors:
        of, equals, vector_file = text.partition("=")
        if not (of and equals and vector_file) or of in given:
            raise click.UsageError(f"--vectors {text}: write NAME=FILE, each NAME once")
        given[of] = vector_file
    database = open_database(store)
    added = database.add_target(name, file, **reading, vectors=given or None)
    print_result(added, as_json)
    if not as_json:
        talk(f"Next: coresetdb select {quote(store)} {name}{_method(database)} --budget 1000")


def _method(database: Database) -> str:
    """The option --method, if the store is not ready for the default one and is for another."""
    from ..store.features import features_of

    if "rds" in features_of(database.store):
        return ""
    named = (each for each in database.list_methods() if each.named and each.feature)
    ready = (each.method for each in named if each.ready and each.target)
    return next((f" --method {quote(method)}" for method in ready), "")


@target_command.command("list", short_help="List the targets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the targets with their sizes.

    \b
        coresetdb target list pool
    """
    targets = open_database(store).list_targets()
    rows = [
        {
            "target": target.name,
            "examples": target.examples,
            "tokens": target.tokens,
            "coresets": len(target.coresets),
            "files": ", ".join(target.files),
        }
        for target in targets
    ]
    if as_json:
        print_json([asdict(target) for target in targets])
    elif rows:
        print_text(text_table(rows))
    else:
        talk(f"No targets yet. Next: coresetdb target add {quote(store)} NAME FILE")


@target_command.command("copy", short_help="Copy a target to another store.")
@store_argument
@click.argument("name")
@click.argument("other", metavar="OTHER-STORE")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same by default.")
@json_option
def copy(store: str, name: str, other: str, new_name: str | None, as_json: bool) -> None:
    """Copy target NAME with its features to OTHER-STORE; no model runs.

    The features that both stores make by the same recipe are copied.

    \b
        coresetdb target copy pool gsm8k other-pool
        coresetdb target copy pool gsm8k other-pool --as sums
    """
    source, database = open_database(store), open_database(other)
    copied = source.copy_target(name, database, new_name)
    print_result(copied, as_json)
    if not as_json:
        selected = f"{quote(other)} {copied.target.name}{_method(database)}"
        talk(f"Next: coresetdb select {selected} --budget 1000")


@target_command.command("remove", short_help="Remove a target.")
@store_argument
@click.argument("name")
def remove(store: str, name: str) -> None:
    """Remove target NAME; coresets chosen for it stay.

    \b
        coresetdb target remove pool gsm8k
    """
    removed = open_database(store).remove_target(name)
    talk(f"{name}: removed, with {count_of(removed.examples, 'example')}.")
    if removed.coresets:
        talk(f"Coresets chosen for it stay: {', '.join(removed.coresets)}")
