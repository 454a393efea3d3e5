"""Commands that choose rows and write them: methods, select, coreset, export."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.environment import STORE_VARIABLE
from ..schemas.errors import UsageError
from ..schemas.plain_text import text_table
from .coreset_output import coreset_json, coreset_lines, first_rows, origin_lines
from .options import (
    ShownProgress,
    all_of,
    evaluation_options,
    given,
    json_option,
    memory_option,
    open_database,
    overwrite_option,
    print_json,
    print_result,
    print_text,
    scan_worker_options,
    store_argument,
    talk,
    where_option,
)

if TYPE_CHECKING:
    from ..database import Database
    from ..query.coresets import Coreset

ROWS_SHOWN = 3

by_option = click.option(
    "--by",
    metavar="FIELD",
    help="Count where the rows come from by this column or metadata field.",
)


def show_option(default: int) -> Callable[..., Any]:
    """The option that lists the first rows of a coreset."""
    return click.option(
        "--show",
        "shown",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        metavar="N",
        help="List the first N rows: rank, score, corpus, prompt, and the answer where it fits.",
    )


FORMATS = ("messages", "prompt-completion", "alpaca", "sharegpt")
REASONING = ("stored", "reasoning_content", "thinking", "inline", "drop")


carried_options = all_of(
    click.option(
        "--reasoning",
        default="stored",
        show_default=True,
        type=click.Choice(REASONING),
        help="Where the reasoning of answers goes.",
    ),
    click.option(
        "--with",
        "with_fields",
        multiple=True,
        metavar="FIELD,...",
        help="Write these metadata fields or columns of the pool too; NAME=FIELD renames one.",
    ),
    click.option("--with-metadata", is_flag=True, help="Write source_id and all metadata too."),
)
"""The options of what a file holds beside the texts of the rows."""


@click.command()
@click.argument("store", metavar="[STORE]", required=False, envvar=STORE_VARIABLE)
@click.option(
    "--verbose", is_flag=True, help="Print tables: needs, papers, all pairs, what was measured."
)
@json_option
def methods_command(store: str | None, verbose: bool, as_json: bool) -> None:
    """Say of every method which rows it takes; with STORE also whether it is ready now.

    A line with an exclamation mark warns of a method that was found to find little, with features
    as STORE has them (without STORE: as the built-in proxy makes them).

    \b
        coresetdb methods
        coresetdb methods pool
        coresetdb methods pool --verbose
    """
    from ..query.method_list import list_methods

    methods = open_database(store).list_methods() if store else list_methods()
    if as_json:
        print_json([method.as_dict() for method in methods])
        return
    print_text(methods.details() if verbose else str(methods))
    talk("Options: as in rds:top(by=max). Which method when: docs/choosing.md")


@click.command()
@store_argument
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--method",
    default="rds:round_robin",
    show_default=True,
    metavar="METHOD",
    help="Such as trim, random or rds:top(by=max); `coresetdb methods` lists them.",
)
@click.option(
    "--budget",
    default="1000",
    show_default=True,
    metavar="N|P%|N-tokens|N-total-tokens",
    help="Rows, per cent of the eligible rows, tokens of answers (200k-tokens), or all tokens "
    "(50M-total-tokens).",
)
@click.option(
    "--weights",
    metavar="TARGET=WEIGHT,...",
    help="Share of the budget for each target (math=.6,code=.4); by default they take turns.",
)
@click.option(
    "--group",
    metavar="FIELD",
    help="Group the examples by this field; rows are ranked by mean similarity to a group.",
)
@where_option
@click.option(
    "--leakage",
    default="ranked",
    show_default=True,
    type=click.Choice(["ranked", "full", "off"]),
    help="Which rows are compared with the examples: those that come up, all, or none.",
)
@click.option("--allow-leakage", is_flag=True, help="The same as --leakage off.")
@click.option(
    "--eval",
    "evaluation",
    multiple=True,
    metavar="FILE",
    help="Keep out the examples of this benchmark as well; may be repeated.",
)
@evaluation_options
@click.option(
    "--exclude",
    multiple=True,
    metavar="CORESET",
    help="Leave out the rows of this coreset; may be repeated.",
)
@click.option(
    "--quota",
    multiple=True,
    metavar="CORPUS=N|P%",
    help="Take this many rows, or per cent of the budget, from a corpus; may be repeated.",
)
@click.option(
    "--cap",
    multiple=True,
    metavar="[CORPUS=]N|P%",
    help="Take at most this many from a corpus, or from every other one; may be repeated.",
)
@click.option(
    "--quota-by",
    default="corpus",
    metavar="COLUMN",
    help="Apply quotas and caps to the values of this column, such as lang, not to corpora.",
)
@click.option(
    "--distinct",
    type=float,
    metavar="COSINE",
    help="Leave out rows with this cosine (such as 0.95) or more to an earlier pick.",
)
@click.option(
    "--distinct-by",
    metavar="FEATURE",
    help="Feature that --distinct compares; the method's own by default.",
)
@click.option(
    "--approximate",
    is_flag=True,
    help="Search the feature's index instead of every row (docs/indexing.md).",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of methods that draw at random."
)
@click.option("--name", help="Name of the coreset; from targets and method by default.")
@memory_option("the selection")
@scan_worker_options
@show_option(ROWS_SHOWN)
@by_option
@click.option("--dry-run", is_flag=True, help="Choose and show, and save nothing.")
@click.option(
    "--out", metavar="FILE", help="Write the rows to this file as well (.jsonl or .parquet)."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Format of --out; messages by default.",
)
@carried_options
@overwrite_option
@json_option
def select_command(
    store: str,
    targets: tuple[str, ...],
    method: str,
    budget: str,
    weights: str | None,
    group: str | None,
    where: str | None,
    leakage: str,
    allow_leakage: bool,
    evaluation: tuple[str, ...],
    reading: dict[str, Any],
    exclude: tuple[str, ...],
    quota: tuple[str, ...],
    cap: tuple[str, ...],
    quota_by: str,
    distinct: float | None,
    distinct_by: str | None,
    approximate: bool,
    seed: int,
    name: str | None,
    memory: str,
    workers: dict[str, Any],
    shown: int,
    by: str | None,
    dry_run: bool,
    out: str | None,
    format_: str | None,
    reasoning: Any,
    with_fields: tuple[str, ...],
    with_metadata: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Choose rows of STORE for TARGETs, which share the budget by turns or weights; no model runs.

    Rows that leak an example of a target are left out (docs/rules.md). The choice is kept as a
    coreset with everything needed to repeat it.

    \b
        coresetdb select pool gsm8k --budget 1000 --out gsm8k.jsonl
        coresetdb select pool gsm8k mbpp --budget 5% --where "corpus <> 'dolly'"
        coresetdb select pool gsm8k mbpp --weights gsm8k=.6,mbpp=.4 --budget 2M-total-tokens
        coresetdb select pool mmlu --method less:top --group subject --budget 5%
        coresetdb select pool gsm8k --method "trim(scope=response)" --budget 1000
        coresetdb select pool gsm8k --eval gsm8k-test.jsonl --leakage full
        coresetdb select pool gsm8k --eval qa.csv --map "user=context+question,assistant=answer"
        coresetdb select pool gsm8k --quota dolly=10% --cap 30% --distinct 0.95
        coresetdb select pool --method random --budget 1000 --seed 1
    """
    from ..store import underway

    underway.answer_from_notes()
    of_out = {"--format": format_, "--reasoning": reasoning != "stored", "--with": with_fields}
    for option, has_value in (of_out | {"--with-metadata": with_metadata}).items():
        if has_value and not out:
            raise UsageError(f"{option} is for the file of --out: name one with --out FILE")
    if dry_run and out:
        raise UsageError("--dry-run writes nothing: leave out --out, or --dry-run")
    format_ = format_ or "messages"
    database = open_database(store)
    if out:
        from ..query.export import check_export

        check_export(out, format_, overwrite, reasoning)
    if by is not None:
        from ..query.origins import check_field

        check_field(database.store, by)
    coreset = None if dry_run else _chosen_before(database, name)
    if coreset is None:
        with ShownProgress() if given(workers) else nullcontext() as progress:
            coreset = database.select(
                *targets,
                method=method,
                budget=budget,
                where=where,
                seed=seed,
                name=name,
                memory_limit=memory,
                leakage="off" if allow_leakage else leakage,  # type: ignore[arg-type]
                evaluation=evaluation,
                **reading,
                exclude=exclude,
                quota=quota,
                cap=cap,
                quota_by=quota_by,
                distinct=distinct,
                distinct_by=distinct_by,
                approximate=approximate,
                weights=weights,
                group=group,
                dry_run=dry_run,
                **workers,
                progress=progress,
            )
    exported = None
    try:  # the file first: whoever reads what is printed may go at any moment
        if out:
            exported = database.export(
                coreset,
                out,
                format=format_,
                reasoning=reasoning,
                with_fields=",".join(with_fields),
                with_metadata=with_metadata,
                overwrite=overwrite,
            )
    finally:
        if as_json:
            print_json(coreset_json(coreset, by))
        else:
            print_text(repr(coreset))
            if by is not None:
                print_text("\n" + "\n".join(origin_lines(coreset, by)))
            if shown and len(coreset):
                print_text("\n" + first_rows(coreset, shown))
    for line in exported.lines() if exported else ():
        talk(line)
    if len(coreset) and coreset.saved:
        if not out:
            name = coreset.name
            talk(f"Next: coresetdb export {quote(store)} {name} --out {name}.jsonl")
        talk(f"Why a row is in it: coresetdb explain {quote(store)} {coreset.name} 1")


