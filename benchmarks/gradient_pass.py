"""What per-row gradient norms with an adapter cost beside the bare model, in shards of new rows.

    python benchmarks/gradient_pass.py [--dtype bfloat16] [--data FILE] [--shard 200] [--shards 8]

Every shard is rows that were not met before, as in an ingestion: batches have shapes of their own,
for which kernels may have to be made. Floors, on the same shards: a forward with a backward to
the activations only, of the model without an adapter, in batches just as wide as their rows; the
same in the widths the featurizer takes. Against them the pass of GradFiltering's members and of
LESS's checkpoints: as it is, and with the last feed-forward network run at every token. CPU seconds
of the process where there is no GPU, so that other work on the machine counts little. Prints a
table; writes JSON with versions and hardware.

`--data` takes Alpaca-style JSON (answers of many tokens) or a store (its pool as it is, of p3_t0
say, whose answers are short).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from one_pass import alpaca_rows, bare_backward, made_up_rows
from report import write_report

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.models.anatomy import attention_projections
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import (
    batches_of,
    tokens_per_batch,
)
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes import forward
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradient_reducers import GradientNorm
from coresetdb.ingest.passes.reducer import PassInputs
from coresetdb.schemas.conversations import conversation_columns, conversations_in
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact
from coresetdb.store.store import Store

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


def instructions(data: Path | None, count: int, seed: int) -> list[Instruction]:
    if data is None:
        return made_up_rows(count, seed)
    if not data.is_dir():
        return alpaca_rows(data, count, seed)
    pool = Store.open(str(data)).dataset("pool")
    chosen = np.random.default_rng(seed).permutation(pool.count_rows())[:count]
    columns = conversation_columns(pool.schema)
    return conversations_in(pool.take(chosen.tolist(), columns=columns))


def bare(backbone: Backbone, budget: int, multiple: int, shard: Shard) -> None:
    kept, backbone.width_multiple = backbone.width_multiple, multiple
    try:
        bare_backward(backbone, [batch for _, batch in batches_of(backbone, shard, budget)])
    finally:
        backbone.width_multiple = kept


def norms(backbone: Backbone, budget: int, adapter: Artifact, shard: Shard) -> None:
    for _, batch in batches_of(backbone, shard, budget):
        run_pass(backbone, batch, [(PassInputs(gradients=True), GradientNorm(None))], adapter)


def without(names: Sequence[str], work: Work, shard: Shard) -> None:
    """The same work without some of what `run_pass` puts around a pass."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(forward, name, lambda *args: nullcontext()))
        work(shard)


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
    parser.add_argument(
        "--data", type=Path, help="Alpaca-style JSON, or a store; made-up rows without"
    )
    parser.add_argument("--shard", type=int, default=200, help="rows of a shard")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gradient_pass.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, options.device, options.dtype))
    count = options.shard * (options.shards + 1)
    rows = instructions(options.data, count, options.seed)
    known = [row for row in backbone.encode_all(rows) if isinstance(row, Encoded)]
    shards = [known[i : i + options.shard] for i in range(0, len(known), options.shard)]
    tokens = sum(len(row) for shard in shards[1:] for row in shard)
    budget = tokens_per_batch(backbone.device)
    adapter = random_adapter(backbone, options.rank)
    ours = partial(norms, backbone, budget, adapter)
    works: dict[str, Work] = {
        "floor: bare, widths of the rows": partial(bare, backbone, budget, 1),
        "floor: bare, widths as here": partial(bare, backbone, budget, backbone.width_multiple),
        "norms, every token to the end": partial(without, ["final_states_only_at"], ours),
        "norms": ours,
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
