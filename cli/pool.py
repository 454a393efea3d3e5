"""`coresetdb ingest`: read files into the pool.

`coresetdb drop-feature`: remove a feature from a store.

`coresetdb featurize`: add features to rows that are there already.

`coresetdb fit`: learn what features need from a sample, before anything is ingested.

`coresetdb init`: make an empty store and settle how its features are made.

`coresetdb plan`: what an ingestion will cost, before it runs.
"""

from __future__ import annotations

import shlex
import sys
from shlex import quote
from typing import TYPE_CHECKING

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
    from ..ingest.planning import Plan


@click.command(short_help="Remove a feature.")
@store_argument
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when coresets were made with it.")
def drop_feature_command(store: str, name: str, force: bool) -> None:
    """Remove the feature NAME: its columns in pool and targets, and its recipe.

    Old versions keep it until they are cleaned away; those that coresets were chosen from stay.

    \b
        coresetdb drop-feature pool losses
    """
    recipe = open_database(store).drop_feature(name, force=force)
    if recipe is None:
        talk(f"{store}: {name} was not fitted yet; it is no longer waited for.")
        return
    talk(f"{store}: {name} is dropped ({', '.join(recipe.columns)}).")
    talk(f"Its bytes go with the versions that hold them: coresetdb compact {quote(store)}")


@click.command(short_help="Add features to rows that are there already.")
@store_argument
@click.argument("features", default="", metavar="[FEATURES]")
@json_option
def featurize_command(store: str, features: str, as_json: bool) -> None:
    """Make FEATURES for every row and every target example of STORE that lacks them.

    FEATURES are comma-separated, with options as `init` takes them; without any, all features of
    the store are completed. Readers and ingestions go on meanwhile. Interrupted or killed, it goes
    on where it was when it is called again.

    \b
        coresetdb featurize pool losses
        coresetdb featurize pool rds,losses:alone=false
        coresetdb featurize pool
    """
    from .options import ShownProgress

    with ShownProgress() as progress:
        account = open_database(store).featurize(
            features, progress=progress, command=shlex.join(["coresetdb", *sys.argv[1:]])
        )
    if as_json:
        print_json(account.as_dict())
    else:
        click.echo("\n".join(account.sentences()))


