"""`coresetdb status`: what a store holds and what it lacks.

`coresetdb compact`: merge small fragments and drop what no version needs.

`coresetdb completion`: the script that teaches a shell to complete our commands.

`coresetdb index`: prepare a feature for approximate selections.

`coresetdb verify`: hold a store's files against what was written, and repair them.
"""

from __future__ import annotations

from shlex import quote

import click
from click.shell_completion import get_completion_class

from .options import json_option, open_database, print_json, store_argument, table, talk


@click.command(short_help="Merge small fragments, drop old versions.")
@store_argument
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Versions younger than this stay, for readers that have them open.",
)
def compact_command(store: str, keep_hours: float) -> None:
    """Merge the small fragments that many short ingestions left, and drop old versions.

    Versions that coresets were chosen from always stay. Nobody may be writing meanwhile.

    \b
        coresetdb compact pool
    """
    done = open_database(store).compact(keep_hours)
    talk(
        f"{store}: {done.merged:,} fragments merged away, {done.versions:,} old versions and "
        f"{done.files:,} files dropped ({done.bytes / 1e6:,.1f} MB)."
    )


@click.command(short_help="Print a shell's completion script.")
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
    click.echo(script(commands, {}, "coresetdb", "_CORESETDB_COMPLETE").source())


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


@click.command(short_help="Check a store's files, and repair them.")
@store_argument
@click.option("--full", is_flag=True, help="Hash every file instead of comparing sizes.")
@click.option("--repair", is_flag=True, help="Bring back what can be brought back.")
@json_option
def verify_command(store: str, full: bool, repair: bool, as_json: bool) -> int:
    """Check that the files of STORE are what was written; exit 1 if any is not, or rows are lost.

    Plain: sizes and manifests. --full: a hash of every file, and whether every row that was seen
    is in the pool. --repair (implies --full): a torn manifest falls back one version, damaged rows
    are read from their source and featurized again.

    \b
        coresetdb verify pool --full
        coresetdb verify pool --repair
    """
    from ..database import repair_store, verify_store

    report = repair_store(store, say=talk) if repair else verify_store(store, full=full)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo("\n".join(report.lines()))
    return 0 if report.ok else 1
