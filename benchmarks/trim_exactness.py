"""TRIM's stored score beside its exact score, on real rows, with the built-in proxy.

    python benchmarks/trim_exactness.py [--rows 5000] [--backbone builtin] [--out FILE]

Rows are a seeded sample of alpaca_52k and gsm8k_train together, in `../shared/data` beside the
repository (or `--data`). The exact score has float32 states and no basis; the stored one has codes
of each rank, with (`alike`) and without (`none`) an allowance for what the basis leaves out. The
basis is fitted on another sample of the same pool, as ingestion does it; the table marks the rank
that this fit chooses. Overlap is the share of the exact score's best 5 % of the rows that the
stored score has among its own. Prints a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from one_pass import alpaca_rows
from report import write_report

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.fit import Fitting, Sample
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import TOKENS_PER_BATCH_CPU
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.forward import pass_over
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.trim_basis import (
    ENOUGH,
    OUTPUT,
    SampleStates,
    quantise,
    ranks_tried,
    top_overlap,
)
from coresetdb.ingest.representations.trim_fingerprints import fingerprints, nearest_classes
from coresetdb.ingest.representations.trim_scores import (
    RESTS,
    ClassTable,
    RowTerms,
    row_terms,
    score_tokens,
    variance_shares,
)
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
TARGETS = ("gsm8k", "mbpp")
REAL_PATH_ROWS = 256
"""Rows that also go through featurizer and scorer, to show that they are the numbers reported."""


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl.gz."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def one_turn(prompt: str, answer: str) -> Instruction:
    """A question and its answer."""
    return Instruction.from_turns(("user", prompt), ("assistant", answer))


def pool_rows(data: Path) -> list[Instruction]:
    """alpaca_52k (but its rows without output) and gsm8k_train, shuffled."""
    rows = alpaca_rows(data / "pools" / "alpaca_52k.json.gz", 1 << 30, 0)
    gsm8k = lines(data / "pools" / "gsm8k_train.jsonl.gz")
    rows += [one_turn(each["question"], each["answer"]) for each in gsm8k]
    random.Random(0).shuffle(rows)
    return rows


def target_rows(data: Path, name: str, count: int) -> list[Instruction]:
    """The first examples of a target's query set."""
    examples = lines(data / "targets" / f"{name}.query.jsonl.gz")[:count]
    return [one_turn(example["prompt"], example["target"]) for example in examples]


def fit(backbone: Backbone, rows: Sequence[Instruction], count: int) -> tuple[Artifact, float]:
    """The artifact of TRIM's fit on the first `count` of some rows, and the seconds it took."""
    asked = registry.feature_spec("trim", {"sample": count})
    (basis,) = registry.get("trim").fits(backbone.info, asked.options)
    kept: dict[str, Artifact] = {}
    sample = Sample([row.id for row in rows], rows, len(rows))
    start = time.perf_counter()
    basis.run(
        Fitting(backbone, sample, {}, lambda n, a: kept.setdefault(n, a), lambda share, what: None)
    )
    return kept[OUTPUT], time.perf_counter() - start


def all_terms(
    backbone: Backbone,
    rows: Sequence[Encoded],
    directions: np.ndarray,
    tables: dict[str, ClassTable],
    ranks: Sequence[int],
) -> dict[tuple[str, str, int], RowTerms]:
    """Terms of every row by (target, rest, rank); rank 0 is the exact score."""
    keys = [(name, "none", 0) for name in tables]
    keys += [(name, rest, rank) for name in tables for rest in RESTS for rank in ranks]
    found = {key: np.zeros((2, len(rows)), np.float32) for key in keys}

    sample = SampleStates(rows, backbone.info.hidden_size)
    pass_over(backbone, rows, [sample])
    for part, states in sample.parts(TOKENS_PER_BATCH_CPU):
        units = states.float() / states.float().norm(dim=1, keepdim=True)
        own = rows[part]
        tokens = np.concatenate([row.ids for row in own])
        content = np.concatenate([row.content for row in own])
        lengths = np.array([len(row) for row in own])
        stored: dict[int, tuple[np.ndarray, np.ndarray | None]] = {0: (units.numpy(), None)}
        for rank in ranks:
            codes, scales = quantise(units @ torch.from_numpy(directions[:, :rank]))
            stored[rank] = codes.numpy(), scales.numpy()
        for name, rest, rank in keys:
            table = tables[name]
            if rank:
                table = replace(table, vectors=table.vectors @ directions[:, :rank])
            scored = score_tokens(tokens, *stored[rank], table, rest=rest).scores
            terms = row_terms(scored, content, lengths)
            found[name, rest, rank][:, part] = terms.mean, terms.greatest
    return {key: RowTerms(*terms) for key, terms in found.items()}


