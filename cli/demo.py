"""`coresetdb demo`: ingest a real pool, select for two targets, and say what to type next."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from shlex import quote

import click

from ..schemas.plain_text import text_table
from .coreset_output import first_rows
from .options import ShownProgress, open_database, print_text, talk

DATA = Path(__file__).parent.parent / "demo"
TARGETS = ("grade_school_math", "python_functions")
BUDGET = 150
ROWS_SHOWN = 3

SOURCES_OF_PICKS = """
    SELECT p.source AS source, count(*) AS "in the pool", count(c.id) AS "picked"
    FROM pool p
    LEFT JOIN (SELECT id FROM coreset_rows WHERE coreset = '{coreset}') c ON c.id = p.id
    GROUP BY ALL ORDER BY "picked" DESC, "in the pool" DESC LIMIT 6
"""


@click.command()
@click.argument("folder", default="coresetdb-demo", required=False)
def demo_command(folder: str) -> None:
    """Ingest 3,000 sample rows into FOLDER/pool and select 150 of them for each of two targets.

    Run it again to resume: nothing is featurized twice.

    \b
        coresetdb demo
    """
    from .. import create
    from ..schemas.errors import StoreNotFoundError, UsageError

    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be created: {error.strerror}. Choose another name"
        ) from error
    started = time.monotonic()
    store = f"{folder}/pool"
    try:
        database = open_database(store)
    except StoreNotFoundError:
        _print_command(f"coresetdb init {quote(store)}")
        create(store)
        database = open_database(store)
    sample = os.path.relpath(DATA / "pool.jsonl.gz")
    _print_command(f"coresetdb ingest {quote(store)} {quote(sample)} --corpus sample")
    with ShownProgress() as progress:
        account = database.ingest(sample, corpus="sample", progress=progress)
    print_text(str(account))
    present = {target.name for target in database.list_targets()}
    coresets = []
    for target in TARGETS:
        if target not in present:
            examples = os.path.relpath(DATA / f"{target}.jsonl")
            _print_command(f"coresetdb target add {quote(store)} {target} {quote(examples)}")
            print_text(str(database.add_target(target, examples)))
        out = f"{folder}/{target}.jsonl"
        _print_command(
            f"coresetdb select {quote(store)} {target} --budget {BUDGET} --out {quote(out)}"
        )
        before = time.monotonic()
        coreset = database.select(target, budget=BUDGET)
        database.export(coreset, out)
        seconds = time.monotonic() - before
        print_text(f"{len(coreset)} rows in {seconds:.1f} s, no model run. Where they come from:\n")
        picks = database.sql(SOURCES_OF_PICKS.format(coreset=coreset.name))
        print_text(text_table(picks.read_all().to_pylist()))
        print_text("\n" + first_rows(coreset, ROWS_SHOWN))
        coresets.append(coreset.name)
    talk(_next_steps(store, folder, coresets[0], time.monotonic() - started))


def _print_command(line: str) -> None:
    print_text(f"\n$ {line}")


def _next_steps(store: str, folder: str, coreset: str, seconds: float) -> str:
    called = "coresetdb" if shutil.which("coresetdb") else os.path.relpath(sys.argv[0])
    return f"""
Done in {seconds:.0f} s. {folder}/{TARGETS[0]}.jsonl is ready for a trainer, for instance
    SFTTrainer(model, train_dataset=load_dataset("json", data_files="{folder}/{TARGETS[0]}.jsonl"))

Try next:
    {called} explain {store} {coreset} 1
    {called} status {store}
    {called} sql {store} "SELECT source, avg(ifd) FROM pool GROUP BY ALL ORDER BY 2"
    {called} select {store} {TARGETS[0]} --budget 5% --where "source <> 'gsm8k'"
    {called} ingest {store} YOUR_DATA.jsonl"""
