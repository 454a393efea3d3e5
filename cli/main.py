"""The command line: one module per group of commands, loaded only when one of them is called.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

from __future__ import annotations

import importlib
import io
import logging
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..schemas.child_process import search_less_for_garbage
from ..schemas.errors import AmbiguousFormatError, CoresetDBError, UsageError
from ..schemas.plain_text import first_line, safe, said_by_lance
from ..schemas.version import VERSION
from .options import talk
from .store_argument import HELP, StoreArgument

COMMANDS = {
    "init": ("pool", "Create an empty store."),
    "plan": ("pool", "Estimate what an ingestion will cost."),
    "fit": ("pool", "Fit what features need to a sample of files."),
    "ingest": ("pool", "Read files into the pool."),
    "featurize": ("pool", "Add features to the rows of a pool."),
    "feature": ("pool", "List and remove features."),
    "backbone": ("pool", "Show a store's model, or say where it was moved."),
    "remove": ("removal", "Take rows out of a pool."),
    "restore": ("removal", "Put removed rows back."),
    "purge": ("removal", "Forget removed rows for good."),
    "corpus": ("removal", "List and rename corpora."),
    "annotate": ("annotation", "Attach columns of a file to the rows of a pool."),
    "annotation": ("annotation", "List and remove annotations."),
    "vectors": ("annotation", "Make vectors from elsewhere a feature."),
    "dedup": ("duplicates", "Find near-duplicates in a pool."),
    "leaks": ("duplicates", "Find rows that give a benchmark away."),
    "status": ("maintenance", "Describe what a store holds."),
    "verify": ("maintenance", "Check a store's files, and repair them."),
    "compact": ("maintenance", "Merge small fragments, delete old versions."),
    "index": ("maintenance", "Create, list and remove vector indices."),
    "target": ("target", "Add, list, copy and remove targets."),
    "methods": ("coreset", "List the methods, and what each needs."),
    "select": ("coreset", "Choose rows for targets."),
    "coreset": ("coreset", "List, show, replay, import and remove coresets."),
    "explain": ("explain", "Explain why a row is in a coreset."),
    "compare": ("explain", "Compare two coresets."),
    "report": ("report", "Write a report on a coreset or a pool as HTML."),
    "export": ("coreset", "Write a coreset to a file for a trainer."),
    "score": ("score", "Score every row for a target."),
    "evaluate": ("evaluate", "Train on coresets, and compare what models learn."),
    "quantiles": ("evaluate", "Train on each bin of a ranking."),
    "transfer": ("score", "Score targets' examples for one another."),
    "sql": ("sql", "Ask a store anything in SQL."),
    "explore": ("explore", "Look at a pool in the browser."),
    "demo": ("demo", "Ingest a sample and select from it."),
    "completion": ("maintenance", "Print a shell's completion script."),
}
"""Command -> the module under cli/ that holds it, and its line in `--help`; in that order."""

INTERRUPTED = 130

GO_ON = ("demo", "fit", "ingest", "featurize", "evaluate", "quantiles")
"""Commands that take up what an interrupted run of theirs has kept."""

READING = ("list", "show")
"""Words after them that make them commands that only read."""


class Commands(click.Group):
    """A group that loads a command's module when it is called; `--help` loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name, short_help = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"..{name}", __name__), f"{cmd_name}_command")
        command.short_help = short_help
        for each in command.commands.values() if isinstance(command, click.Group) else [command]:
            if any(isinstance(param, StoreArgument) for param in each.params):
                each.epilog = HELP
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:  # click would suggest only commands that are loaded
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # nobody reads on, as after `| head`: it is done (click exits here)
            from ..store import underway

            underway.finish()
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="coresetdb")
def commands() -> None:
    """Choose which instruction data to fine-tune on.

    A pool of candidate instructions is featurized once; every new target task is then answered
    from the store, which is always the first argument:

    \b
        coresetdb init pool
        coresetdb ingest pool data/*.jsonl
        coresetdb target add pool gsm8k examples.jsonl
        coresetdb select pool gsm8k --budget 1000 --out coreset.jsonl

    Where the environment variable CORESETDB_STORE names a store, it may be left out.
    """


def _show_control_characters() -> None:
    """Let warnings, and errors that nobody expected, reach a terminal as other output does."""

    class Safe(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return safe(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Safe())
    warnings.showwarning = lambda message, category, filename, lineno, *_: talk(
        warnings.formatwarning(message, category, filename, lineno).rstrip("\n")
    )
    sys.excepthook = lambda *error: talk("".join(traceback.format_exception(*error)).rstrip("\n"))


@contextmanager
def _trace(words: list[str]) -> Iterator[None]:
    """Let the command be known if it is killed after its commit."""
    from ..store import underway

    underway.set_command(words)
    try:
        yield
    except KeyboardInterrupt:
        raise  # as after a kill
    except UsageError:
        raise  # `_was_done` looks at the trace first
    except BaseException:
        underway.finish(broken_off=True)
        raise
    else:
        underway.finish()


def _was_done(error: UsageError) -> bool:
    """Whether the same command was killed after its commit, so that nothing is left to do."""
    from ..store import underway

    done = underway.was_killed()
    underway.finish(broken_off=True)
    if done:
        talk(f"Done already: this command was killed after its commit ({error})")
    return done


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in a sentence, not in a traceback."""
    if arguments is None:  # the process is ours
        if sys.argv[1:2] != ["explore"]:  # which serves for hours
            search_less_for_garbage()
        _show_control_characters()
    try:
        with _trace(sys.argv[1:] if arguments is None else arguments):
            code = commands.main(arguments, prog_name="coresetdb", standalone_mode=False)
    except click.ClickException as error:
        sentence = io.StringIO()
        error.show(sentence)
        talk(sentence.getvalue().rstrip("\n"))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        words = sys.argv[1:] if arguments is None else arguments
        resumes = bool(words) and words[0] in GO_ON and not set(words[1:2]) & set(READING)
        talk(f"Interrupted.{' To go on, run the same command again.' if resumes else ''}")
        sys.exit(INTERRUPTED)
    except CoresetDBError as error:
        if isinstance(error, UsageError) and _was_done(error):
            sys.exit(0)
        talk(f"Error: {error}")
        if isinstance(error, AmbiguousFormatError) and error.options:
            typed = sys.argv[1:] if arguments is None else arguments
            talk(f"Type: {shlex.join(['coresetdb', *typed])} {error.options}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe has gone; stdout must not be flushed into it again at exit.
        sys.stdout = None
        sys.exit(0)
    except BaseException as error:
        if not said_by_lance(error):
            raise
        talk(  # Lance gave up on something that this package reads without a guard
            f"Error: Lance failed: {first_line(error)}. If it fails again, check the store: "
            "coresetdb verify STORE --full"
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
