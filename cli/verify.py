"""`coresetdb verify`: hold a store's files against what was written, and repair them."""

from __future__ import annotations

import click

from .frame import json_option, print_json, store_argument, talk


@click.command(short_help="Check a store's files, and repair them.")
@store_argument
@click.option("--full", is_flag=True, help="Hash every file instead of comparing sizes.")
@click.option("--repair", is_flag=True, help="Bring back what can be brought back.")
@json_option
def verify_command(store: str, full: bool, repair: bool, as_json: bool) -> int:
    """Check that the files of STORE are what was written; exit 1 if any is not, or rows are lost.

    Plain: sizes and manifests. --full: a hash of every file, and whether every row that was seen
    is in the pool. --repair (implies --full): a torn manifest falls back one version, damaged rows
    are read from their source and featurized again.

    \b
        coresetdb verify pool --full
        coresetdb verify pool --repair
    """
    from ..upkeep import repair_store, verify_store

    report = repair_store(store, say=talk) if repair else verify_store(store, full=full)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo("\n".join(report.lines()))
    return 0 if report.ok else 1