@click.command(short_help="Learn what features need from a sample of files.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@reading_options
@click.option("--limit", type=click.IntRange(min=1), help="Read no more than this many records.")
@json_option
def fit_command(
    store: str,
    sources: tuple[str, ...],
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Learn adapters, bases and ensembles that STORE's features need, from a sample of SOURCE.

    The first `ingest` does this by itself with the files it is given; `fit` is for a sample from
    other files, or to have it done. A killed fit goes on where it was when it is called again.

    \b
        coresetdb fit pool data/*.jsonl.gz
    """
    from .options import ShownProgress

    with ShownProgress() as progress:
        recipes = open_database(store).fit(
            list(sources),
            **read_options(format_, mapping, encoding, explanation, unescape),
            limit=limit,
            progress=progress,
        )
    if as_json:
        print_json(
            [
                {
                    "representation": recipe.representation,
                    "fingerprint": recipe.fingerprint,
                    "columns": list(recipe.columns),
                    "artifacts": recipe.artifacts,
                }
                for recipe in recipes
            ]
        )
    elif recipes:
        rows = [
            {
                "feature": recipe.representation,
                "learned": ", ".join(recipe.artifacts),
                "columns": ", ".join(recipe.columns),
            }
            for recipe in recipes
        ]
        click.echo(table(rows))
        talk(f"Next: coresetdb ingest {quote(store)} FILE...")
    else:
        talk(f"{store}: nothing to learn; all its features can be made.")


@click.command(short_help="Read files into the pool.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--corpus", help="Name of the corpus; each file's own name otherwise.")
@reading_options
@click.option("--limit", type=click.IntRange(min=1), help="Read no more than this many records.")
@json_option
def ingest_command(
    store: str,
    sources: tuple[str, ...],
    corpus: str | None,
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    """Read SOURCE (files, folders, globs, hf:// or s3:// addresses, - for stdin) into the pool.

    The shape of each file is found by looking at it, and said. What the pool already has is
    skipped, so an interrupted ingestion goes on when it is called again.

    \b
        coresetdb ingest pool data/*.jsonl.gz
        coresetdb ingest pool qa.csv --map user=question,assistant=answer
        zcat more.jsonl.gz | coresetdb ingest pool - --corpus more
    """
    from .options import ShownProgress

    with ShownProgress() as progress:
        account = open_database(store).ingest(
            list(sources),
            corpus=corpus,
            **read_options(format_, mapping, encoding, explanation, unescape),
            limit=limit,
            progress=progress,
            command=shlex.join(["coresetdb", *sys.argv[1:]]),
        )
    if as_json:
        print_json(account.as_dict())
    else:
        click.echo("\n".join(account.sentences()))
    if account.total("rejected"):
        talk(f'Rejected records: coresetdb sql {quote(store)} "SELECT * FROM rejects"')
    return 1 if account.faults else 0


@click.command(short_help="Make an empty store.")
@store_argument
@click.option(
    "--backbone",
    default="builtin",
    show_default=True,
    metavar="builtin|NAME|FOLDER",
    help="The model that makes features: the built-in proxy, a Hugging Face name or a folder.",
)
@click.option(
    "--features",
    default="rds,losses",
    show_default=True,
    metavar="NAME,...",
    help="What to keep per row: features with their options, or the presets fast and paper.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--max-length", type=int, help="Tokens of a row; the model's own bound otherwise.")
def init_command(
    store: str, backbone: str, features: str, device: str, dtype: str, max_length: int | None
) -> None:
    """Make an empty store at STORE, a folder or an s3:// address.

    Backbone and features are settled here, once, so that all rows are comparable.

    \b
        coresetdb init pool
        coresetdb init pool --backbone Qwen/Qwen3-0.6B --max-length 1024
        coresetdb init s3://bucket/pool --features rds,losses:alone=false
        coresetdb init pool --features fast,embed
        coresetdb init pool --features less:warmup=lora:epochs=2,paper,-embed

    The preset fast is rds, losses with a sketched gradient norm, nait, mads, trim and less, all of
    the model as it is; paper is what each paper says, with warm-up, ensemble and encoder.
    `coresetdb plan` tells what they cost.
    """
    from .. import create

    database = create(
        store,
        backbone=backbone,
        features=features,
        device=device,
        dtype=dtype,
        max_length=max_length,
    )
    for sentence in database.notices:
        talk(sentence)
    talk(f"{store}: an empty store for {features}, made by {backbone}.")
    if waiting := database.pending():
        talk(f"Fitted first, by the first ingest or by coresetdb fit: {', '.join(waiting)}.")
    talk(f"Next: coresetdb ingest {quote(store)} FILE...")


@click.command(short_help="Tell what an ingestion will cost.")
@store_argument
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--features", metavar="NAME,...", help="Plan for these, not for the store's own.")
@reading_options
@json_option
def plan_command(
    store: str,
    sources: tuple[str, ...],
    features: str | None,
    format_: str,
    mapping: str,
    encoding: str | None,
    explanation: bool,
    unescape: bool,
    as_json: bool,
) -> None:
    """Tell what ingesting SOURCE into STORE would cost: bytes, passes, fits and time.

    Rows are counted, or told from a part of large files; time and what differs from row to row are
    measured on a few dozen rows. Nothing is changed.

    \b
        coresetdb plan pool data/*.jsonl.gz
        coresetdb plan pool data/*.jsonl.gz --features fast,embed
    """
    from .options import ShownProgress

    with ShownProgress() as progress:
        plan = open_database(store).plan(
            list(sources),
            features=features,
            **read_options(format_, mapping, encoding, explanation, unescape),
            progress=progress,
        )
    if as_json:
        print_json(plan.as_dict())
        return
    click.echo("\n".join(_told(plan)))
    for note in plan.notes:
        talk(note)


def _told(plan: Plan) -> list[str]:
    counted = "counted" if plan.exact else f"told from the first {plan.read:,} and the bytes"
    told = [
        f"{plan.records:,} records ({counted}), {plan.rows:,} new to the pool, "
        f"{plan.tokens_per_row:,.0f} tokens a row",
        "",
        table(
            [
                {
                    "column": column.column,
                    "of": column.feature,
                    "type": column.type,
                    "bytes a row": max(1, round(column.bytes_per_row)),
                    "known from": "the trial" if column.measured else "its type",
                }
                for column in plan.columns
            ]
        ),
    ]
    if plan.fits:
        fits = [
            {
                "learned first": fit.fit,
                "from rows": fit.rows,
                "MB": fit.bytes / 1e6,
                "time": spell(fit.seconds),
            }
            for fit in plan.fits
        ]
        told += ["", table(fits)]
    passes = [
        {
            "pass": model_pass.what,
            "shared by": ", ".join(model_pass.features),
            "s per 1,000 rows": model_pass.seconds_per_1000_rows,
            "time": spell(model_pass.seconds),
        }
        for model_pass in plan.passes
    ]
    told += [
        "",
        table(passes),
        "",
        f"{plan.bytes_per_row:,.0f} bytes a row, {plan.gigabytes:,.2f} GB; about "
        f"{spell(plan.seconds)} on this machine ({plan.trial_rows} rows tried)",
    ]
    return told


def spell(seconds: float) -> str:
    """A span of time in the unit a person would use."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"
