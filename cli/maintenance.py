"""Commands that look after a store: status, verify, compact, index, and a shell's completion."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click
from click.shell_completion import get_completion_class

from ..schemas.plain_text import text_table
from .options import (
    given,
    json_option,
    open_database,
    print_data,
    print_json,
    print_result,
    print_text,
    store_argument,
    talk,
    worker_options,
)


@click.command()
@store_argument
@click.option(
    "--verbose", is_flag=True, help="Show types, fingerprints, fits, and every coreset as well."
)
@json_option
def status_command(store: str, verbose: bool, as_json: bool) -> None:
    """Describe what STORE holds: rows per corpus, targets, coresets, features, unfinished runs.

    \b
        coresetdb status pool
        coresetdb status pool --verbose
    """
    status = open_database(store).status()
    if as_json:
        print_json(status.as_dict())
        return
    print_text(status.summary(verbose))
    for sentence in status.advice():
        talk(sentence)


@click.command()
@store_argument
@click.option("--full", is_flag=True, help="Hash every file instead of comparing sizes.")
@click.option("--repair", is_flag=True, help="Bring back what can be brought back.")
@click.option(
    "--accept",
    is_flag=True,
    help="Accept losses that no repair can undo, so that checks stop naming them.",
)
@worker_options
@json_option
def verify_command(
    store: str, full: bool, repair: bool, accept: bool, workers: dict[str, Any], as_json: bool
) -> int:
    """Check that the files of STORE are what was written; exit 1 if any is not, or rows are lost.

    By default: sizes and manifests. --full: a hash of every file, and whether every row that was
    ingested is in the pool. --repair (implies --full): a torn manifest falls back one version,
    damaged rows are read from their source and featurized again, by workers if there are any. What
    a repair could not bring back is named by every later check until it is there or accepted. Rows
    of the pool that are accepted as lost count as removed and purged: ingesting leaves them out.

    \b
        coresetdb verify pool --full
        coresetdb verify pool --repair
        coresetdb verify pool --accept
    """
    from .. import database

    if repair and accept:
        raise click.UsageError("run --repair first, then --accept")
    if repair:
        report = database.repair(store, say=talk, **workers)
    elif given(workers):
        raise click.UsageError("workers featurize rows again: add --repair, or leave them out")
    else:
        report = database.verify(store, full=full, accept=accept)
    print_result(report, as_json)
    return 0 if report.ok else 1


@click.command()
@store_argument
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Keep versions younger than this, for readers that have them open.",
)
def compact_command(store: str, keep_hours: float) -> None:
    """Merge the small fragments that many short ingestions left, and delete old versions.

    Versions that coresets were chosen from always stay. No other process may be writing.

    \b
        coresetdb compact pool
    """
    done = open_database(store).compact(keep_hours)
    talk(f"{store}: {done}.")


@click.group()
def index_command() -> None:
    """Vector indices for `select --approximate`; without one, every row is compared.

    An index pays off where few rows of a large pool are selected (docs/indexing.md).
    """


@index_command.command("create", short_help="Index a feature, or bring its index up to date.")
@store_argument
@click.argument("feature")
@json_option
def create_index(store: str, feature: str, as_json: bool) -> None:
    """Index the vectors of FEATURE, or take the rows that were added since into its index.

    \b
        coresetdb index create pool rds
    """
    from ..store.indices import described

    indexed = open_database(store).create_index(feature)
    rows = [described(indexed.index)]
    if as_json:
        print_json(rows)
        return
    done = {
        "built": "indexed",
        "extended": "added new rows to its index",
        "unchanged": "its index has all rows already",
    }
    print_text(text_table(rows))
    talk(f"{feature}: {done[indexed.done]}.")
    again = f"{quote(store)} TARGET --method {feature} --approximate --budget 100"
    talk(f"Next: coresetdb select {again}")


@index_command.command("list", short_help="List the indices.")
@store_argument
@json_option
def list_indices(store: str, as_json: bool) -> None:
    """List the indices: feature, kind, partitions, rows inside and outside.

    \b
        coresetdb index list pool
    """
    from ..store.indices import described

    rows = [described(index) for index in open_database(store).list_indices()]
    if as_json:
        print_json(rows)
    elif rows:
        print_text(text_table(rows))
    else:
        talk(f"No indices yet. Next: coresetdb index create {quote(store)} FEATURE")


@index_command.command("remove", short_help="Remove an index.")
@store_argument
@click.argument("feature")
def remove_index(store: str, feature: str) -> None:
    """Remove the index of FEATURE; its vectors stay.

    \b
        coresetdb index remove pool rds
    """
    open_database(store).remove_index(feature)
    talk(f"{feature}: removed its index.")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
        eval "$(coresetdb completion bash)"
        coresetdb completion fish > ~/.config/fish/completions/coresetdb.fish
    """
    from .main import commands

    script = get_completion_class(shell)
    assert script is not None, shell
    print_data(script(commands, {}, "coresetdb", "_CORESETDB_COMPLETE").source())
