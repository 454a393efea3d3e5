"""`coresetdb completion`: the script that teaches a shell to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
        eval "$(coresetdb completion bash)"
        coresetdb completion fish > ~/.config/fish/completions/coresetdb.fish
    """
    from .main import commands

    script = get_completion_class(shell)
    assert script is not None, shell
    click.echo(script(commands, {}, "coresetdb", "_CORESETDB_COMPLETE").source())
