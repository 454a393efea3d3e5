"""Does GradFiltering's ensemble learn, and do two halves of its members agree about rows?

    python benchmarks/ensemble.py gsm8k_train.jsonl alpaca_52k.jsonl dolly_3k.jsonl mbpp_train.jsonl

Of every file members are trained on the first rows with an answer, and the next ones are judged by
the members of one half of the training rows, in turns. For the plain norm of
the gradient (`adapter`) and the relative one, and for `--few` and for all members, it prints the
share of rows whose gradient rose, and of each score Spearman's correlation between two halves of
the judges, its correlation with the fall of the row's loss, and what the first 100 rows are. Files
should be shuffled. Batches are small, so that a sample of a few hundred rows has as many steps as
the default one. Writes JSON, and the norms beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.fits.ensemble import GRADIENTS, HALVES, SNAPSHOTS, LossesAndNorms
from coresetdb.ingest.fits.lora import LoraTraining, train
from coresetdb.ingest.fits.member_noise import prior_of, relative_variances
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.forward import pass_over
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.representations.gradfiltering_scores import NOISES, drops, snr, spearman
from coresetdb.ingest.sources import open_sources
from coresetdb.schemas.instruction import Record
from coresetdb.store.catalog import Artifact

FIRST = 100


def usable_rows(backbone: Backbone, file: str, count: int) -> list[Encoded]:
    """Return the first rows of a file that have a response token with one before it."""
    found: list[Encoded] = []
    for source in open_sources([file], ReadOptions()).sources():
        for item in source:
            encoded = backbone.encode(item.instruction) if isinstance(item, Record) else None
            if isinstance(encoded, Encoded) and encoded.response[1:].any():
                found.append(encoded)
            if len(found) == count:
                return found
    raise SystemExit(f"{file}: {len(found)} rows have an answer, and {count} are needed")


def judged_by(
    backbone: Backbone,
    sample: Sequence[Encoded],
    rows: Sequence[Encoded],
    members: int,
    training: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Return losses and norms, (snapshots, members, rows) float64; NaN where one does not judge."""
    shape = (len(SNAPSHOTS), members, len(rows))
    found = {name: np.full(shape, np.nan) for name in ("loss", *GRADIENTS)}
    for member in range(members):
        snapshots: list[Artifact] = []

        def keep(epoch: int, artifact: Artifact, kept: list[Artifact] = snapshots) -> Artifact:
            kept.append(artifact)
            return artifact

        own = sample[member % HALVES :: HALVES]
        train(backbone, own, LoraTraining(**training, seed=member), None, keep, lambda *_: None)
        places = np.arange(1 - member % HALVES, len(rows), HALVES)
        for when, adapter in enumerate((snapshots[0], snapshots[-1])):
            collector = LossesAndNorms(len(places), adapter)
            pass_over(backbone, [rows[place] for place in places], [collector], adapter)
            found["loss"][when, member, places] = collector.loss
            for kind, norms in collector.norms.items():
                found[kind][when, member, places] = norms
        early, late = np.nanmean(found["loss"][:, member], axis=1)
        print(f"member {member}: loss of unseen rows {early:.4f}, then {late:.4f}", flush=True)
    return found


def scores_of(
    early: np.ndarray, late: np.ndarray, judges: np.ndarray, losses: np.ndarray
) -> list[dict[str, Any]]:
    """Return a row for the drop alone and for each noise.

    Args:
        early, late: norms (N, M); judges: (N, M) bool.
        losses: (snapshots, N), means over the judges.
    """
    count = int(judges.sum(1)[0])
    prior = prior_of(relative_variances(late[judges].reshape(-1, count)), count - 1)
    odd = np.cumsum(judges, axis=1) % 2 == 1
    halves = (judges & odd, judges & ~odd)
    found = []
    for noise in ("drop", *NOISES):
        if noise == "drop":
            whole, *parts = (drops(early, late, each) for each in (judges, *halves))
        else:
            whole, *parts = (snr(early, late, each, noise, prior) for each in (judges, *halves))
        found.append(
            {
                "score": noise,
                "halves_agree": spearman(*parts),
                "with_the_fall_of_the_loss": spearman(whole, losses[0] - losses[1]),
                "first": np.argsort(-whole, kind="stable")[:FIRST],
            }
        )
    return found


def main() -> None:
    """Train, judge, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--sample", type=int, default=100, help="rows of each file to train on")
    parser.add_argument("--judged", type=int, default=100, help="rows of each file to judge")
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--few", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", default="ensemble.json", help="where to write the results")
    options = parser.parse_args()
    backbone = Backbone.load(
        BackboneConfig(options.backbone, "auto", "float32", options.max_length)
    )
    sample: list[Encoded] = []
    rows: list[Encoded] = []
    names: list[str] = []
    for file in options.files:
        drawn = usable_rows(backbone, file, options.sample + options.judged)
        sample += drawn[: options.sample]
        rows += drawn[options.sample :]
        names += [Path(file).name.split(".")[0]] * options.judged
    sample = [sample[place] for place in np.random.default_rng(5).permutation(len(sample))]
    training = {
        **{"rank": 8, "alpha": 16, "dropout": 0.0, "warmup": 0.03},
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "batch": options.batch,
    }
    found = judged_by(backbone, sample, rows, options.members, training)
    np.savez(Path(options.json).with_suffix(".npz"), **found)
    answers = np.array([row.response.sum() for row in rows])
    corpora, of_corpus = list(dict.fromkeys(names)), np.array(names)
    print(f"\n{len(rows)} rows, median answer {np.median(answers):.0f} tokens, {corpora}")
    print(
        "| gradient | members | rose | median drop | score | halves agree | with the loss's fall | "
        f"median answer of the first {FIRST} | shares |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    table = []
    for kind in GRADIENTS:
        for members in (options.few, options.members):
            early, late = (found[kind][when, :members].T for when in (0, 1))
            judges = ~np.isnan(late)
            losses = np.nanmean(found["loss"][:, :members], axis=1)
            dropped = drops(early, late, judges)
            for score in scores_of(early, late, judges, losses):
                first = score.pop("first")
                shares = [int((of_corpus[first] == corpus).sum()) for corpus in corpora]
                table.append(
                    {
                        "gradient": kind,
                        "members": members,
                        "rose": float((dropped < 0).mean()),
                        "median_drop": float(np.median(dropped)),
                        **score,
                        "median_answer": float(np.median(answers[first])),
                        "shares": shares,
                    }
                )
                cells = [f"{v:.2f}" if isinstance(v, float) else v for v in table[-1].values()]
                print("| " + " | ".join(map(str, cells)) + " |")
    losses = np.nanmean(found["loss"], axis=(1, 2)).tolist()
    facts = {**vars(options), "rows": len(rows), "corpora": corpora}
    write_report(options.json, "ensemble", {**facts, "losses": losses, "table": table})


if __name__ == "__main__":
    main()
