"""The command line: one module per group of commands, loaded only when one of them is called.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ..schemas.errors import CoresetDBError
from ..schemas.version import VERSION

COMMANDS = {
    "init": "pool",
    "plan": "pool",
    "fit": "pool",
    "ingest": "pool",
    "featurize": "pool",
    "drop-feature": "pool",
    "status": "maintenance",
    "verify": "maintenance",
    "compact": "maintenance",
    "index": "maintenance",
    "target": "target",
    "methods": "coreset",
    "select": "coreset",
    "coreset": "coreset",
    "explain": "explain",
    "compare": "explain",
    "export": "coreset",
    "score": "score",
    "sql": "sql",
    "demo": "demo",
    "completion": "maintenance",
}
"""The module under cli/ that holds each command, in the order of `--help`."""

INTERRUPTED = 130


class Commands(click.Group):
    """Loads the module of a command only when it is called, so `--help` stays light."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"..{COMMANDS[cmd_name]}", __name__)
        return getattr(module, f"{cmd_name.replace('-', '_')}_command")


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
