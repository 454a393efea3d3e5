"""`coresetdb select`: choose rows for one or more targets."""

from __future__ import annotations

from shlex import quote

import click

from ..schemas.errors import UsageError
from .coreset import facts
from .export import FORMATS, told
from .frame import (
    json_option,
    open_database,
    overwrite_option,
    print_json,
    store_argument,
    talk,
)


@click.command(short_help="Choose rows for targets.")
@store_argument
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--method",
    default="rds:round_robin",
    show_default=True,
    metavar="METHOD",
    help="Such as trim, random or rds:top(by=max); see docs/selectors.md.",
)
@click.option(
    "--budget", default="1000", show_default=True, help="Rows, 5% or 200k-tokens of responses."
)
@click.option("--where", metavar="SQL", help="Only rows for which this SQL expression holds.")
@click.option(
    "--leakage",
    default="ranked",
    show_default=True,
    type=click.Choice(["ranked", "full", "off"]),
    help="Which rows are held against the examples: those that come up, all, or none.",
)
@click.option("--allow-leakage", is_flag=True, help="The same as --leakage off.")
@click.option(
    "--eval",
    "evaluation",
    multiple=True,
    metavar="FILE",
    help="A benchmark whose examples are kept out as well; may be repeated.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="CORESET",
    help="Not the rows of this coreset; may be repeated.",
)
@click.option(
    "--quota",
    multiple=True,
    metavar="CORPUS=N|P%",
    help="Exactly so many rows, or per cent of the budget, from a corpus; may be repeated.",
)
@click.option(
    "--cap",
    multiple=True,
    metavar="[CORPUS=]N|P%",
    help="At most so many from a corpus, or from every other one; may be repeated.",
)
@click.option(
    "--distinct",
    type=float,
    metavar="COSINE",
    help="Leave out rows as close as this (0.95) to an earlier pick.",
)
@click.option(
    "--distinct-by", metavar="FEATURE", help="Whose vectors tell; the method's own otherwise."
)
@click.option(
    "--approximate", is_flag=True, help="Ask the feature's index (docs/indexing.md), not every row."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--name", help="Name of the coreset; made up otherwise.")
@click.option(
    "--memory", default="4GiB", show_default=True, help="What the selection may plan for."
)
@click.option("--out", metavar="FILE", help="Write the rows here as well (.jsonl or .parquet).")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Of --out; messages by default.",
)
@overwrite_option
@json_option
def select_command(
    store: str,
    targets: tuple[str, ...],
    method: str,
    budget: str,
    where: str | None,
    leakage: str,
    allow_leakage: bool,
    evaluation: tuple[str, ...],
    exclude: tuple[str, ...],
    quota: tuple[str, ...],
    cap: tuple[str, ...],
    distinct: float | None,
    distinct_by: str | None,
    approximate: bool,
    seed: int,
    name: str | None,
    memory: str,
    out: str | None,
    format_: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Choose rows of STORE for TARGETs (they share the budget in turns); no model runs.

    Rows that give an example of a target away are left out (docs/rules.md). The choice is kept as
    a coreset with everything needed to repeat it.

    \b
        coresetdb select pool gsm8k --budget 1000 --out gsm8k.jsonl
        coresetdb select pool gsm8k mbpp --budget 5% --where "corpus <> 'dolly'"
        coresetdb select pool gsm8k --method "trim(scope=response)" --budget 1000
        coresetdb select pool gsm8k --eval gsm8k-test.jsonl --leakage full
        coresetdb select pool gsm8k --quota dolly=10% --cap 30% --distinct 0.95
        coresetdb select pool --method random --budget 1000 --seed 1
    """
    if format_ and not out:
        raise UsageError("--format says how --out is written: name the file by --out FILE")
    format_ = format_ or "messages"
    database = open_database(store)
    if out:
        database.check_export(out, format_, overwrite=overwrite)
    coreset = database.select(
        *targets,
        method=method,
        budget=budget,
        where=where,
        seed=seed,
        name=name,
        memory_limit=memory,
        leakage="off" if allow_leakage else leakage,
        evaluation=evaluation,
        exclude=exclude,
        quota=quota,
        cap=cap,
        distinct=distinct,
        distinct_by=distinct_by,
        approximate=approximate,
    )
    if as_json:
        print_json(facts(coreset))
    else:
        click.echo(repr(coreset))
    if out:
        exported = database.export(coreset, out, format=format_, overwrite=overwrite)
        for sentence in told(exported):
            talk(sentence)
    elif len(coreset):
        talk(f"Next: coresetdb export {quote(store)} {coreset.name} --out {coreset.name}.jsonl")
