"""`coresetdb demo`: a real pool ingested, two targets asked, and what to type next."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from shlex import quote

import click

from .options import table, talk
from .target import told

DATA = Path(__file__).parent.parent / "demo"
TARGETS = ("grade_school_math", "python_functions")
BUDGET = 150

WHERE_FROM = """
    SELECT p.source AS source, count(*) AS "in the pool", count(c.id) AS "picked"
    FROM pool p
    LEFT JOIN (SELECT id FROM coreset_rows WHERE coreset = '{coreset}') c ON c.id = p.id
    GROUP BY ALL ORDER BY "picked" DESC, "in the pool" DESC LIMIT 6
"""


@click.command(short_help="Ingest a sample and select from it.")
@click.argument("folder", default="coresetdb-demo", required=False)
def demo_command(folder: str) -> None:
    """Ingest 3,000 sample rows into FOLDER/pool and select 150 of them for each of two targets.

    Called again it goes on from what is there: nothing is featurized twice.

    \b
        coresetdb demo
    """
    from .. import connect, create
    from ..schemas.errors import StoreNotFoundError, UsageError
    from .options import ShownProgress

    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}. Name another") from error
    started = time.monotonic()
    store = f"{folder}/pool"
    try:
        database = connect(store)
    except StoreNotFoundError:
        _step(f"coresetdb init {quote(store)}")
        database = create(store)
    sample = os.path.relpath(DATA / "pool.jsonl.gz")
    _step(f"coresetdb ingest {quote(store)} {quote(sample)} --corpus sample")
    with ShownProgress() as progress:
        account = database.ingest(
            sample,
            corpus="sample",
            progress=progress,
            command="coresetdb demo",
        )
    click.echo("\n".join(account.sentences()))
    there = {target.name for target in database.targets()}
    for target in TARGETS:
        if target not in there:
            examples = os.path.relpath(DATA / f"{target}.jsonl")
            _step(f"coresetdb target add {quote(store)} {target} {quote(examples)}")
            added = database.add_target(target, examples)
            click.echo("\n".join(told(added)))
        out = f"{folder}/{target}.jsonl"
        _step(f"coresetdb select {quote(store)} {target} --budget {BUDGET} --out {quote(out)}")
        asked = time.monotonic()
        coreset = database.select(target, budget=BUDGET)
        database.export(coreset, out)
        seconds = time.monotonic() - asked
        click.echo(f"{len(coreset)} rows in {seconds:.1f} s, no model run. Where they come from:\n")
        rows = database.sql(WHERE_FROM.format(coreset=coreset.name)).read_all().to_pylist()
        click.echo(table(rows))
    talk(_next(store, folder, time.monotonic() - started))


def _step(line: str) -> None:
    click.echo(f"\n$ {line}")


def _next(store: str, folder: str, seconds: float) -> str:
    called = "coresetdb" if shutil.which("coresetdb") else os.path.relpath(sys.argv[0])
    return f"""
Done in {seconds:.0f} s. {folder}/{TARGETS[0]}.jsonl is ready for a trainer, for instance
    SFTTrainer(model, train_dataset=load_dataset("json", data_files="{folder}/{TARGETS[0]}.jsonl"))

Try next:
    {called} status {store}
    {called} sql {store} "SELECT source, avg(ifd) FROM pool GROUP BY ALL ORDER BY 2"
    {called} select {store} {TARGETS[0]} --budget 5% --where "source <> 'gsm8k'"
    {called} ingest {store} YOUR_DATA.jsonl"""
