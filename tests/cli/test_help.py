"""Help is light, complete, and every command shows how it is used."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from coresetdb.cli.main import COMMANDS, commands

HEAVY = ("torch", "transformers", "lance", "lancedb", "pyarrow", "duckdb", "polars", "numpy")


def every_command() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(commands)
    for name in COMMANDS:
        command = commands.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {child}": each for child, each in command.commands.items()}
    return found


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from coresetdb.cli.main import commands\n"
        "commands.main(['--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
    assert all(name in ran.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(every_command()))
def test_every_command_explains_itself(name: str):
    command = every_command()[name]
    assert command.help
    if not isinstance(command, click.Group):
        assert f"coresetdb {name}" in command.help, "an example in the help"
        assert command.short_help


def test_every_command_is_in_the_readme_or_the_docs(repository):
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    missing = [name for name in every_command() if f"coresetdb {name}" not in text]
    assert not missing
