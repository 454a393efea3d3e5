"""Commands that take rows out of a pool, and name its corpora: remove, restore, purge, corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable
from shlex import quote
from typing import Any

import click

from ..schemas.plain_text import count_of, text_table
from .options import (
    ShownProgress,
    all_of,
    json_option,
    open_database,
    print_json,
    print_text,
    store_argument,
    talk,
)

_rows_options = all_of(
    click.option("--where", metavar="SQL", help="The rows that meet this SQL condition."),
    click.option("--corpus", metavar="NAME", help="The rows of this corpus."),
    click.option(
        "--ids",
        metavar="FILE",
        help="The rows with these ids: one a line, or a column id of JSON Lines, CSV or Parquet.",
    ),
)
_dry_run = click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask before rows are purged.")


@click.command()
@store_argument
@_rows_options
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with what is removed.")
@click.option("--purge", is_flag=True, help="Forget the rows for good: nothing restores them.")
@_dry_run
@_yes
@click.option("--list", "listed", is_flag=True, help="List what was removed so far.")
@json_option
def remove_command(
    store: str,
    where: str | None,
    corpus: str | None,
    ids: str | None,
    why: str,
    purge: bool,
    dry_run: bool,
    yes: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Take rows out of the pool of STORE; `coresetdb restore` puts them back.

    No query sees them any more, and an ingestion that meets their content skips it. Coresets that
    have some of them say so, and exports leave them out. --purge forgets them for good: every file
    that holds their text or their features is written again without them.

    \b
        coresetdb remove pool --corpus gsm8k_test --why "a benchmark"
        coresetdb remove pool --where "tokens < 10"
        coresetdb remove pool --ids asked_to_forget.txt --purge
        coresetdb remove pool --list
    """
    database = open_database(store)
    if listed:
        if where or corpus or ids or purge:
            raise click.UsageError("--list shows what was removed; give it alone")
        _show_removed(database.list_removed(), store, as_json)
        return
    if purge and not (dry_run or yes or as_json):
        _ask(lambda: database.remove(where=where, corpus=corpus, ids=ids, purge=True, dry_run=True))
    done = database.remove(
        where=where,
        corpus=corpus,
        ids=ids,
        why=why,
        purge=purge,
        dry_run=dry_run,
        progress=ShownProgress(),
    )
    _show(done, as_json)
    if not (purge or dry_run or as_json):
        conditions = {"--where": where, "--corpus": corpus, "--ids": ids}
        named = next(f"{option} {quote(value)}" for option, value in conditions.items() if value)
        talk(f"To undo: coresetdb restore {quote(store)} {named}")


@click.command()
@store_argument
@_rows_options
@_dry_run
@json_option
def restore_command(
    store: str, where: str | None, corpus: str | None, ids: str | None, dry_run: bool, as_json: bool
) -> None:
    """Put removed rows back into the pool of STORE, features and all.

    --where can use the columns of the pool, and why, state and removed_at. Rows that were purged do
    not come back, but can be ingested again from then on.

    \b
        coresetdb restore pool --corpus gsm8k_test
        coresetdb restore pool --where "why = 'too short'"
    """
    database = open_database(store)
    done = database.restore(
        where=where, corpus=corpus, ids=ids, dry_run=dry_run, progress=ShownProgress()
    )
    _show(done, as_json)


@click.command()
@store_argument
@_rows_options
@_dry_run
@_yes
@json_option
def purge_command(
    store: str,
    where: str | None,
    corpus: str | None,
    ids: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Forget removed rows of STORE for good; all of them, unless some are named.

    Every file with their text or features is rewritten without them, also in versions that coresets
    keep. Their ids (hashes of the content) stay, with corpus, reason and time, so that ingestion
    keeps skipping the content.

    \b
        coresetdb purge pool
        coresetdb purge pool --corpus gsm8k_test --yes
    """
    database = open_database(store)
    if not (dry_run or yes or as_json):
        _ask(lambda: database.purge(where=where, corpus=corpus, ids=ids, dry_run=True))
    done = database.purge(
        where=where, corpus=corpus, ids=ids, dry_run=dry_run, progress=ShownProgress()
    )
    _show(done, as_json)


def _ask(plan: Callable[[], Any]) -> None:
    """Show what would be purged and ask, where there is a person to answer."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        talk("\n".join(plan().lines()))
        click.confirm("Forget these rows for good?", abort=True, err=True)


def _show(done: Any, as_json: bool) -> None:
    if as_json:
        print_json(done.as_dict())
    else:
        print_text("\n".join(done.lines()))


def _show_removed(rows: list[dict[str, Any]], store: str, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        print_text(text_table(rows))
    else:
        talk(f"Nothing was removed. To remove rows: coresetdb remove {quote(store)} --where SQL")


@click.group()
def corpus_command() -> None:
    """List and rename the corpora of a store."""


@corpus_command.command("list", short_help="List the corpora.")
@store_argument
@json_option
def list_corpora(store: str, as_json: bool) -> None:
    """List the corpora: rows, tokens, files, rows removed, records rejected.

    \b
        coresetdb corpus list pool
    """
    rows = open_database(store).list_corpora()
    if as_json:
        print_json(rows)
    elif rows:
        print_text(text_table(rows))
    else:
        talk(f"The pool is empty. Next: coresetdb ingest {quote(store)} FILE...")


@corpus_command.command("rename", short_help="Rename a corpus.")
@store_argument
@click.argument("old")
@click.argument("new")
@click.option("--merge", is_flag=True, help="NEW may be a corpus that there is already.")
def rename_corpus(store: str, old: str, new: str, merge: bool) -> None:
    """Rename corpus OLD to NEW, in the pool and wherever else it is named.

    Coresets keep the name that it had when they were chosen.

    \b
        coresetdb corpus rename pool train-00000-of-00002 openorca
        coresetdb corpus rename pool train-00001-of-00002 openorca --merge
    """
    rows = open_database(store).rename_corpus(old, new, merge=merge)
    talk(f"{old}: renamed to {new} ({count_of(rows, 'row')}).")
