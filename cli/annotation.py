"""`coresetdb annotate`, `annotation`, `vectors`: attach what was made elsewhere to the pool."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click

from ..schemas.plain_text import text_table
from .options import (
    ShownProgress,
    all_of,
    force_option,
    json_option,
    open_database,
    print_json,
    print_result,
    print_text,
    reading_options,
    store_argument,
    talk,
)

key_options = all_of(
    click.option(
        "--key",
        type=click.Choice(["id", "source_id", "messages"]),
        default="id",
        show_default=True,
        help="Join by row id, by the source's own id, or by content.",
    ),
    click.option(
        "--key-column", metavar="COLUMN", help="Column of the key, if it has another name."
    ),
)
corpus_option = click.option("--corpus", help="Corpus whose own ids --key source_id means.")


def names_in(text: str | None) -> list[str] | None:
    """The names in a comma-separated list; None for none."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


@click.command()
@store_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@key_options
@click.option("--columns", metavar="A,B,...", help="Columns to take; else all but key and text.")
@click.option("--prefix", default="", help="Of the columns' names in the pool, such as judge_.")
@click.option("--name", help="Name of the annotation; by default the prefix or file name.")
@click.option("--text", "texts", metavar="A,B,...", help="Columns to take as text.")
@corpus_option
@reading_options
@json_option
def annotate_command(
    store: str,
    files: tuple[str, ...],
    key: str,
    key_column: str | None,
    columns: str | None,
    prefix: str,
    name: str | None,
    texts: str | None,
    corpus: str | None,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Make columns of FILE (Parquet, CSV, JSON Lines, ...) typed columns of STORE's pool.

    They are open to --where, SQL, quotas, and methods such as "top(score=judge_score)". Rows that
    come later are counted by `status`; a file with their values completes them. The same file again
    changes nothing.

    \b
        coresetdb annotate pool judged.jsonl --prefix judge_
        coresetdb annotate pool labels.csv --key source_id --corpus dolly --columns topic
        coresetdb annotate pool scored.parquet --key messages --columns quality
    """
    with ShownProgress() as progress:
        account = open_database(store).annotate(
            list(files),
            key=key,  # pyright: ignore[reportArgumentType]
            key_column=key_column,
            columns=names_in(columns),
            prefix=prefix,
            name=name,
            texts=names_in(texts) or (),
            corpus=corpus,
            **reading,
            progress=progress,
        )
    print_result(account, as_json)
    if account.filled and not as_json:
        shown = ", ".join(["id", *account.columns])
        talk(f'Next: coresetdb sql {quote(store)} "SELECT {shown} FROM pool LIMIT 10"')


@click.group()
def vectors_command() -> None:
    """Vectors that were made elsewhere: a feature like any other."""


@vectors_command.command("add", short_help="Make vectors of a file a feature of the pool.")
@store_argument
@click.argument("name")
@click.argument("file")
@key_options
@click.option("--column", help="Column of the vectors; by default the only one of lists.")
@click.option(
    "--rows", metavar="FILE", help="File with the keys, in order, for vectors that have none."
)
@click.option("--model", default="", help="Model that made the vectors; the same for later files.")
@click.option("--target", help="Give them to this target's examples, in their order.")
@corpus_option
@reading_options
@json_option
def add_vectors(
    store: str,
    name: str,
    file: str,
    key: str,
    key_column: str | None,
    column: str | None,
    rows: str | None,
    model: str,
    target: str | None,
    corpus: str | None,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Make the vectors in FILE feature NAME of STORE, for methods such as NAME:round_robin.

    FILE is a table with a column of lists of numbers (Parquet, Arrow, JSON Lines, ...), a NumPy
    array (.npy), or the folder of an index of bergson. Vectors are kept as unit vectors; those that
    are zero or not finite are refused and counted.

    \b
        coresetdb vectors add pool minilm embedded.parquet --model all-MiniLM-L6-v2
        coresetdb vectors add pool minilm embedded.npy --rows data.jsonl --key messages
        coresetdb vectors add pool trackstar bergson-index --key messages
        coresetdb vectors add pool minilm examples.npy --target gsm8k
    """
    database = open_database(store)
    if target is not None:
        print_result(database.add_target_vectors(target, name, file), as_json)
        return
    with ShownProgress() as progress:
        account = database.add_vectors(
            name,
            file,
            key=key,  # pyright: ignore[reportArgumentType]
            key_column=key_column,
            column=column,
            rows=rows,
            model=model,
            corpus=corpus,
            **reading,
            progress=progress,
        )
    print_result(account, as_json)
    if account.filled and not as_json:
        talk(f"Next: coresetdb target add {quote(store)} TARGET FILE --vectors {name}=FILE")


@click.group()
def annotation_command() -> None:
    """List and remove the annotations of a store; `coresetdb annotate` adds them."""


@annotation_command.command("list", short_help="List the annotations.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the annotations, and how many rows have a value.

    \b
        coresetdb annotation list pool
    """
    rows = open_database(store).list_annotations()
    if as_json:
        print_json(rows)
    elif rows:
        print_text(text_table([{**row, "columns": ", ".join(row["columns"])} for row in rows]))
    else:
        talk(f"No annotations. Next: coresetdb annotate {quote(store)} FILE")


@annotation_command.command("remove", short_help="Remove an annotation.")
@store_argument
@click.argument("name")
@force_option
def remove(store: str, name: str, force: bool) -> None:
    """Remove annotation NAME: its columns in the pool, and its recipe.

    \b
        coresetdb annotation remove pool judge
    """
    recipe = open_database(store).remove_annotation(name, force=force)
    talk(f"{name}: removed ({', '.join(recipe.columns)}).")
    talk(f"To free its space: coresetdb compact {quote(store)}")