def through_the_store(
    backbone: Backbone, basis: Artifact, rows: Sequence[Instruction], table: ClassTable
) -> tuple[np.ndarray, float]:
    """Scores from columns as they are stored, and the rows scored in a second."""
    asked = registry.feature_spec("trim")
    recipe = registry.recipe_for(asked, backbone.info, {OUTPUT: basis}, {OUTPUT: OUTPUT})
    featurizer = Featurizer(backbone, [recipe], artifacts={OUTPUT: basis})
    (batch,) = featurizer.featurize(rows).combine_chunks().to_batches()
    facts = Artifact(
        {
            "classes": table.classes,
            "vectors": table.vectors @ basis.arrays["basis"],
            "nearest": table.nearest,
        }
    )
    trim = registry.get("trim")
    scorer = trim.scorer(asked.options, {OUTPUT: basis}, facts, trim.query_defaults)
    assert scorer is not None
    start = time.perf_counter()
    scores = scorer.scores(batch)
    return scores, len(rows) / (time.perf_counter() - start)


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; equal scores are ranked in the rows' order."""
    ranks = [np.argsort(np.argsort(each, kind="stable")) for each in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--sample", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("trim_exactness.json"))
    options = parser.parse_args()

    backbone = Backbone.load(BackboneConfig(options.backbone, options.device, "float32"))
    pool = pool_rows(options.data)
    instructions, others = pool[: options.rows], pool[options.rows :]
    basis, seconds = fit(backbone, others, options.sample)
    chosen = basis.facts["rank"]
    print(
        f"{backbone.info.name}, width {backbone.info.hidden_size}: {len(instructions)} rows; fit "
        f"on {basis.facts['rows']} others in {seconds:.0f} s chose rank {chosen} (overlaps there: "
        f"{basis.facts['overlap']}), which keeps {basis.facts['kept']:.1%} of the energy"
    )

    count = basis.facts["rows"]
    sample = [each for each in backbone.encode_all(others[:count]) if isinstance(each, Encoded)]
    states = SampleStates(sample, backbone.info.hidden_size, keep=False)
    pass_over(backbone, sample, [states])
    directions, spectrum = states.directions()
    encoded = backbone.encode_all(instructions)
    rows = [each for each in encoded if isinstance(each, Encoded) and each.content.any()]
    tables: dict[str, ClassTable] = {}
    for name in TARGETS:
        examples = target_rows(options.data, name, options.examples)
        found = fingerprints(backbone, [backbone.encode(example) for example in examples], 4)
        nearest = nearest_classes(backbone.model, found.classes)
        tables[name] = ClassTable(found.classes, found.vectors, nearest)
    ranks = ranks_tried(backbone.info.hidden_size)
    terms = all_terms(backbone, rows, directions, tables, ranks)

    results: dict[str, Any] = {}
    for name, table in tables.items():
        exact = terms[name, "none", 0]
        shares = variance_shares(exact)
        print(
            f"\n{name}: {options.examples} examples, {len(table.classes)} classes; variance of the "
            f"exact score: {shares['mean']:.0%} from the mean, {shares['max']:.0%} from the max"
        )
        print(f"{'rank':>6}{'energy':>9}" + "".join(f"{rest:>22}" for rest in RESTS))
        print(f"{'':15}" + f"{'overlap':>12}{'Spearman':>10}" * len(RESTS))
        figures: list[dict[str, Any]] = []
        for rank in ranks:
            line: dict[str, Any] = {"rank": rank, "energy": float(spectrum[:rank].sum())}
            for rest in RESTS:
                got = terms[name, rest, rank].scores
                line[rest] = {
                    "overlap": top_overlap(exact.scores, got),
                    "spearman": spearman(exact.scores, got),
                }
            figures.append(line)
            mark = "*" if rank == chosen else " "
            print(
                f"{rank:>5}{mark}{line['energy']:>9.1%}"
                + "".join(
                    f"{line[rest]['overlap']:>12.3f}{line[rest]['spearman']:>10.4f}"
                    for rest in RESTS
                )
            )
        enough = [figure["rank"] for figure in figures if figure["alike"]["overlap"] >= ENOUGH]
        print(f"smallest rank with overlap {ENOUGH}: {min(enough, default='none')}")
        stored, speed = through_the_store(backbone, basis, instructions[:REAL_PATH_ROWS], table)
        computed = terms[name, "alike", chosen].scores[:REAL_PATH_ROWS]
        difference = float(np.abs(stored - computed).max())
        print(
            f"the first {len(stored)} rows through featurizer and scorer: greatest difference "
            f"{difference:.1e}, {speed:.0f} rows scored per second"
        )
        results[name] = {
            "classes": len(table.classes),
            "variance": shares,
            "ranks": figures,
            "smallest_enough": min(enough, default=None),
            "difference_through_the_store": difference,
            "rows_per_second": speed,
        }
    facts = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "fit": {**basis.facts, "seconds": seconds},
        "targets": results,
        "weights": backbone.info.identity["weights"],
        "threads": torch.get_num_threads(),
        "device": str(backbone.device),
    }
    write_report(options.out, "trim_exactness", facts)


if __name__ == "__main__":
    main()
