"""`kill -9` at random moments of an evaluation: what is kept, and what is trained again.

    python benchmarks/killed_study.py [--kills 10] [--seed 0] [--json OUT]

A small evaluation of the built-in proxy (made-up questions with one answer among rows of the demo,
two methods, five seeds) runs once undisturbed, and again, killed at random moments between its
start and half again the time after which its first arm was done. Prints for each kill the arms that
this run had said to be done, and how many are kept in all. Fails where one that was said is not
kept, is trained again, or has other values in the end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from report import write_report

import coresetdb

WORDS = "mast lamp crow salt pine drum fern gate husk iron jade kite loom moss nest oar".split()
DONE = re.compile(r"^\d+ of \d+: (.+?): loss ", re.MULTILINE)
STUDY = (
    "--methods rds,rds:top --controls zero-shot,random,worst --budgets 24 --seeds 5 --epochs 3 "
    "--max-length 128 --metrics loss --name killed"
).split()


def question(word: str, turn: int) -> dict[str, str]:
    """A question whose right answer is always the same word."""
    pair = ["dorin", word] if turn % 2 else [word, "dorin"]
    return {"prompt": "Choose.\n" + "\n".join(f"- {each}" for each in pair), "response": "dorin"}


def make_store(folder: Path) -> None:
    """A store of questions and of short rows of the demo, and the file to measure on."""
    sample = Path(__file__).resolve().parents[1] / "demo" / "pool.jsonl.gz"
    with gzip.open(sample, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    short = [row for row in rows if sum(len(turn["content"]) for turn in row["messages"]) < 200]
    db = coresetdb.create(folder / "pool", features="rds", max_length=128)
    db.ingest([question(f"{word}{n}", n) for n in range(3) for word in WORDS[:12]], corpus="asked")
    db.ingest(random.Random(0).sample(short, 120), corpus="others")
    db.add_target("game", [question(word, n) for n, word in enumerate(WORDS[12:])])
    held_out = [question(f"{word}-{n}", n) for n in range(2) for word in WORDS]
    with open(folder / "eval.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in held_out)


def values(folder: Path) -> list[tuple[object, ...]]:
    """What was measured, by arm, seed and item."""
    rows = coresetdb.connect(folder / "pool").sql(
        "SELECT arm, seed, item, value FROM evaluations WHERE study = 'killed' ORDER BY ALL"
    )
    return rows.to_polars().rows()


def run(folder: Path, seconds: float | None = None) -> tuple[list[str], float, float]:
    """Run the evaluation, and kill it after so many seconds.

    Returns:
        The arms that it said to be done, when it said the first, and how long it took.
    """
    command = [str(Path(sys.executable).with_name("coresetdb")), "evaluate", "run"]
    command += [str(folder / "pool"), "game", "--eval", str(folder / "eval.jsonl"), *STUDY]
    start = time.monotonic()
    first = float("nan")
    log = folder / "said.txt"
    with open(log, "w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            now = time.monotonic() - start
            if seconds is not None and now >= seconds:
                process.kill()
            elif math.isnan(first) and DONE.search(log.read_text(encoding="utf-8")):
                first = now
            time.sleep(0.02)
    text = log.read_text(encoding="utf-8")
    if process.returncode > 0:
        raise SystemExit(text)
    return DONE.findall(text), first, time.monotonic() - start


def killed_runs(folder: Path, moments: Sequence[float]) -> Iterator[dict[str, object]]:
    """Kill the evaluation at these moments of its own time, then let it end; yield each run."""
    done: list[str] = []
    for moment in [*moments, None]:
        said, _, _ = run(folder, moment)
        if again := set(done) & set(said):
            raise SystemExit(f"trained again: {again}")
        done += said
        kept = len({row[:2] for row in values(folder)})
        if kept < len(done):
            raise SystemExit(f"{kept} arms are kept of {done}")
        yield {"killed after": moment, "arms said": len(said), "arms kept": kept}


def main() -> None:
    """Run the evaluation undisturbed and killed, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        whole.mkdir()
        make_store(whole)
        shutil.copytree(whole, killed)
        arms, first, seconds = run(whole)
        moments = [chance.uniform(0, 1.5 * first) for _ in range(options.kills)]
        runs = []
        for each in killed_runs(killed, moments):
            print(each, flush=True)
            runs.append(each)
        if values(killed) != values(whole):
            raise SystemExit("the values differ from those of the undisturbed run")
    print(f"undisturbed {seconds:.0f} s, first arm after {first:.0f} s; the same {len(arms)} arms")
    if options.json:
        write_report(
            options.json, "killed_study", {"seconds": seconds, "first": first, "runs": runs}
        )


if __name__ == "__main__":
    main()
