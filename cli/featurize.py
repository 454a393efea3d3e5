"""`coresetdb featurize`: add features to rows that are there already."""

from __future__ import annotations

import shlex
import sys

import click

from .frame import json_option, open_database, print_json, store_argument


@click.command(short_help="Add features to rows that are there already.")
@store_argument
@click.argument("features", default="", metavar="[FEATURES]")
@json_option
def featurize_command(store: str, features: str, as_json: bool) -> None:
    """Make FEATURES for every row and every target example of STORE that lacks them.

    FEATURES are comma-separated, with options as `init` takes them; without any, all features of
    the store are completed. Readers and ingestions go on meanwhile. Interrupted or killed, it goes
    on where it was when it is called again.

    \b
        coresetdb featurize pool losses
        coresetdb featurize pool rds,losses:alone=false
        coresetdb featurize pool
    """
    from .progress import ShownProgress

    with ShownProgress() as progress:
        account = open_database(store).featurize(
            features, progress=progress, command=shlex.join(["coresetdb", *sys.argv[1:]])
        )
    if as_json:
        print_json(account.as_dict())
    else:
        click.echo("\n".join(account.sentences()))
