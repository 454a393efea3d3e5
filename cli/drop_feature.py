"""`coresetdb drop-feature`: remove a feature from a store."""

from __future__ import annotations

from shlex import quote

import click

from .frame import open_database, store_argument, talk


@click.command(short_help="Remove a feature.")
@store_argument
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when coresets were made with it.")
def drop_feature_command(store: str, name: str, force: bool) -> None:
    """Remove the feature NAME: its columns in pool and targets, and its recipe.

    Old versions keep it until they are cleaned away; those that coresets were chosen from stay.

    \b
        coresetdb drop-feature pool losses
    """
    recipe = open_database(store).drop_feature(name, force=force)
    if recipe is None:
        talk(f"{store}: {name} was not fitted yet; it is no longer waited for.")
        return
    talk(f"{store}: {name} is dropped ({', '.join(recipe.columns)}).")
    talk(f"Its bytes go with the versions that hold them: coresetdb compact {quote(store)}")
