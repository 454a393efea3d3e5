"""Noise of LESS's sketches: their cosines against those of the whole gradients, on real rows.

    python benchmarks/sketch_noise.py                             alpaca_52k and gsm8k_train
    python benchmarks/sketch_noise.py --warm-up-rows 1280         LoRA too
    python benchmarks/sketch_noise.py --data FILE ...

Rows are drawn in equal parts from the files (in `../shared/data` beside the repository) and
compared within groups, so that whole gradients live no longer than a group: 15 rows make 105
pairs. For every kind of gradient the table gives the spread of the exact cosines, the standard
deviation of the sketch's error beside the 1 / sqrt(dims) of an ideal projection, and how well
sketched and exact cosines agree. Full linear layers have no optimiser, so their candidate side is
the plain gradient; with `--warm-up-rows` an adapter is trained first, and its gradients are
compared plain, in Adam's direction, and as LESS compares them: plain queries with candidates in
Adam's direction.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import write_report

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.fits.fit import Fitting, Sample
from coresetdb.ingest.fits.lora import WarmUp
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradient_reducers import AdamStep, moments_of
from coresetdb.ingest.passes.reducer import PassInputs, Reducer
from coresetdb.ingest.passes.weight_gradient import SketchSpec, WeightGradient, count_sketch
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.instruction import Instruction, Record
from coresetdb.store.catalog import Artifact

POOLS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "pools"
DATA = [POOLS / "alpaca_52k.json.gz", POOLS / "gsm8k_train.jsonl.gz"]

GROUP = 15


class Products(Reducer):
    """Inner products (B, B) of the rows of one batch, by whole gradients and by sketches."""

    def __init__(self, specs: Sequence[SketchSpec], moments: Artifact | None) -> None:
        self.specs, self.moments = specs, moments
        self.exact: dict[tuple[str, str], torch.Tensor | float] = {}
        self.sketches: dict[tuple[str, SketchSpec], torch.Tensor | float] = {}

    def gradient(self, gradient: WeightGradient) -> None:
        values = gradient.values()
        kinds = {"plain": values.flatten(1)}
        if self.moments is not None:
            moved = AdamStep(*moments_of(self.moments, gradient))(values)
            kinds["Adam"] = moved.flatten(1)
        for one in kinds:
            for other in kinds:
                products = (kinds[one] @ kinds[other].T).double()
                self.exact[one, other] = self.exact.get((one, other), 0.0) + products
        for spec in self.specs:
            for kind, vectors in kinds.items():
                if self.moments is None:
                    part = gradient.sketch(spec)
                else:
                    part = count_sketch(vectors, gradient.name, spec)
                self.sketches[kind, spec] = self.sketches.get((kind, spec), 0.0) + part

    def columns(self) -> dict[str, np.ndarray]:
        return {}

    def cosines(self, one: str, other: str, spec: SketchSpec | None) -> np.ndarray:
        """Of all pairs of different rows, `one` of the first and `other` of the second."""
        if spec is None:
            norms = [torch.as_tensor(self.exact[kind, kind]).diag().sqrt() for kind in (one, other)]
            products = torch.as_tensor(self.exact[one, other])
        else:
            first, second = (
                torch.as_tensor(self.sketches[kind, spec]).double() for kind in (one, other)
            )
            norms = [first.norm(dim=1), second.norm(dim=1)]
            products = first @ second.T
        cosines = (products / norms[0][:, None] / norms[1][None]).cpu().numpy()
        return cosines[np.triu_indices(len(cosines), 1)]


def drawn_rows(files: Sequence[Path], count: int, seed: int) -> list[Instruction]:
    """Rows in equal parts from the files, shuffled together."""
    draw = random.Random(seed)
    rows: list[Instruction] = []
    for file in files:
        source = open_source(str(file), ReadOptions())
        records = [each.instruction for each in source if isinstance(each, Record)]
        rows += draw.sample(records, min(len(records), math.ceil(count / len(files))))
    draw.shuffle(rows)
    return rows


def warmed_up(backbone: Backbone, rows: Sequence[Instruction], rank: int, batch: int) -> Artifact:
    """The adapter and the moments at the end of a warm-up on `rows`."""
    kept: dict[str, Artifact] = {}

    def keep(name: str, artifact: Artifact) -> Artifact:
        kept[name] = artifact
        return artifact

    def report(fraction: float, sentence: str) -> None:
        print(f"warm-up {fraction:.0%}: {sentence}", end="\r", flush=True)

    fit = WarmUp(rank=rank, batch=batch, share=1.0, at_most=len(rows))
    fit.run(Fitting(backbone, Sample([r.id for r in rows], rows, len(rows)), {}, keep, report))
    print()
    return kept[fit.outputs()[-1]]


def compared(
    backbone: Backbone,
    groups: Sequence[Sequence[Encoded]],
    specs: Sequence[SketchSpec],
    adapter: Artifact | None,
) -> list[Products]:
    """Products of every group, a batch each."""
    found = []
    for number, group in enumerate(groups):
        batch = make_batch(group, backbone.padding_token, backbone.device)
        products = Products(specs, adapter)
        # A group is one batch, however long its longest row: layers are run again, not kept.
        run_pass(backbone, batch, [(PassInputs(gradients=True), products)], adapter, True)
        found.append(products)
        print(f"group {number + 1} of {len(groups)}", end="\r", flush=True)
    print()
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value in their order; ties do not occur among real cosines."""
    return values.argsort().argsort()


