"""Commands that make a store and fill it: init, plan, fit, ingest, featurize, feature."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.plain_text import text_table
from .options import (
    ShownProgress,
    force_option,
    json_option,
    limit_option,
    open_database,
    print_json,
    print_result,
    print_text,
    reading_options,
    store_argument,
    talk,
    worker_options,
)

if TYPE_CHECKING:
    pass


sources_argument = click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")


@click.command()
@store_argument
@click.option(
    "--backbone",
    default="builtin",
    show_default=True,
    metavar="builtin|NAME|FOLDER",
    help="Model that makes the features: the built-in proxy, a Hugging Face name or a folder.",
)
@click.option(
    "--features",
    default="rds,losses",
    show_default=True,
    metavar="NAME,...",
    help="What to keep per row: features with their options, or the presets fast, lean and paper.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, mps, or auto-map: spread over all devices.",
)
@click.option("--dtype", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--max-length", type=int, help="Tokens per row; by default as many as the model can.")
@click.option(
    "--reasoning",
    default="template",
    show_default=True,
    metavar="template|as-response|drop",
    help="Reasoning of answers: as the model's chat template has it, always as response, or not.",
)
def init_command(
    store: str,
    backbone: str,
    features: str,
    device: str,
    dtype: str,
    max_length: int | None,
    reasoning: Any,
) -> None:
    """Create an empty store at STORE, a folder or an s3:// address.

    Backbone and features are chosen here, once, so that all rows stay comparable.

    \b
        coresetdb init pool
        coresetdb init pool --backbone Qwen/Qwen3-0.6B --max-length 1024
        coresetdb init s3://bucket/pool --features rds,losses:alone=false
        coresetdb init pool --features fast,embed
        coresetdb init pool --features less:warmup=lora:epochs=2,paper,-embed

    The preset fast is rds, losses with a sketched gradient norm, nait, mads, trim and less, all by
    the model as it is; lean is the same in fewer bytes; paper is what each paper describes, with
    warm-up, ensemble and encoder.
    `coresetdb plan` estimates what they cost.
    """
    from .. import create

    with ShownProgress() as progress:
        database = create(
            store,
            backbone=backbone,
            features=features,
            device=device,
            dtype=dtype,
            max_length=max_length,
            reasoning=reasoning,
            progress=progress,
        )
    for sentence in database.notices:
        talk(sentence)
    said = {"as-response": "; reasoning is response", "drop": "; reasoning is dropped"}
    talk(
        f"{store}: created an empty store with features {features} by backbone {backbone}"
        f"{said.get(reasoning, '')}."
    )
    if waiting := database.pending():
        talk(f"To be fitted first, by ingest or by coresetdb fit: {', '.join(waiting)}.")
    talk(f"Next: coresetdb ingest {quote(store)} FILE...")


@click.command()
@store_argument
@sources_argument
@click.option("--features", metavar="NAME,...", help="Plan for these instead of the store's own.")
@reading_options
@json_option
def plan_command(
    store: str,
    sources: tuple[str, ...],
    features: str | None,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Estimate what ingesting SOURCE into STORE would cost: bytes, passes, fits and time.

    Rows are counted, or extrapolated from a part of large files; times, and sizes that vary by row,
    are measured on a few dozen rows. Nothing is changed.

    \b
        coresetdb plan pool data/*.jsonl.gz
        coresetdb plan pool data/*.jsonl.gz --features fast,embed
    """
    with ShownProgress() as progress:
        plan = open_database(store).plan(
            list(sources), features=features, **reading, progress=progress
        )
    print_result(plan, as_json)
    for note in () if as_json else plan.notes:
        talk(note)


@click.command()
@store_argument
@sources_argument
@reading_options
@limit_option
@worker_options
@json_option
def fit_command(
    store: str,
    sources: tuple[str, ...],
    reading: dict[str, Any],
    limit: int | None,
    workers: dict[str, Any],
    as_json: bool,
) -> None:
    """Fit the adapters, bases and ensembles that STORE's features need to a sample of SOURCE.

    The first `ingest` does this by itself with the files it is given; `fit` takes the sample from
    other files, or does it ahead of time. Run it again to resume a fit that was interrupted.

    \b
        coresetdb fit pool data/*.jsonl.gz
    """
    with ShownProgress() as progress:
        recipes = open_database(store).fit(
            list(sources), **reading, limit=limit, **workers, progress=progress
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
                "fitted": ", ".join(recipe.artifacts),
                "columns": ", ".join(recipe.columns),
            }
            for recipe in recipes
        ]
        print_text(text_table(rows))
        talk(f"Next: coresetdb ingest {quote(store)} FILE...")
    else:
        talk(f"{store}: there is nothing to fit.")


