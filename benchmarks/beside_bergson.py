"""Ingestion beside bergson's `build`, on the same model folder and rows, one after the other.

    python benchmarks/beside_bergson.py --bergson BIN/bergson --model FOLDER --data alpaca.json.gz
    python benchmarks/beside_bergson.py ... --dtype float32 --threads 1 --rounds 2
    python benchmarks/beside_bergson.py ... --workers 2        ours by workers too, sharing threads
    python benchmarks/beside_bergson.py ... --ours less        of ours that one alone

Bergson needs an environment of its own (`pip install bergson==2.5.1`, then `pip uninstall
torchvision torchaudio` where torch is the CPU build). Each run is a process by itself, with the
same number of threads, and takes turns with the others, so that a busy machine meets them all. Of
ours the time is that of featurizing, fits and the loading of the model apart; of bergson that of
collecting gradients, as its progress bar says, or of the whole command where it shows none. Prints
a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from one_pass import alpaca_rows
from report import write_report

OURS = {
    "less": "less",
    "forward-only": "rds,losses:alone=false,nait,mads,trim:sample=48",
    "fast": "fast,trim:bits=4:sample=48",
}
"""Label -> features that are ingested."""


@dataclass(frozen=True)
class Run:
    """One run: its seconds of work, and wall and CPU seconds of the whole process."""

    label: str
    seconds: float
    wall: float
    cpu: float


def timed(command: list[str], threads: int) -> tuple[str, float, float]:
    """Run a command; return what it printed, and its wall and CPU seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    before, start = os.times(), time.perf_counter()
    ran = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, os.times()
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}")
    cpu = after.children_user + after.children_system
    return ran.stdout, wall, cpu - before.children_user - before.children_system


def ours(
    label: str, rows: Path, folder: Path, options: argparse.Namespace, workers: int = 1
) -> Run:
    """Ingest into a new store whose fits were made from the first rows."""
    store = folder / f"store-{label}-{workers}"
    program = [str(Path(sys.executable).with_name("coresetdb"))]
    init = [*program, "init", str(store), "--backbone", options.model, "--features", OURS[label]]
    timed([*init, "--dtype", options.dtype], options.threads)
    if label != "less":
        timed([*program, "fit", str(store), str(folder / "fit.jsonl")], options.threads)
    ingest = [*program, "ingest", str(store), str(rows)]
    if workers > 1:
        ingest += ["--workers", str(workers)]
        label = f"{label}, {workers} workers"
    said, wall, cpu = timed(ingest, max(1, options.threads // workers))
    [seconds] = re.findall(r"tokens in ([\d.,]+) s", said)
    return Run(label, float(seconds.replace(",", "")), wall, cpu)


def bergson(rows: Path, folder: Path, options: argparse.Namespace) -> Run:
    """Build bergson's index of projected gradients."""
    command = [options.bergson, "build", str(folder / "index"), "--overwrite", "true"]
    command += ["--model", options.model, "--dataset", str(rows)]
    command += ["--conversation_column", "messages"]  # so that both render the chat template
    command += ["--precision", {"bfloat16": "bf16", "float32": "fp32"}[options.dtype]]
    command += ["--projection_dim", "16", "--truncation", "true", "--nproc_per_node", "1"]
    said, wall, cpu = timed(command, options.threads)
    bars = re.findall(r"(\d+)/\1 \[(?:(\d+):)?(\d+):(\d+)<[^\]]*it", said)  # the whole of a bar
    seconds = max(
        (
            3600 * int(hours or 0) + 60 * int(minutes) + int(rest)
            for _, hours, minutes, rest in bars
        ),
        default=wall,
    )
    return Run("bergson build", seconds, wall, cpu)


def main() -> None:
    """Take turns, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bergson", required=True, help="its command, in an environment of its own"
    )
    parser.add_argument("--model", required=True, help="a model folder that both load")
    parser.add_argument("--data", type=Path, required=True, help="Alpaca-style JSON")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=1, help="ours once more by so many")
    parser.add_argument("--ours", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", default="beside_bergson.json")
    options = parser.parse_args()
    runs: list[Run] = []
    for round in range(options.rounds):
        with TemporaryDirectory() as place:
            folder = Path(place)
            chosen = [
                {"messages": [turn.as_dict() for turn in row.messages]}
                for row in alpaca_rows(options.data, options.rows, round)
            ]
            rows, fit = folder / "rows.jsonl", folder / "fit.jsonl"
            rows.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
            fit.write_text("".join(json.dumps(row) + "\n" for row in chosen[:48]), encoding="utf-8")
            runs.append(bergson(rows, folder, options))
            print(runs[-1], file=sys.stderr, flush=True)
            for workers in sorted({1, options.workers}):
                for label in options.ours:
                    runs.append(ours(label, rows, folder, options, workers))
                    print(runs[-1], file=sys.stderr, flush=True)
    print(f"\n{options.rows} rows, {options.dtype}, {options.threads} threads, best of rounds\n")
    print("| what | work, s | whole process, s | CPU, s |\n|---|---|---|---|")
    for label in dict.fromkeys(run.label for run in runs):
        best = min((run for run in runs if run.label == label), key=lambda run: run.seconds)
        print(f"| {label} | {best.seconds:.1f} | {best.wall:.1f} | {best.cpu:.1f} |")
    facts = {"options": {k: str(v) for k, v in vars(options).items()}}
    write_report(options.json, "beside_bergson", facts | {"runs": [asdict(run) for run in runs]})


if __name__ == "__main__":
    main()