def summary(
    found: Sequence[Products], one: str, other: str, dims: int, specs: Sequence[SketchSpec]
) -> dict[str, Any]:
    """Spread of the exact cosines, noise of the sketched ones, and how they agree."""
    exact = np.concatenate([each.cosines(one, other, None) for each in found])
    noise, bias, pearson, spearman = [], [], [], []
    for spec in specs:
        if spec.dims != dims:
            continue
        sketched = np.concatenate([each.cosines(one, other, spec) for each in found])
        noise.append((sketched - exact).std())
        bias.append((sketched - exact).mean())
        pearson.append(np.corrcoef(sketched, exact)[0, 1])
        spearman.append(np.corrcoef(ranks(sketched), ranks(exact))[0, 1])
    return {
        "dims": dims,
        "pairs": len(exact),
        "exact_mean": float(exact.mean()),
        "exact_sd": float(exact.std()),
        "exact_quantiles_1_50_99": np.quantile(exact, [0.01, 0.5, 0.99]).tolist(),
        "noise": float(np.sqrt(np.mean(np.square(noise)))),
        "noise_over_ideal": float(np.sqrt(np.mean(np.square(noise)) * dims)),
        "noise_over_ideal_worst_seed": float(np.max(noise) * math.sqrt(dims)),
        "bias": float(np.mean(bias)),
        "pearson": float(np.mean(pearson)),
        "spearman": float(np.mean(spearman)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", default=DATA)
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--dims", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--seeds", type=int, default=3, help="sketches drawn")
    parser.add_argument("--warm-up-rows", type=int, default=0)
    parser.add_argument("--warm-up-batch", type=int, default=WarmUp().batch)
    parser.add_argument("--only-lora", action="store_true")
    parser.add_argument("--rank", type=int, default=WarmUp().rank)
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--out", type=Path, default=Path("sketch_noise.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, options.device, "float32"))
    drawn = drawn_rows(options.data, options.rows + options.warm_up_rows, options.seed)
    rows = [
        row
        for row in backbone.encode_all(drawn[options.warm_up_rows :])
        if isinstance(row, Encoded) and row.response[1:].any()
    ]
    groups = [rows[i : i + GROUP] for i in range(0, len(rows) - GROUP + 1, GROUP)]
    specs = [SketchSpec(dims, seed) for dims in options.dims for seed in range(options.seeds)]
    studies: list[tuple[str, Artifact | None, list[tuple[str, str]]]] = []
    if not options.only_lora:
        studies.append(("full linear", None, [("plain", "plain")]))
    if options.warm_up_rows:
        adapter = warmed_up(
            backbone, drawn[: options.warm_up_rows], options.rank, options.warm_up_batch
        )
        kinds = [("plain", "plain"), ("Adam", "Adam"), ("plain", "Adam")]
        studies.append((f"LoRA {options.rank}", adapter, kinds))

    print(
        f"{'':28}{'dims':>6}{'exact cosine':>18}{'1 - 99 %':>16}{'noise':>9}{'x ideal':>9}"
        f"{'worst':>7}{'bias':>9}{'Pearson':>9}{'Spearman':>10}"
    )
    lines = []
    for weights, adapter, kinds in studies:
        found = compared(backbone, groups, specs, adapter)
        for one, other in kinds:
            for dims in options.dims:
                each = summary(found, one, other, dims, specs)
                lines.append({"weights": weights, "first": one, "second": other, **each})
                low, _, high = each["exact_quantiles_1_50_99"]
                print(
                    f"{f'{weights}, {one} x {other}':28}{dims:6}"
                    f"{each['exact_mean']:9.3f} +- {each['exact_sd']:.3f}{low:8.2f}{high:8.2f}"
                    f"{each['noise']:9.4f}{each['noise_over_ideal']:9.2f}"
                    f"{each['noise_over_ideal_worst_seed']:7.2f}{each['bias']:9.4f}"
                    f"{each['pearson']:9.4f}{each['spearman']:10.4f}",
                    flush=True,
                )
    facts = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "rows": len(groups) * GROUP,
        "results": lines,
        "device": str(backbone.device),
    }
    write_report(options.out, "sketch_noise", facts)


if __name__ == "__main__":
    main()
