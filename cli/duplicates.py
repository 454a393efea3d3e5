"""Commands that look through a whole pool: dedup for near-duplicates, leaks for benchmarks."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click

from .options import (
    ShownProgress,
    json_option,
    memory_option,
    open_database,
    print_result,
    reading_options,
    store_argument,
    talk,
    where_option,
)


@click.command()
@store_argument
@click.option(
    "--lexical",
    type=float,
    metavar="SIMILARITY",
    help="Compare runs of words (Jaccard). This is the default, with 0.8.",
)
@click.option("--near", type=float, metavar="COSINE", help="Compare vectors instead, such as 0.95.")
@click.option("--feature", help="Whose vectors; rds or the only one by default.")
@click.option(
    "--part",
    type=click.Choice(["conversation", "prompt", "response"]),
    default="conversation",
    show_default=True,
    help="Part of the text that --lexical compares.",
)
@click.option("--ngram", default=3, show_default=True, metavar="N", help="Words in a run.")
@click.option(
    "--keep",
    default="first",
    show_default=True,
    metavar="first|longest|SQL",
    help="Row to keep: the earliest, that with the longest answer, or with the highest value.",
)
@click.option(
    "--linkage",
    type=click.Choice(["single", "star"]),
    default="single",
    show_default=True,
    help="Chains of close rows, or rows that are close to the kept one.",
)
@click.option("--name", default="dedup", show_default=True, help="Of the result.")
@memory_option("the comparison of vectors")
@json_option
def dedup_command(
    store: str,
    lexical: float | None,
    near: float | None,
    feature: str | None,
    part: str,
    ngram: int,
    keep: str,
    linkage: str,
    name: str,
    memory: str,
    as_json: bool,
) -> None:
    """Find the near-duplicates in the whole pool of STORE; remove nothing.

    Every row gets two columns: `cluster`, the id of the row that stands for it, and `kept`. They
    are open to --where and SQL; with another --name they are NAME_cluster and NAME_kept. Run it
    again after an ingestion: new rows have neither until then.

    Clusters of single linkage can chain: A is close to B, B to C, and A has little in common with
    C. With --linkage star, every row that is not kept is close to the one that is.

    \b
        coresetdb dedup pool
        coresetdb dedup pool --lexical 0.7 --part prompt --keep longest
        coresetdb dedup pool --near 0.95 --feature rds --name by_rds
        coresetdb select pool gsm8k --where kept
    """
    with ShownProgress() as progress:
        result = open_database(store).dedup(
            near=near,
            feature=feature,
            lexical=lexical,
            part=part,  # pyright: ignore[reportArgumentType]
            ngram=ngram,
            keep=keep,
            linkage=linkage,  # pyright: ignore[reportArgumentType]
            name=name,
            memory_limit=memory,
            progress=progress,
        )
    print_result(result, as_json)
    if result.not_kept and not as_json:
        kept = result.columns[-1]
        talk(f"Next: coresetdb select {quote(store)} TARGET --where {kept}")
        talk(f'To remove the others: coresetdb remove {quote(store)} --where "NOT {kept}"')


@click.command()
@store_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@where_option
@click.option("--out", metavar="FILE", help="Write all of it to a .csv, .jsonl or .parquet file.")
@click.option("--overwrite", is_flag=True, help="Replace a file of that name.")
@reading_options
@json_option
def leaks_command(
    store: str,
    files: tuple[str, ...],
    where: str | None,
    out: str | None,
    overwrite: bool,
    reading: dict[str, Any],
    as_json: bool,
) -> int:
    """Find the rows in STORE's pool that give examples of FILE away; exit 1 if there are any.

    FILE is a benchmark in any shape that `ingest` reads; answers may be missing. A row gives an
    example away if it says the same words, contains it, or shares long runs of words with it. What
    several examples of a file share, or many rows of the pool, does not count.

    \b
        coresetdb leaks pool test.jsonl
        coresetdb leaks pool humaneval.jsonl mbpp_test.jsonl --out leaks.csv
        coresetdb leaks pool test.csv --map user=question --where "corpus <> 'dolly'"
    """
    from ..query.leaks import check_out

    if out is not None:
        check_out(out, overwrite)
    with ShownProgress() as progress:
        result = open_database(store).leaks(*files, where=where, **reading, progress=progress)
    if out is not None:
        result.write(out, overwrite=True)
    print_result(result, as_json)
    if out is not None:
        talk(f"wrote {out}")
    if result.found:
        why = quote("leaks " + ", ".join(files))
        written = out or "leaks.csv"
        if out is None:
            again = " ".join(map(quote, files))
            talk(f"Next: coresetdb leaks {quote(store)} {again} --out {written}")
        else:
            talk(f"Next: coresetdb remove {quote(store)} --ids {quote(written)} --why {why}")
    return 1 if result.found else 0