@click.command()
@store_argument
@sources_argument
@click.option("--corpus", help="Name of the corpus; by default that of each data set.")
@reading_options
@limit_option
@worker_options
@json_option
def ingest_command(
    store: str,
    sources: tuple[str, ...],
    corpus: str | None,
    reading: dict[str, Any],
    limit: int | None,
    workers: dict[str, Any],
    as_json: bool,
) -> int:
    """Read SOURCE (files, folders, globs, hf:// or s3:// addresses, - for stdin) into the pool.

    The shape of each file is detected and reported. Rows that the pool already has are skipped, so
    run it again to resume an ingestion that was interrupted.

    \b
        coresetdb ingest pool data/*.jsonl.gz
        coresetdb ingest pool qa.csv --map user=question,assistant=answer
        zcat more.jsonl.gz | coresetdb ingest pool - --corpus more
        coresetdb ingest pool data/*.jsonl.gz --workers auto
    """
    with ShownProgress() as progress:
        account = open_database(store).ingest(
            list(sources), corpus=corpus, **reading, limit=limit, **workers, progress=progress
        )
    print_result(account, as_json)
    if account.total("rejected"):
        talk(f'Rejected records: coresetdb sql {quote(store)} "SELECT * FROM rejects"')
    return 1 if account.faults else 0


@click.command()
@store_argument
@click.argument("features", default="", metavar="[FEATURES]")
@worker_options
@json_option
def featurize_command(store: str, features: str, workers: dict[str, Any], as_json: bool) -> None:
    """Add FEATURES to every row and every target example of STORE that lacks them.

    FEATURES are comma-separated, with options as `init` takes them; without any, all features of
    the store are completed. Readers and ingestions can go on meanwhile. Run it again to resume
    where it was interrupted.

    \b
        coresetdb featurize pool losses
        coresetdb featurize pool rds,losses:alone=false
        coresetdb featurize pool
    """
    with ShownProgress() as progress:
        account = open_database(store).featurize(features, **workers, progress=progress)
    print_result(account, as_json)


@click.group()
def feature_command() -> None:
    """List and remove the features of a store; `coresetdb featurize` adds them."""


@feature_command.command("list", short_help="List the features.")
@store_argument
@json_option
def list_features(store: str, as_json: bool) -> None:
    """List the features, how many rows lack them, and which are not fitted yet.

    \b
        coresetdb feature list pool
    """
    features = open_database(store).list_features()
    if as_json:
        print_json(features)
    elif features:
        shown = ({**row, "columns": ", ".join(row["columns"])} for row in features)
        print_text(text_table([{**row, "fingerprint": row["fingerprint"] or ""} for row in shown]))
    else:
        talk(f"No features. Next: coresetdb featurize {quote(store)} FEATURES")


@feature_command.command("remove", short_help="Remove a feature.")
@store_argument
@click.argument("name")
@force_option
def remove_feature(store: str, name: str, force: bool) -> None:
    """Remove feature NAME: its columns in pool and targets, and its recipe.

    Old versions keep it until `compact` deletes them; those that coresets were chosen from stay.

    \b
        coresetdb feature remove pool losses
    """
    recipe = open_database(store).remove_feature(name, force=force)
    if recipe is None:
        talk(f"{name}: removed; it was not fitted yet.")
        return
    talk(f"{name}: removed ({', '.join(recipe.columns)}).")
    talk(f"To free its space: coresetdb compact {quote(store)}")


@click.command()
@store_argument
@click.argument("folder", required=False, metavar="[FOLDER]")
@json_option
def backbone_command(store: str, folder: str | None, as_json: bool) -> None:
    """Show the model that makes the features of STORE, or say that it was moved to FOLDER.

    FOLDER may be a Hugging Face name or builtin, too. The model there must be the same by its
    fingerprint: weights, configuration, tokenizer and chat template.

    \b
        coresetdb backbone pool
        coresetdb backbone pool /models/my-model
    """
    database = open_database(store)
    relocated = None if folder is None else database.relocate_backbone(folder)
    info = database.describe_backbone()
    if as_json:
        print_json({**asdict(info), "relocated": relocated and asdict(relocated)})
        return
    if relocated is not None:
        same = ", ".join(relocated.features)
        why = f"the same model that made {same}" if same else "no feature was made by it yet"
        talk(f"{store}: looks for its backbone in {relocated.name} from now on ({why}).")
    print_text(
        text_table(
            [
                {
                    "backbone": info.name,
                    "type": info.model_type,
                    "layers": info.layers,
                    "width": info.hidden_size,
                    "vocabulary": info.vocabulary,
                    "max length": info.max_length,
                }
            ]
        )
    )
