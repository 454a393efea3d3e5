"""`coresetdb score`: score every row for a target; list and remove what was found."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from .options import json_option, open_database, print_json, store_argument, table, talk

if TYPE_CHECKING:
    from ..store.scores import ScoreSet


class _Scoring(click.Group):
    """Takes anything but a name of its commands, or a wish for help, as a call to score."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _row(score_set: ScoreSet) -> dict[str, Any]:
    return {**asdict(score_set.key), "rows": score_set.rows, "whole": score_set.whole}


@click.group(cls=_Scoring, short_help="Score every row for a target.")
def score_command() -> None:
    """Score every row of a store for a target, and keep scores and ranks for SQL.

    \b
        coresetdb score pool gsm8k --with rds,less,trim
        coresetdb score list pool
        coresetdb sql pool "SELECT id, score FROM scores WHERE method = 'trim' AND rank <= 10"

    `coresetdb score STORE TARGET` is short for `coresetdb score run STORE TARGET`.
    """


@score_command.command("run", short_help="Score every row (the word can be left out).")
@store_argument
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--with",
    "methods",
    metavar="METHOD,...",
    help="Such as rds,less or trim(scope=response); all that store and target allow otherwise.",
)
@click.option("--where", metavar="SQL", help="Only rows for which this SQL expression holds.")
@click.option("--keep", is_flag=True, help="Keep scores at other versions of the pool as well.")
@click.option("--memory", default="4GiB", show_default=True, help="What ranking may plan for.")
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

    What was kept for the same target and method is replaced.

    \b
        coresetdb score run pool gsm8k
        coresetdb score pool gsm8k mbpp --with less,rds,trim,nait,mads,gradfiltering
        coresetdb score pool gsm8k --with "rds(by=max)" --where "corpus <> 'dolly'"
    """
    from .options import ShownProgress

    database = open_database(store)
    found = []
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
            found += scores.sets
    sets = [_row(score_set) for score_set in database.score_sets() if score_set.key in found]
    if as_json:
        print_json(sets)
        return
    click.echo(table(sets))
    talk(f'Next: coresetdb sql {quote(store)} "SELECT * FROM scores WHERE rank <= 10"')


@score_command.command("list", short_help="List the scores that are kept.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the scores that are kept: of whom, by what, at which version of the pool.

    A set that is not whole was cut short by a kill; scoring again makes it anew.

    \b
        coresetdb score list pool
    """
    sets = [_row(score_set) for score_set in open_database(store).score_sets()]
    if as_json:
        print_json(sets)
    elif sets:
        click.echo(table(sets))
    else:
        talk(f"No scores yet. Next: coresetdb score {quote(store)} TARGET")


@score_command.command("remove", short_help="Remove scores.")
@store_argument
@click.argument("target")
@click.argument("methods", nargs=-1, metavar="[METHOD]...")
def remove(store: str, target: str, methods: tuple[str, ...]) -> None:
    """Remove the scores of TARGET, or those by some METHODs, as `score list` names them.

    \b
        coresetdb score remove pool gsm8k
        coresetdb score remove pool gsm8k "rds(by=max)"
    """
    rows = open_database(store).remove_scores(target, methods or None)
    talk(f"{target}: {rows:,} scores removed.")
