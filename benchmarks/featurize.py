"""Tokens per second of the featurizer beside a bare forward of the same rows, in the same run.

    python benchmarks/featurize.py [--backbone builtin] [--rows 256] [--dtype auto] [--out FILE]

Rows are made up, their lengths drawn as in Alpaca (median about 110 tokens); `--data FILE` takes
Alpaca-style JSON (.gz) instead. Bare forwards get the same padded batches, made beforehand; the
featurizer starts from text. Times are the best of
several rounds taken in turns. Prints a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import coresetdb
from coresetdb.ingest.backbone import Backbone, BackboneConfig
from coresetdb.ingest.batch import Batch, make_batch
from coresetdb.ingest.batching import plan_batches
from coresetdb.ingest.encoding import Encoded
from coresetdb.ingest.featurizer import TOKENS_PER_BATCH_CPU, Featurizer
from coresetdb.ingest.representations.registry import parse_features
from coresetdb.schemas.instruction import Instruction

WORDS = "the of a model data row that is and for with how many answer list name number".split()
FEATURE_SETS = {
    "rds": "rds",
    "rds + losses, one forward": "rds,losses:alone=false",
    "rds + losses with IFD": "rds,losses",
}


def made_up_rows(count: int, seed: int) -> list[Instruction]:
    """Rows of random words; prompt and answer lengths are log-normal."""
    draw = random.Random(seed)

    def text(median: int) -> str:
        words = max(1, min(800, round(draw.lognormvariate(0, 0.9) * median)))
        return " ".join(draw.choice(WORDS) for _ in range(words))

    return [
        Instruction.from_turns(("user", text(20)), ("assistant", text(45))) for _ in range(count)
    ]


def alpaca_rows(path: Path, count: int, seed: int) -> list[Instruction]:
    """A seeded sample of an Alpaca-style JSON array."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        records = [record for record in json.load(file) if record["output"].strip()]
    return [
        Instruction.from_turns(
            ("user", "\n\n".join(filter(None, [each["instruction"], each["input"]]))),
            ("assistant", each["output"]),
        )
        for each in random.Random(seed).sample(records, min(count, len(records)))
    ]


def best_seconds(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least wall time of each work over `rounds`, taken in turns so that noise meets them all."""
    best = dict.fromkeys(works, float("inf"))
    for round in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round:  # the first warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def bare_forward(backbone: Backbone, batches: Sequence[Batch], logits: bool) -> None:
    """The model alone: final states, or logits at every position."""
    run = backbone.model if logits else backbone.model.base_model
    with torch.inference_mode():
        for batch in batches:
            run(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH_CPU)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("featurize.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, options.device, options.dtype))
    rows = (
        alpaca_rows(options.data, options.rows, options.seed)
        if options.data
        else made_up_rows(options.rows, options.seed)
    )
    encoded = [row for row in backbone.encode_all(rows) if isinstance(row, Encoded)]
    tokens = sum(map(len, encoded))
    batches = [
        make_batch([encoded[i] for i in members], backbone.padding_token, backbone.device)
        for members in plan_batches(list(map(len, encoded)), options.tokens_per_batch)
    ]
    padded = sum(batch.ids.numel() for batch in batches)

    works: dict[str, Callable[[], Any]] = {
        "bare forward, states": lambda: bare_forward(backbone, batches, False),
        "bare forward, all logits": lambda: bare_forward(backbone, batches, True),
        "encoding alone": lambda: backbone.encode_all(rows),
    }
    for label, features in FEATURE_SETS.items():
        recipes = parse_features(features, backbone.info)
        featurizer = Featurizer(backbone, recipes, options.tokens_per_batch)
        works[label] = partial(featurizer.featurize, rows)
    timed = best_seconds(works, options.rounds)

    floor = timed["bare forward, all logits"]
    print(
        f"{backbone.info.name}: {len(rows)} rows, {tokens} tokens ({padded} padded), "
        f"{backbone.config.dtype} on {backbone.device}, {torch.get_num_threads()} threads"
    )
    print(f"{'':28}{'seconds':>10}{'tokens/s':>12}{'x all logits':>14}")
    for label, spent in timed.items():
        print(f"{label:28}{spent:10.2f}{tokens / spent:12.0f}{spent / floor:14.2f}")
    result = {
        "benchmark": "featurize",
        "options": {name: str(value) for name, value in vars(options).items()},
        "tokens": tokens,
        "padded_tokens": padded,
        "seconds": timed,
        "dtype": backbone.config.dtype,
        "device": str(backbone.device),
        "versions": {
            "coresetdb": coresetdb.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "hardware": {
            "cpu": cpu_model(),
            "cores": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
