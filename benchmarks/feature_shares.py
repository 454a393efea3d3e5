"""What of one run of `fast` goes to each feature: processor seconds, from tokens to columns.

    python benchmarks/feature_shares.py --backbone FOLDER --data alpaca_52k.json.gz --rows 64

Every call of a feature's reducer, and what it computes after the passes, is timed by itself; the
rest of a pass is the model and its hooks. A second run, without `less` and the gradient's norm,
tells what of that is the backward. What two features read of a gradient is made for the first of
them, `losses`. Fits are made before and not timed, nor are the first rows, which compile kernels.
Prints a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from one_pass import FIT_ROWS, alpaca_rows, featurizer_of, made_up_rows
from report import write_report

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.jobs.fitting import MemoryCache
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.registry import PRESETS
from coresetdb.schemas.instruction import Instruction

CALLS = ("hidden", "logits", "layer", "gradient", "neurons", "columns")


@contextmanager
def timed(what: Any, method: str, spent: dict[str, float], label: str) -> Iterator[None]:
    """Add the processor seconds of every call of a method to `spent`."""
    called: Callable[..., Any] = getattr(what, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return called(*args, **kwargs)
        finally:
            spent[label] += time.process_time() - start

    with patch.object(what, method, call):
        yield


@contextmanager
def features_timed(featurizer: Featurizer, spent: dict[str, float]) -> Iterator[None]:
    """Time each feature's reducers and what it finishes, under its own name."""
    with ExitStack() as stack:
        for recipe in featurizer.recipes:
            name = recipe.representation
            representation = registry.get(name)
            made = representation.reducer

            def reducer(*args: Any, made: Any = made, name: str = name) -> Any:
                reading = made(*args)
                for method in CALLS:
                    stack.enter_context(timed(reading, method, spent, name))
                return reading

            stack.enter_context(patch.object(representation, "reducer", reducer))
            stack.enter_context(timed(representation, "finish", spent, name))
            stack.enter_context(timed(representation, "compute", spent, name))
        yield


def seconds_of(featurizer: Featurizer, rows: Sequence[Instruction]) -> dict[str, float]:
    """Processor seconds of each feature, and of everything under "all"."""
    known = featurizer.backbone.encode_all(rows)
    spent: dict[str, float] = defaultdict(float)
    with features_timed(featurizer, spent):
        start = time.process_time()
        featurizer.compute_encoded(known, rows)
        spent["all"] = time.process_time() - start
    return dict(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data", type=Path, help="Alpaca-style JSON; made-up rows without")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rank", type=int, default=32, help="of TRIM's basis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("feature_shares.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, "cpu", options.dtype))
    count = options.rows + FIT_ROWS
    drawn = (
        alpaca_rows(options.data, count, options.seed)
        if options.data
        else made_up_rows(count, options.seed)
    )
    rows, sample = drawn[: options.rows], drawn[options.rows :]
    whole = [f"trim:rank={options.rank}" if each == "trim" else each for each in PRESETS["fast"]]
    plain = [each for each in whole if not each.startswith(("less", "losses"))]
    shelf = MemoryCache()
    spent: dict[str, dict[str, float]] = {}
    for label, features in (("fast", whole), ("no gradients", ["losses", *plain])):
        featurizer = featurizer_of(backbone, ",".join(features), sample, shelf)
        featurizer.compute(rows)
        spent[label] = seconds_of(featurizer, rows)
    tokens = sum(map(len, (row for row in backbone.encode_all(rows) if hasattr(row, "ids"))))
    everything = spent["fast"]["all"]
    print(
        f"{backbone.info.name}: {len(rows)} rows, {tokens} tokens, {options.dtype}, "
        f"{torch.get_num_threads()} threads; processor seconds\n"
    )
    print("| | s | share |\n|---|---|---|")
    model = _of_model(spent["fast"])
    forwards = _of_model(spent["no gradients"])
    table = {
        "model, forward (and IFD's)": forwards,
        "model, backward": model - forwards,
        **{name: spent["fast"].get(name, 0.0) for name in _names(spent["fast"])},
        "everything": everything,
    }
    for name, seconds in table.items():
        print(f"| {name} | {seconds:.2f} | {seconds / everything:.1%} |")
    asked = {name: str(value) for name, value in vars(options).items()}
    write_report(options.out, "feature_shares", {"options": asked, "seconds": spent})


def _names(spent: dict[str, float]) -> list[str]:
    return [name for name in spent if name != "all"]


def _of_model(spent: dict[str, float]) -> float:
    """The whole but for the features: the model, hooks, batches."""
    return spent["all"] - sum(spent[name] for name in _names(spent))


if __name__ == "__main__":
    main()
