"""`coresetdb evaluate`: train a model on coresets and their controls, and compare them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..schemas.plain_text import count_of, text_table
from .options import (
    ShownProgress,
    all_of,
    evaluation_options,
    json_option,
    memory_option,
    open_database,
    print_json,
    print_result,
    print_text,
    store_argument,
    talk,
    where_option,
)

if TYPE_CHECKING:
    from ..evaluation.results import StudyResult
    from ..evaluation.running import Forecast


class RunByDefault(click.Group):
    """A group that takes a first word which is no command as the store to `run` on."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=RunByDefault)
def evaluate_command() -> None:
    """Find out whether a coreset trains a better model than random rows.

    \b
        coresetdb evaluate pool gsm8k --eval test.jsonl --methods rds,less --budgets 250,1000
        coresetdb evaluate list pool
        coresetdb evaluate show pool gsm8k-1a2b3c4d --out report.html

    A call that was killed goes on where it stopped: give it again.
    """


def study_options(command: Any) -> Any:
    """Add the options that every study has: what it is measured on, and how models are trained."""
    return all_of(
        click.option(
            "--eval",
            "evaluation",
            multiple=True,
            required=True,
            metavar="FILE",
            help="Examples with answers, which no arm is trained on; may be repeated.",
        ),
        click.option(
            "--match",
            type=click.Choice(["rows", "tokens"]),
            default="rows",
            show_default=True,
            help="Give arms equal rows, or the tokens of so many average rows.",
        ),
        click.option(
            "--metrics",
            default="",
            metavar="NAME,...",
            help="loss, exact_match, choice, choice_likelihood; by default what the examples "
            "allow.",
        ),
        where_option,
        click.option(
            "--limit", type=click.IntRange(min=1), help="Measure on the first so many examples."
        ),
        click.option("--model", help="Hugging Face name or folder; by default the store's model."),
        click.option(
            "--lora", default=16, show_default=True, metavar="RANK", help="Train adapters."
        ),
        click.option("--full", is_flag=True, help="Train every weight instead of adapters."),
        click.option("--epochs", default=2, show_default=True, help="Passes over the rows."),
        click.option(
            "--learning-rate",
            type=float,
            help="By default 2e-4 for adapters, 2e-5 for every weight.",
        ),
        click.option("--batch", default=8, show_default=True, help="Rows of a step."),
        click.option("--max-length", default=512, show_default=True, help="Tokens of a row."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="Of the model's weights.",
        ),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps."),
        click.option(
            "--name", help="Of the study; by default the target and a digest of the settings."
        ),
        click.option(
            "--plan",
            "forecast_only",
            is_flag=True,
            help="Say what it would take and could find, then stop.",
        ),
        memory_option("a selection"),
        json_option,
        evaluation_options,
    )(command)


@evaluate_command.command("run", short_help="Train and measure the arms of a study.")
@store_argument
@click.argument("target")
@click.option(
    "--methods", default="rds", show_default=True, metavar="METHOD,...", help="To be compared."
)
@click.option("--budgets", default="1000", show_default=True, metavar="ROWS,...", help="Of an arm.")
@click.option(
    "--controls",
    default="",
    metavar="NAME,...",
    help="By default zero-shot,random,length_matched (and oracle,worst with --relevant); "
    "source_balanced and full as well.",
)
@click.option("--seeds", default=3, show_default=True, help="Trainings of each arm.")
@click.option("--relevant", metavar="SQL", help="Rows known to be relevant, for the arm oracle.")
@click.option("--tasks", default="", metavar="NAME,...", help="Of lm-evaluation-harness, as well.")
@click.option("--task-folder", metavar="FOLDER", help="Of task definitions for --tasks.")
@study_options
def run(store: str, target: str, **options: Any) -> None:
    """Train a model on rows for TARGET by each method and control, and measure it on FILE.

    Every arm is trained with several seeds, and every example measured, so differences come with
    intervals. Before the first training stands what difference could be found, and how long it
    takes.

    The word run may be left out.

    \b
        coresetdb evaluate run pool gsm8k --eval test.jsonl --methods rds,less --budgets 250
        coresetdb evaluate pool gsm8k --eval test.jsonl --methods rds --plan
        coresetdb evaluate pool mbpp --eval test.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct
    """
    database = open_database(store)
    _run(store, partial(database.evaluate, target), **options)


@click.command()
@store_argument
@click.argument("target")
@click.option(
    "--feature",
    "--method",
    "method",
    default="less",
    show_default=True,
    metavar="METHOD",
    help="That orders the pool.",
)
@click.option("--bins", default=10, show_default=True, help="Into which the pool is cut.")
@click.option("--budget", default=250, show_default=True, help="Rows drawn from a bin.")
@click.option("--seeds", default=1, show_default=True, help="Trainings of each bin.")
@study_options
def quantiles_command(store: str, target: str, **options: Any) -> None:
    """Train a model on rows of each bin of a ranking of the pool for TARGET.

    Where nearness means something for training, the loss rises from bin to bin: the Spearman
    correlation of bin and metric stands below each table. A study like those of evaluate, which
    lists, shows and removes it.

    \b
        coresetdb quantiles pool gsm8k --eval test.jsonl --feature less
        coresetdb quantiles pool gsm8k --eval test.jsonl --feature rds:top --budget 100
    """
    database = open_database(store)
    _run(store, partial(database.quantiles, target), **options)


def _run(
    store: str,
    study: Callable[..., StudyResult | Forecast],
    evaluation: tuple[str, ...],
    lora: int,
    full: bool,
    memory: str,
    as_json: bool,
    reading: dict[str, Any],
    **settings: Any,
) -> None:
    """Run a study with its progress shown, and print what it found."""
    with ShownProgress() as progress:
        result = study(
            list(evaluation),
            lora=0 if full else lora,
            memory_limit=memory,
            progress=progress,
            **settings,
            **reading,
        )
    print_result(result, as_json)
    if not settings["forecast_only"]:
        talk(f"Next: coresetdb evaluate show {quote(store)} {result.name} --out report.html")


@evaluate_command.command("list", short_help="List the studies of a store.")
@store_argument
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the studies of a store: target, model, arms measured so far.

    \b
        coresetdb evaluate list pool
    """
    studies = open_database(store).list_studies()
    if as_json:
        print_json(studies)
    elif studies:
        print_text(text_table(studies))
    else:
        talk(f"No studies yet. Next: coresetdb evaluate {quote(store)} TARGET --eval FILE")


@evaluate_command.command("show", short_help="Show what a study found.")
@store_argument
@click.argument("study")
@click.option("--out", metavar="FILE.html", help="Write a report that needs no store.")
@json_option
def show(store: str, study: str, out: str | None, as_json: bool) -> None:
    """Show what STUDY found so far, with intervals and verdicts.

    \b
        coresetdb evaluate show pool gsm8k-1a2b3c4d
        coresetdb evaluate show pool gsm8k-1a2b3c4d --out report.html
    """
    result = open_database(store).open_study(study)
    if out is not None:
        from ..reports.study import write_study

        write_study(result, out)
        talk(f"{out}: written.")
    if as_json or out is None:
        print_result(result, as_json)


@evaluate_command.command("remove", short_help="Remove a study.")
@store_argument
@click.argument("study")
def remove(store: str, study: str) -> None:
    """Remove the measurements of STUDY; the coresets of its arms stay.

    \b
        coresetdb evaluate remove pool gsm8k-1a2b3c4d
    """
    rows = open_database(store).remove_study(study)
    talk(f"{study}: removed {count_of(rows, 'measurement')}.")
