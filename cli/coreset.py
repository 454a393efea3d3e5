"""`coresetdb coreset`: list, show, replay and remove coresets.

A coreset's facts for a person, a line for each, and where its rows come from.

`coresetdb export`: write a coreset as a file that trainers read.

`coresetdb methods`: every way of choosing, by the name that `select --method` takes.

`coresetdb select`: choose rows for one or more targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.errors import UsageError
from .options import (
    json_option,
    open_database,
    overwrite_option,
    print_json,
    store_argument,
    table,
    talk,
)

if TYPE_CHECKING:
    from ..query.coresets import Coreset
    from ..query.export import Exported


def lines(coreset: Coreset) -> list[str]:
    """Name and size, how it was made, its distances, its corpora, what its rules did."""
    asked = f" for {', '.join(coreset.targets)}" if coreset.targets else ""
    shown = [f"Coreset {coreset.name}: {len(coreset):,} rows by {coreset.method}{asked}", ""]
    named = list(_facts(coreset))
    room = max(len(name) for name, _ in named)
    shown += [f"  {name.ljust(room)}  {value}" for name, value in named]
    if coreset.mix and len(coreset):
        shown += ["", table(_corpora(coreset))]
    return [*shown, *([""] if coreset.notes else []), *coreset.notes]


def _facts(coreset: Coreset) -> Iterator[tuple[str, str]]:
    """What was asked, what it was asked of, and what came out, in words."""
    parameters = coreset.parameters
    yield "created", f"{coreset.created_at:%Y-%m-%d %H:%M} UTC, by {parameters['code_version']}"
    yield "pool", f"version {coreset.pool_version}, {coreset.eligible:,} rows eligible"
    if coreset.filter:
        yield "filter", coreset.filter
    yield from _rules(parameters.get("rules", {}).get("asked", {}))
    yield "budget", _budget(coreset)
    options = parameters["options"] | parameters["asked"]
    if options:
        yield "options", ", ".join(f"{name}={value}" for name, value in options.items())
    if found := parameters.get("approximate"):
        yield "found by", f"index {found['index']}, with a recall of {found['recall']:.1%}"
    yield "seed", str(coreset.seed)
    if coreset.fingerprint:
        yield "feature", f"{parameters['representation']}, recipe {coreset.fingerprint}"
    if parameters["missing"]:
        yield "left out", f"{parameters['missing']:,} eligible rows that lack the feature"
    if coreset.distance is not None:
        yield "distance", f"{coreset.distance:.4f}, mean over the examples of 1 - nearest cosine"
    if coreset.mmd is not None:
        yield "MMD", f"{coreset.mmd:.4f}, between the examples and the rows, by the cosine"


def _rules(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rules as they were asked for, those that ask for nothing left out."""
    for name, value in asked.items():
        named = [_named(each) for each in value] if isinstance(value, list) else [_named(value)]
        if value not in (None, []):
            yield name.replace("_", " "), ", ".join(named)


def _named(value: Any) -> str:
    """An evaluation by its name and a coreset by its own, with their sizes."""
    if not isinstance(value, dict):
        return str(value)
    name = value.get("name") or value.get("coreset")
    counted = [f"{value[what]:,} {what}" for what in ("examples", "rows") if what in value]
    return f"{name} ({', '.join(counted)})" if counted else str(name)


def _budget(coreset: Coreset) -> str:
    used = coreset.parameters["tokens"]
    said = coreset.budget if used is None else f"{coreset.budget}, of which {used:,} are used"
    if not coreset.short_by:
        return said
    unit = "tokens" if used is not None else "rows"
    return f"{said}; short by {coreset.short_by:,} {unit}, because the eligible rows ran out"


def _corpora(coreset: Coreset) -> list[dict[str, object]]:
    total = sum(share.pool for share in coreset.mix)
    return [
        {
            "corpus": share.corpus,
            "picked": share.picked,
            "of the picks": f"{share.picked / len(coreset):.1%}",
            "in the pool": share.pool,
            "of the pool": f"{share.pool / total:.1%}",
        }
        for share in coreset.mix
        if share.picked
    ]


def facts(coreset: Coreset) -> dict[str, Any]:
    """A coreset as JSON values: how it was made, where its rows come from, and their ids."""
    mix = [asdict(share) for share in coreset.mix]
    return {
        **coreset.row(),
        "parameters": coreset.parameters,
        "created_at": coreset.created_at.isoformat(),
        "mmd": coreset.mmd,
        "mix": mix,
        "notes": list(coreset.notes),
        "ids": coreset.ids,
    }


@click.group(short_help="List, show, replay and remove coresets.")
def coreset_command() -> None:
    """Coresets: selections that were made, with everything needed to repeat them."""


