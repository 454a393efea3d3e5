"""`coresetdb target`: add, list and remove target tasks."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from .options import (
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
    from ..query.targets import AddedTarget, Target


def told(added: AddedTarget) -> list[str]:
    """What became of a target's examples, a sentence each."""
    target = added.target
    sentences = [*added.decisions]
    sentences.append(
        f"{target.name}: read {added.read:,}: {target.examples:,} examples "
        f"({target.tokens:,} tokens), {added.duplicates:,} duplicate, "
        f"{len(added.rejected):,} rejected"
    )
    sentences += [f"  {each.file}:{each.line}: {each.reason}" for each in added.rejected]
    sentences += [f"  without {name}: {n:,}" for name, n in target.missing.items() if n]
    return sentences + [f"  {note}" for note in added.notes]


def _row(target: Target) -> dict[str, Any]:
    return {
        "target": target.name,
        "examples": target.examples,
        "tokens": target.tokens,
        "coresets": len(target.coresets),
        "files": ", ".join(target.files),
    }


@click.group(short_help="Add, list and remove target tasks.")
def target_command() -> None:
    """Targets: a handful of examples that say what a coreset should be good for."""


@target_command.command("add", short_help="Featurize a target's examples.")
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
        **read_options(format_, mapping, encoding, explanation, unescape),
    )
    if as_json:
        print_json(asdict(added))
        return
    click.echo("\n".join(told(added)))
    talk(f"Next: coresetdb select {quote(store)} {name} --budget 1000")


@target_command.command("list", short_help="List the targets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the targets with their sizes.

    \b
        coresetdb target list pool
    """
    targets = open_database(store).targets()
    if as_json:
        print_json([asdict(target) for target in targets])
    elif targets:
        click.echo(table([_row(target) for target in targets]))
    else:
        talk(f"No targets yet. Next: coresetdb target add {quote(store)} NAME FILE")


@target_command.command("copy", short_help="Copy a target to another store.")
@store_argument
@click.argument("name")
@click.argument("other", metavar="OTHER-STORE")
@click.option("--as", "new_name", metavar="NAME", help="Name of the copy; the same otherwise.")
@json_option
def copy(store: str, name: str, other: str, new_name: str | None, as_json: bool) -> None:
    """Copy target NAME with its features to OTHER-STORE; no model runs.

    What comes along are the features that both stores make by the same recipe.

    \b
        coresetdb target copy pool gsm8k other-pool
        coresetdb target copy pool gsm8k other-pool --as sums
    """
    copied = open_database(store).copy_target(name, open_database(other), new_name)
    if as_json:
        print_json(asdict(copied))
        return
    target = copied.target
    click.echo(
        f"{target.name}: {target.examples:,} examples in {other}, with "
        f"{', '.join(copied.features) or 'no feature'}"
    )
    for sentence in copied.left_out:
        click.echo(f"  {sentence}")
    talk(f"Next: coresetdb select {quote(other)} {target.name} --budget 1000")


@target_command.command("remove", short_help="Remove a target.")
@store_argument
@click.argument("name")
def remove(store: str, name: str) -> None:
    """Remove target NAME; coresets chosen for it stay.

    \b
        coresetdb target remove pool gsm8k
    """
    gone = open_database(store).remove_target(name)
    talk(f"{name}: removed, with its {gone.examples} examples.")
    if gone.coresets:
        talk(f"Coresets chosen for it stay: {', '.join(gone.coresets)}")
