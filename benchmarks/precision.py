"""bfloat16 beside float32: whether the same rows come first, feature by feature, on real rows.

    python benchmarks/precision.py [--rows 2000] [--device auto] [--out FILE]

Rows are a seeded sample of alpaca_52k and gsm8k_train together, in `../shared/data` beside the
repository (or `--data`); targets are gsm8k and mbpp. What is fitted is fitted once, in float32, and
all scores go through columns as they are stored. For scores: Spearman's rank correlation, and the
share of the best 5 % that both have; for MADS the mean Jaccard of a row's sets. `--beside-cpu N`
holds float32 on the device against float32 on the CPU, N rows, before storage precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from one_pass import featurizer_of
from report import write_report
from trim_exactness import DATA, TARGETS, pool_rows, spearman, target_rows

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Features, Featurizer
from coresetdb.ingest.jobs.fitting import MemoryCache
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.representation import BACKGROUND
from coresetdb.ingest.representations.trim_basis import top_overlap
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.recipe import Recipe

FEATURES = "rds,losses:grad_norm=sketch,nait,mads,trim,less"
LOSSES = ("nll", "nll_alone", "ifd", "el2n", "grad_norm_sketch")
FIT_ROWS = 2000


def scores_of(
    featurizer: Featurizer,
    rows: Sequence[Instruction],
    targets: Mapping[str, Sequence[Instruction]],
) -> tuple[dict[str, np.ndarray], pa.Table]:
    """Every score of every row by its label, from columns as they are stored, and these columns."""
    table = featurizer.featurize(rows)
    found = {f"losses {name}": table[name].to_numpy() for name in LOSSES}
    for recipe in featurizer.recipes:
        representation = registry.get(recipe.representation)
        if not representation.similarity and not registry.makes_target_artifact(representation):
            continue
        for target, examples in targets.items():
            features = featurizer.compute(examples, of="target")
            if column := representation.similarity:
                queries = vectors(featurizer.table(features)[column])
                cosines = vectors(table[column]) @ queries.T
                found[f"{recipe.representation} max, {target}"] = cosines.max(1)
                found[f"{recipe.representation} mean, {target}"] = cosines.mean(1)
            else:
                label = f"{recipe.representation}, {target}"
                found[label] = scored(featurizer, recipe, features, table)
    return found, table


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """(N, d) float32 of a column of fixed-size lists; NaN where a row has none."""
    width = column.type.list_size
    rows = column.combine_chunks()
    found = np.full((len(rows), width), np.nan, np.float32)
    there = rows.is_valid().to_numpy(zero_copy_only=False)
    found[there] = rows.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return found


def scored(
    featurizer: Featurizer, recipe: Recipe, examples: Features, table: pa.Table
) -> np.ndarray:
    """A representation's scores of stored rows for a target, by its default comparison."""
    representation, setup = registry.get(recipe.representation), featurizer.setup(recipe, "target")
    encoded = [row for row in examples.encoded if isinstance(row, Encoded)]
    columns = {name: examples.columns[name] for name in registry.columns_of(recipe).values()}
    facts = representation.target_artifact(featurizer.backbone, encoded, columns, setup)
    asked, artifacts = representation.query_defaults, dict(setup.artifacts)
    if representation.background_columns(asked):
        present = table.filter(table[recipe.reason].is_null())
        artifacts[BACKGROUND] = representation.background([present])
    if facts and representation.example_columns:
        with_feature = featurizer.table(examples)
        with_feature = with_feature.filter(with_feature[recipe.reason].is_null())
        facts = representation.with_examples(facts, with_feature)
    scorer = representation.scorer(registry.options_of(recipe), artifacts, facts, asked)
    assert scorer is not None
    (batch,) = table.combine_chunks().to_batches()
    return scorer.scores(batch)


def jaccards(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Of the sets of each row, where both have one."""
    pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
    sets = [(set(a), set(b)) for a, b in pairs if a is not None and b is not None]
    return np.array([len(a & b) / len(a | b) for a, b in sets])


def beside(one: Features, other: Features) -> dict[str, float]:
    """Column -> greatest norm-wise relative error of a row; of MADS, the least Jaccard."""
    found: dict[str, float] = {}
    for name, values in one.columns.items():
        pairs = list(zip(values, other.columns[name], strict=True))
        if name == "mads":
            sets = [(set(a), set(b)) for a, b in pairs if a is not None and b is not None]
            found["mads, least Jaccard"] = min(len(a & b) / len(a | b) for a, b in sets)
        elif not name.endswith("_reason") and not name.startswith("mads"):
            errors = [relative(a, b) for a, b in pairs if a is not None and b is not None]
            found[name] = max(error for error in errors if np.isfinite(error))
    return found


def relative(one: Any, other: Any) -> float:
    """|one - other| / |one| of two numbers or vectors."""
    first, second = (np.atleast_1d(np.asarray(each, np.float64)) for each in (one, other))
    return float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--sample", type=int, default=FIT_ROWS)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--beside-cpu", type=int, default=0, metavar="ROWS")
    parser.add_argument("--out", type=Path, default=Path("precision.json"))
    options = parser.parse_args()

    pool = pool_rows(options.data)
    rows, sample = pool[: options.rows], pool[options.rows :][: options.sample]
    targets = {name: target_rows(options.data, name, options.examples) for name in TARGETS}
    shelf = MemoryCache()

    def featurizer(device: str, dtype: str) -> Featurizer:
        backbone = Backbone.load(BackboneConfig(options.backbone, device, dtype))
        return featurizer_of(backbone, FEATURES, sample, shelf)

    exact = featurizer(options.device, "float32")
    kept, one = scores_of(exact, rows, targets)
    coarse, other = scores_of(featurizer(options.device, "bfloat16"), rows, targets)
    print(f"{len(rows)} rows on {exact.backbone.device}, bfloat16 beside float32")
    print(f"{'':24}{'Spearman':>10}{'best 5 %':>10}{'rows':>7}")
    results: dict[str, Any] = {}
    for label, scores in kept.items():
        there = np.isfinite(scores) & np.isfinite(coarse[label])
        pair = scores[there], coarse[label][there]
        results[label] = {
            "spearman": spearman(*pair),
            "best": top_overlap(*pair),
            "rows": int(there.sum()),
        }
        line = results[label]
        print(f"{label:24}{line['spearman']:10.4f}{line['best']:10.3f}{line['rows']:7}")
    sets = jaccards(one["mads"], other["mads"])
    results["mads"] = {
        "jaccard": float(sets.mean()),
        "quantiles_1_50": np.quantile(sets, [0.01, 0.5]).tolist(),
        "rows": len(sets),
    }
    low = np.quantile(sets, 0.01)
    print(f"mads: mean Jaccard {sets.mean():.4f}, 1 % of the rows below {low:.3f}")

    errors: dict[str, float] = {}
    if options.beside_cpu:
        few = rows[: options.beside_cpu]
        errors = beside(featurizer("cpu", "float32").compute(few), exact.compute(few))
        print(f"float32 on {exact.backbone.device} beside the CPU, {len(few)} rows, worst row:")
        print(", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    facts = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "results": results,
        "beside_cpu": errors,
        "device": str(exact.backbone.device),
    }
    write_report(options.out, "precision", facts)


if __name__ == "__main__":
    main()