def _chosen_before(database: Database, name: str | None) -> Coreset | None:
    """Return the coreset that the same command recorded before it broke off, and say so.

    Without a name it would be chosen a second time. That is what is wanted where the pool or the
    targets were written to since, and of a process on another machine, which may still be at it.
    """
    from ..query.coresets import recorded_when_killed

    coreset = recorded_when_killed(database.store, from_here=name is None)
    if coreset is None:
        return None
    killed = f"this command broke off after it had recorded coreset {coreset.name}"
    versions = coreset.pool_version, coreset.parameters["targets_version"]
    now = database.store.version("pool"), database.store.version("targets")
    if name is None and versions != now:
        talk(f"Choosing anew: {killed}, and pool or targets were written to since.")
        return None
    again = "" if name else " To make a second coreset, run it again."
    talk(f"Done already: {killed}.{again}")
    return coreset


@click.group()
def coreset_command() -> None:
    """Coresets: selections with everything needed to repeat them."""


@coreset_command.command("list", short_help="List the coresets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the coresets, the newest last.

    \b
        coresetdb coreset list pool
    """
    coresets = open_database(store).list_coresets()
    if as_json:
        print_json(coresets)
    elif coresets:
        shown = ({**row, "targets": ", ".join(row["targets"])} for row in coresets)
        print_text(text_table([{**row, "created": row["created"][:16]} for row in shown]))
    else:
        talk(f"No coresets yet. Next: coresetdb select {quote(store)} TARGET")


@coreset_command.command("show", short_help="Show how a coreset was made.")
@store_argument
@click.argument("name")
@show_option(0)
@by_option
@json_option
def show(store: str, name: str, shown: int, by: str | None, as_json: bool) -> None:
    """Show how coreset NAME was made and where its rows come from.

    \b
        coresetdb coreset show pool gsm8k-rds-round_robin-1
        coresetdb coreset show pool gsm8k-rds-round_robin-1 --by lang --show 5
    """
    from ..query.coresets import IMPORTED

    coreset = open_database(store).open_coreset(name)
    if as_json:
        print_json(coreset_json(coreset, by))
    else:
        print_text("\n".join(coreset_lines(coreset, by)))
        if shown and len(coreset):
            print_text("\n" + first_rows(coreset, shown))
        talk(f"Why a row is in it: coresetdb explain {quote(store)} {name} 1")
        if coreset.method == IMPORTED:
            talk(f"To look at it: coresetdb report {quote(store)} {name} --out {name}.html")
        else:
            talk(f"To select again: coresetdb coreset replay {quote(store)} {name}")


@coreset_command.command("replay", short_help="Select again and compare the ids.")
@store_argument
@click.argument("name")
@memory_option("the selection")
def replay(store: str, name: str, memory: str) -> int:
    """Select again exactly as coreset NAME was selected, and compare the ids one by one.

    \b
        coresetdb coreset replay pool gsm8k-rds-round_robin-1
    """
    replayed = open_database(store).replay(name, memory_limit=memory)
    for note in replayed.notes:
        talk(note)
    print_text(replayed.outcome)
    return 0 if replayed.same else 1


@coreset_command.command("import", short_help="Record rows that another tool chose.")
@store_argument
@click.argument("name")
@click.argument("file")
@click.option(
    "--column", default="id", show_default=True, help="Column of FILE that has the ids of rows."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="Target that the rows were chosen for; may be repeated.",
)
@json_option
def import_(
    store: str, name: str, file: str, column: str, targets: tuple[str, ...], as_json: bool
) -> None:
    """Record the rows whose ids are in FILE as coreset NAME.

    FILE is Parquet, JSON, JSON Lines, CSV, TSV or plain text with an id a line; - is standard
    input. Rows rank by a column `rank`, else in their order; a column `score` is kept. Ids that are
    in no row of the pool are an error.

    \b
        coresetdb coreset import pool hand-picked ids.txt
        coresetdb coreset import pool from-atlas selection.csv --target gsm8k
    """
    coreset = open_database(store).import_coreset(name, file, column=column, targets=targets)
    if as_json:
        print_json(coreset_json(coreset))
        return
    print_text(repr(coreset))
    talk(f"Next: coresetdb export {quote(store)} {name} --out {name}.jsonl")


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


@click.command()
@store_argument
@click.argument("coreset", required=False)
@click.option("--out", metavar="FILE", help="File to write (.jsonl or .parquet).")
@click.option(
    "--atlas",
    metavar="FILE.parquet",
    help="Write the whole pool for embedding-atlas instead: a map, neighbours, scores.",
)
@click.option("--feature", help="Feature that draws the map of --atlas; rds by default.")
@click.option(
    "--neighbours",
    type=click.IntRange(min=0),
    metavar="N",
    help="Neighbours of each row in --atlas; 15 by default, none above 100,000 rows.",
)
@click.option(
    "--format",
    "format_",
    default="messages",
    show_default=True,
    type=click.Choice(FORMATS),
)
@click.option("--no-shuffle", is_flag=True, help="Write rows by rank instead of shuffled.")
@click.option("--seed", type=int, help="Seed of the shuffling; the coreset's by default.")
@click.option("--skip-unfit", is_flag=True, help="Leave out rows that the format cannot hold.")
@carried_options
@overwrite_option
@json_option
def export_command(
    store: str,
    coreset: str | None,
    out: str | None,
    atlas: str | None,
    feature: str | None,
    neighbours: int | None,
    format_: str,
    no_shuffle: bool,
    seed: int | None,
    skip_unfit: bool,
    reasoning: Any,
    with_fields: tuple[str, ...],
    with_metadata: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write CORESET to a file, with a manifest and trainer snippets beside it.

    With --atlas the pool is written, as embedding-atlas reads it. The map is made once for a
    feature and kept in STORE. Needs: pip install 'coresetdb[atlas]'

    An earlier export of that name is replaced; any other file only with --overwrite.

    \b
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.jsonl
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.parquet --format alpaca
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.jsonl --with source,licence
        coresetdb export pool --atlas pool.parquet
    """
    if atlas is not None:
        if coreset is not None or out is not None:
            raise UsageError("--atlas writes the whole pool: leave out CORESET and --out")
        with ShownProgress() as progress:
            exported_pool = open_database(store).export_atlas(
                atlas,
                feature=feature,
                neighbours=neighbours,
                overwrite=overwrite,
                progress=progress,
            )
        print_result(exported_pool, as_json)
        return
    if coreset is None:
        raise click.UsageError("name a CORESET, and a file with --out; or write --atlas FILE")
    if out is None:
        raise click.UsageError(f"name a file: --out {quote(coreset)}.jsonl")
    if feature is not None or neighbours is not None:
        raise UsageError("--feature and --neighbours are for --atlas")
    exported = open_database(store).export(
        coreset,
        out,
        format=format_,
        shuffle=not no_shuffle,
        seed=seed,
        skip_unfit=skip_unfit,
        reasoning=reasoning,
        with_fields=",".join(with_fields),
        with_metadata=with_metadata,
        overwrite=overwrite,
    )
    if as_json:
        print_json(asdict(exported))
    else:
        print_text("\n".join(exported.lines()))