@coreset_command.command("list", short_help="List the coresets.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the coresets, the newest last.

    \b
        coresetdb coreset list pool
    """
    coresets = open_database(store).coreset_list()
    if as_json:
        print_json(coresets)
    elif coresets:
        shown = ({**row, "targets": ", ".join(row["targets"])} for row in coresets)
        click.echo(table([{**row, "created": row["created"][:16]} for row in shown]))
    else:
        talk(f"No coresets yet. Next: coresetdb select {quote(store)} TARGET")


@coreset_command.command("show", short_help="Show a coreset's facts and where its rows come from.")
@store_argument
@click.argument("name")
@json_option
def show(store: str, name: str, as_json: bool) -> None:
    """Show how coreset NAME was made and where its rows come from.

    \b
        coresetdb coreset show pool gsm8k-rds-round_robin-1
    """
    coreset = open_database(store).coreset(name)
    if as_json:
        print_json(facts(coreset))
    else:
        click.echo("\n".join(lines(coreset)))
        talk(
            f"Next: coresetdb explain {quote(store)} {name} 1, or "
            f"coresetdb coreset replay {quote(store)} {name}"
        )


@coreset_command.command("replay", short_help="Prove that a coreset comes out again.")
@store_argument
@click.argument("name")
@click.option(
    "--memory", default="4GiB", show_default=True, help="What the selection may plan for."
)
def replay(store: str, name: str, memory: str) -> int:
    """Select again as coreset NAME was selected and compare the ids, one by one.

    \b
        coresetdb coreset replay pool gsm8k-rds-round_robin-1
    """
    replayed = open_database(store).replay(name, memory_limit=memory)
    for note in replayed.notes:
        talk(note)
    if replayed.same:
        click.echo(f"{name}: the same {len(replayed.ids):,} ids come out, in the same order.")
        return 0
    click.echo(f"{name}: other ids come out, from rank {replayed.first_difference} on.")
    return 1


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


FORMATS = ("messages", "prompt-completion", "alpaca", "sharegpt")


def told(exported: Exported) -> list[str]:
    """What was written and what the format says otherwise, a sentence each."""
    sentences = [f"{exported.out}: {exported.rows:,} rows"]
    sentences += [f"  left out, {why}: {rows:,}" for why, rows in exported.left_out.items()]
    sentences += [f"  {what}: {rows:,} rows" for what, rows in exported.remarks.items()]
    return sentences + [f"  beside it: {file}" for file in exported.files[1:]]


@click.command(short_help="Write a coreset for a trainer.")
@store_argument
@click.argument("coreset")
@click.option("--out", required=True, metavar="FILE", help="Where to write (.jsonl or .parquet).")
@click.option(
    "--format",
    "format_",
    default="messages",
    show_default=True,
    type=click.Choice(FORMATS),
)
@click.option("--no-shuffle", is_flag=True, help="Rows by rank instead of shuffled.")
@click.option("--seed", type=int, help="Of the shuffling; the coreset's otherwise.")
@click.option("--skip-unfit", is_flag=True, help="Leave out rows that the format cannot hold.")
@overwrite_option
@json_option
def export_command(
    store: str,
    coreset: str,
    out: str,
    format_: str,
    no_shuffle: bool,
    seed: int | None,
    skip_unfit: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write CORESET to a file, with a manifest and trainer snippets beside it.

    An earlier export of that name is replaced; any other file only by --overwrite.

    \b
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.jsonl
        coresetdb export pool gsm8k-rds-round_robin-1 --out gsm8k.parquet --format alpaca
    """
    exported = open_database(store).export(
        coreset,
        out,
        format=format_,
        shuffle=not no_shuffle,
        seed=seed,
        skip_unfit=skip_unfit,
        overwrite=overwrite,
    )
    if as_json:
        print_json(asdict(exported))
    else:
        click.echo("\n".join(told(exported)))


@click.command(short_help="List the methods, and what each needs.")
@click.argument("store", metavar="[STORE]", required=False)
@json_option
def methods_command(store: str | None, as_json: bool) -> None:
    """List every method, what it needs and its paper; with STORE also whether it can answer now.

    Methods that have a name of their own come first, then pairs of a representation and a selector.
    Where something is missing, the last column has the command that helps.

    \b
        coresetdb methods
        coresetdb methods pool
    """
    from ..query.method_list import list_methods

    found = open_database(store).methods() if store else list_methods()
    if as_json:
        print_json([each.as_dict() for each in found])
        return
    click.echo(str(found))
    talk("Options stand in parentheses, as in rds:top(by=max): docs/selectors.md has them.")


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
