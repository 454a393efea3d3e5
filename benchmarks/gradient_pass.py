"""What per-row gradient norms with an adapter cost beside the bare model, in shards of new rows.

    python benchmarks/gradient_pass.py [--dtype bfloat16] [--data FILE] [--shard 200] [--shards 8]

Every shard is rows that were not met before, as in an ingestion: batches have shapes of their own,
for which kernels may have to be made. Floors, on the same shards: a forward with a backward to
the activations only, of the model without an adapter, in batches just as wide as their rows; the
same in the widths the featurizer takes. Against them the pass of GradFiltering's members and of
LESS's checkpoints: with the backward of attention that is written out here, and with torch's. CPU
seconds of the process where there is no GPU, so that other work on the machine counts little.
Prints a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from one_pass import alpaca_rows, bare_backward, made_up_rows
from report import write_report

from coresetdb.ingest.conversations.encoding import Encoded
from coresetdb.ingest.featurizer import TOKENS_PER_BATCH_ACCELERATOR, TOKENS_PER_BATCH_CPU
from coresetdb.ingest.fits.artifacts import Artifact
from coresetdb.ingest.gradients import attention
from coresetdb.ingest.gradients.reducers import GradientNorm
from coresetdb.ingest.models.anatomy import attention_projections
from coresetdb.ingest.models.backbone import Backbone, BackboneConfig
from coresetdb.ingest.models.batch import batches_of
from coresetdb.ingest.models.forward import run_pass
from coresetdb.ingest.representations.representation import Needs

Shard = Sequence[Encoded]
Work = Callable[[Shard], None]


def random_adapter(backbone: Backbone, rank: int) -> Artifact:
    """An adapter of every attention projection, as training leaves them: both parts not zero."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name in attention_projections(backbone.model):
        outer, inner = backbone.model.get_submodule(name).weight.shape
        if backbone.info.model_type == "gpt2":  # which keeps its weights the other way round
            outer, inner = inner, outer
        arrays[f"{name}.A"] = draw.uniform(-1, 1, (rank, inner)).astype(np.float32) / inner**0.5
        arrays[f"{name}.B"] = draw.normal(0, 1e-3, (outer, rank)).astype(np.float32)
    return Artifact(arrays, {"scaling": 2.0})


def bare(backbone: Backbone, budget: int, multiple: int, shard: Shard) -> None:
    kept, backbone.width_multiple = backbone.width_multiple, multiple
    try:
        bare_backward(backbone, [batch for _, batch in batches_of(backbone, shard, budget)])
    finally:
        backbone.width_multiple = kept


def norms(backbone: Backbone, budget: int, adapter: Artifact, longest: int, shard: Shard) -> None:
    kept, attention.LONGEST = attention.LONGEST, longest
    try:
        for _, batch in batches_of(backbone, shard, budget):
            run_pass(backbone, batch, [(Needs(gradients=True), GradientNorm(None))], adapter)
    finally:
        attention.LONGEST = kept


def measure(works: dict[str, Work], shards: Sequence[Shard], device: torch.device) -> dict:
    """Seconds of each work over all shards but the first, which warms up; taken in turns."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    spent = dict.fromkeys(works, 0.0)
    for place, shard in enumerate(shards):
        for name, work in works.items():
            start = clock()
            work(shard)
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[name] += (clock() - start) * bool(place)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data", type=Path, help="Alpaca-style JSON; made-up rows without")
    parser.add_argument("--shard", type=int, default=200, help="rows of a shard")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gradient_pass.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, options.device, options.dtype))
    count = options.shard * (options.shards + 1)
    rows = (
        alpaca_rows(options.data, count, options.seed)
        if options.data
        else made_up_rows(count, options.seed)
    )
    known = [row for row in backbone.encode_all(rows) if isinstance(row, Encoded)]
    shards = [known[i : i + options.shard] for i in range(0, len(known), options.shard)]
    tokens = sum(len(row) for shard in shards[1:] for row in shard)
    cpu = backbone.device.type == "cpu"
    budget = TOKENS_PER_BATCH_CPU if cpu else TOKENS_PER_BATCH_ACCELERATOR
    adapter = random_adapter(backbone, options.rank)
    works: dict[str, Work] = {
        "floor: bare, widths of the rows": partial(bare, backbone, budget, 1),
        "floor: bare, widths as here": partial(bare, backbone, budget, backbone.width_multiple),
        "norms, torch's attention backward": partial(norms, backbone, budget, adapter, 0),
        "norms": partial(norms, backbone, budget, adapter, attention.LONGEST),
    }
    spent = measure(works, shards, backbone.device)
    floor = next(iter(spent.values()))
    print(
        f"{backbone.info.name}: {len(shards) - 1} shards of {options.shard} rows, {tokens} tokens, "
        f"{backbone.config.dtype} on {backbone.device}, {torch.get_num_threads()} threads"
    )
    for name, seconds in spent.items():
        print(f"{name:36}{seconds:8.2f} s{tokens / seconds:9.0f} tokens/s{seconds / floor:6.2f}")
    asked = {name: str(value) for name, value in vars(options).items()}
    ran = {"tokens": tokens, "seconds": spent, "threads": torch.get_num_threads()}
    write_report(options.out, "gradient_pass", {"options": asked, **ran})


if __name__ == "__main__":
    main()
