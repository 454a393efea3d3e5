"""`coresetdb score` scores every row for a target; `coresetdb transfer` targets' examples."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.plain_text import count_of, text_table
from .options import (
    ShownProgress,
    json_option,
    memory_option,
    open_database,
    print_json,
    print_text,
    store_argument,
    talk,
    where_option,
)

if TYPE_CHECKING:
    from ..store.scores import ScoreSet


@click.group()
def score_command() -> None:
    """Score every row of a store for a target, and keep scores and ranks for SQL.

    \b
        coresetdb score run pool gsm8k --with rds,less,trim
        coresetdb score list pool
        coresetdb sql pool "SELECT id, score FROM scores WHERE method = 'trim' AND rank <= 10"
    """


@score_command.command("run", short_help="Score every row for targets.")
@store_argument
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--with",
    "methods",
    metavar="METHOD,...",
    help="Such as rds,less or trim(scope=response); by default all that store and target allow.",
)
@where_option
@click.option("--keep", is_flag=True, help="Keep scores at other versions of the pool as well.")
@memory_option("ranking")
@json_option
def run(
    store: str,
    targets: tuple[str, ...],
    methods: str | None,
    where: str | None,
    keep: bool,
    memory: str,
    as_json: bool,
) -> None:
    """Score every row of STORE for each TARGET; no model runs.

    Earlier scores for the same target and method are replaced.

    \b
        coresetdb score run pool gsm8k
        coresetdb score run pool gsm8k mbpp --with less,rds,trim,nait,mads,gradfiltering
        coresetdb score run pool gsm8k --with "rds(by=max)" --where "corpus <> 'dolly'"
    """
    database = open_database(store)
    scored = []
    with ShownProgress() as progress:
        for target in dict.fromkeys(targets):
            scores = database.score(
                target,
                methods,
                where=where,
                keep=keep,
                memory_limit=memory,
                progress=progress,
            )
            for note in scores.notes:
                progress.say(note)
            scored += scores.sets
    rows = [_row(score_set) for score_set in database.list_scores() if score_set.key in scored]
    if as_json:
        print_json(rows)
        return
    print_text(text_table(rows))
    talk(f'Next: coresetdb sql {quote(store)} "SELECT * FROM scores WHERE rank <= 10"')


def _row(score_set: ScoreSet) -> dict[str, Any]:
    return {**asdict(score_set.key), "rows": score_set.rows, "whole": score_set.whole}


@score_command.command("list", short_help="List the scores that are kept.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the scores that are kept: target, method, version of the pool, number of rows.

    Scores that are not whole were cut short when their run was killed; score again to replace them.

    \b
        coresetdb score list pool
    """
    rows = [_row(score_set) for score_set in open_database(store).list_scores()]
    if as_json:
        print_json(rows)
    elif rows:
        print_text(text_table(rows))
    else:
        talk(f"No scores yet. Next: coresetdb score run {quote(store)} TARGET")


@score_command.command("remove", short_help="Remove scores.")
@store_argument
@click.argument("target")
@click.argument("methods", nargs=-1, metavar="[METHOD]...")
def remove(store: str, target: str, methods: tuple[str, ...]) -> None:
    """Remove the scores of TARGET, or only those by METHODs as `score list` names them.

    \b
        coresetdb score remove pool gsm8k
        coresetdb score remove pool gsm8k "rds(by=max)"
    """
    rows = open_database(store).remove_scores(target, methods or None)
    talk(f"{target}: removed {count_of(rows, 'score')}.")


@click.command()
@store_argument
@click.argument("targets", nargs=-1, required=True, metavar="TARGET TARGET...")
@click.option("--method", default="nait", show_default=True, help="That scores for a target.")
@click.option("--out", metavar="FILE.html", help="Write the matrix as a picture as well.")
@json_option
def transfer_command(
    store: str, targets: tuple[str, ...], method: str, out: str | None, as_json: bool
) -> None:
    """Score the examples of each TARGET for every other one, and average; no model runs.

    A row for each target whose examples are scored, a column for each that scores.

    \b
        coresetdb transfer pool gsm8k svamp mbpp
        coresetdb transfer pool gsm8k mbpp --method "nait(score=cosine)" --out transfer.html
    """
    matrix = open_database(store).transfer(*targets, method=method)
    if out is not None:
        from ..evaluation.matrix import write_matrix

        write_matrix(matrix, f"{method}: mean score of a target's examples for another", out)
        talk(f"{out}: written.")
    if as_json:
        print_json(matrix.to_dicts())
    else:
        print_text(text_table(matrix.to_dicts()))
