"""The command line: one module per command, loaded only when that command is called.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ..schemas.errors import CoresetDBError
from ..schemas.version import VERSION

COMMANDS = (
    "init",
    "plan",
    "fit",
    "ingest",
    "featurize",
    "drop-feature",
    "status",
    "verify",
    "compact",
    "index",
    "target",
    "methods",
    "select",
    "coreset",
    "explain",
    "compare",
    "export",
    "score",
    "sql",
    "demo",
    "completion",
)
"""Module names under cli/ (with underscores there); each holds a click command `command`."""

INTERRUPTED = 130


class Commands(click.Group):
    """Finds commands by module name, so that `--help` imports nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"..{cmd_name.replace('-', '_')}", __name__).command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="coresetdb")
def commands() -> None:
    """Choose which instruction data to fine-tune on.

    A pool of candidate instructions is featurized once; every new target task is then answered
    from the store. The store always comes first:

    \b
        coresetdb init pool
        coresetdb ingest pool data/*.jsonl
        coresetdb target add pool gsm8k examples.jsonl
        coresetdb select pool gsm8k --budget 1000 --out coreset.jsonl
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in a sentence, not in a traceback."""
    try:
        code = commands.main(arguments, prog_name="coresetdb", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except CoresetDBError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe has gone; stdout must not be flushed into it again at exit.
        sys.stdout = None
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
