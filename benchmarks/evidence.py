"""The study of docs/evidence.md: do coresets train a better model, and which method's do?

    python benchmarks/evidence.py CORPORA OUT --model FOLDER [--transfer-model FOLDER]
    make evidence CORPORA=... OUT=... MODEL=...

CORPORA holds `pools/` and `targets/` as for `small_pools.py`, whose three pools are used; MODEL
chooses rows and is trained. Every part is kept in the store OUT/store as soon as it is done, and
the same command goes on after a kill. `--plan` says what every part would take, and stops.

Parts: pairs of pool and target, each with all methods and controls; bins of a ranking on three
pairs for three representations; how many examples TRIM needs; the first, random and last rows of
NAIT's ranking; GradFiltering's rows and random ones after one epoch and after two; MADS's coverage
with another model trained on its rows. Writes OUT/evidence.md, OUT/evidence.json
and a page for each study.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from report import circumstances

import coresetdb
from coresetdb import Database
from coresetdb.evaluation.report import write_report
from coresetdb.evaluation.results import StudyResult
from coresetdb.evaluation.running import Forecast
from coresetdb.schemas.progress import Silence

FEATURES = "fast,lexical,gradfiltering"
METHODS = "rds;less;trim;nait;mads(weights=target);gradfiltering;bm25"
EVAL_ITEMS = 100
QUANTILES = ("less", "rds:top", "nait")
TRIM_EXAMPLES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Part:
    """A study of the evidence.

    Attributes:
        name: of the study.
        target: name of the target.
        says: the claim that it looks at.
        call: keywords of `Database.evaluate`, or of `quantiles` where it has `bins`.
    """

    name: str
    target: str
    says: str
    call: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A pool and a target with known relevance, and the file its models are measured on."""

    target: str
    where: str
    relevant: str
    evaluation: str
    metrics: str


PAIRS = (
    Pair("gsm8k", "corpus = 'general'", "task = 'gsm8k'", "gsm8k", "loss"),
    Pair("svamp", "corpus = 'general'", "task = 'gsm8k'", "svamp", "loss,exact_match"),
    Pair("mbpp", "corpus = 'general'", "task = 'mbpp'", "mbpp", "loss"),
    Pair("quarel", "corpus = 'p3'", "task = 'quarel'", "p3_minority_quarel", "loss,exact_match"),
    Pair(
        "question_typing",
        "corpus = 'ni'",
        "task = 'subtask046_miscellaenous_question_typing'",
        "ni_minority_question_typing",
        "loss,exact_match",
    ),
)


def parts(budget: int, seeds: int, other_model: str | None) -> Iterator[Part]:
    """Yield the parts in the order in which they are run."""
    every = {"budgets": budget, "seeds": seeds, "limit": EVAL_ITEMS}
    for pair in PAIRS:
        pool = {"where": pair.where, "relevant": pair.relevant, "metrics": pair.metrics}
        yield Part(
            f"pair-{pair.target}",
            pair.target,
            "rows by a method train a better model than random ones",
            {**every, **pool, "methods": METHODS.split(";")},
        )
    for pair in PAIRS[:1] + PAIRS[3:]:
        for method in QUANTILES:
            yield Part(
                f"bins-{pair.target}-{method.partition(':')[0]}",
                pair.target,
                "nearness predicts what is learned (arXiv 2602.14696)",
                {
                    "method": method,
                    "bins": 10,
                    "budget": budget // 2,
                    "where": pair.where,
                    "limit": EVAL_ITEMS,
                    "metrics": pair.metrics,
                },
            )
    gsm8k = PAIRS[0]
    for examples in TRIM_EXAMPLES:
        yield Part(
            f"trim-{examples}",
            f"gsm8k-{examples}",
            "TRIM: a few examples suffice (arXiv 2510.07118)",
            {**every, "where": gsm8k.where, "methods": "trim", "metrics": gsm8k.metrics},
        )
    yield Part(
        "nait-first-last",
        "gsm8k",
        "NAIT: the first rows over random ones over the last (arXiv 2603.13201)",
        {
            **every,
            "where": gsm8k.where,
            "methods": "nait",
            "controls": "zero-shot,random,worst",
            "metrics": gsm8k.metrics,
        },
    )
    for epochs in (1, 2):
        yield Part(
            f"gradfiltering-{epochs}",
            "gsm8k",
            "GradFiltering: faster convergence at equal compute (arXiv 2601.13697)",
            {
                **every,
                "where": gsm8k.where,
                "methods": "gradfiltering",
                "metrics": gsm8k.metrics,
                "epochs": epochs,
                "match": "tokens",
            },
        )
    if other_model:
        yield Part(
            "mads-other-model",
            "gsm8k",
            "MADS: rows by coverage, chosen by one model, train another (arXiv 2605.30857)",
            {
                **every,
                "where": gsm8k.where,
                "methods": "mads",
                "controls": "zero-shot,random,full",
                "metrics": gsm8k.metrics,
                "model": other_model,
            },
        )


def make_store(corpora: Path, out: Path, model: str, dtype: str) -> Database:
    """Draw the pools, featurize them and add the targets, as far as that is not done yet."""
    pools = out / "pools"
    if not (pools / "pairs.json").exists():
        here = Path(__file__).parent
        subprocess.run([sys.executable, here / "small_pools.py", corpora, pools], check=True)
    store = out / "store"
    if store.exists():
        db = coresetdb.connect(store)
    else:
        db = coresetdb.create(store, backbone=model, features=FEATURES, dtype=dtype, max_length=512)
    for pool in ("general", "p3", "ni"):
        print(f"ingesting {pool}", file=sys.stderr)
        db.ingest(pools / f"{pool}.jsonl", progress=Told())
    known = {target.name for target in db.list_targets()}
    wanted = {pair.target: pools / f"{pair.target}.target.jsonl" for pair in PAIRS}
    for name, file in wanted.items():
        if name not in known:
            db.add_target(name, file)
    examples = read_lines(wanted["gsm8k"])
    for count in TRIM_EXAMPLES:
        if f"gsm8k-{count}" not in known:
            db.add_target(f"gsm8k-{count}", examples[:count])
    return db


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def evaluation_of(corpora: Path, target: str) -> list[dict[str, Any]]:
    """Return the held-out examples of a target."""
    name = {pair.target: pair.evaluation for pair in PAIRS}[target.partition("-")[0]]
    return [
        {"prompt": row["prompt"], "response": row["target"], "answer": row["answer"]}
        for row in read_lines(corpora / "targets" / f"{name}.eval.jsonl.gz")
    ]


class Told(Silence):
    """Prints what is worth a line."""

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)


def document(results: Sequence[tuple[Part, StudyResult]], model: str) -> str:
    """Return the tables of all studies as Markdown."""
    lines = [f"Model: `{model}`. Made by `benchmarks/evidence.py`.", ""]
    for part, result in results:
        lines += [f"## {part.name}: {part.says}", ""]
        for metric in result.metrics:
            lines += [
                f"### {metric}",
                "",
                "| arm | mean | over random | verdict |",
                "|---|---|---|---|",
            ]
            for arm in result.of(metric):
                gain = arm.gains.get("random")
                over = f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else ""
                lines.append(f"| {arm.arm} | {arm.mean:.3f} | {over} | {arm.verdict or ''} |")
            for budget, sees in result.sees(metric).items():
                lines += ["", f"Budget {budget}: {'the study sees' if sees else 'blind'}."]
            for correlation in result.bins(metric).values():
                lines += ["", f"Spearman of bin and {metric}: {correlation:+.2f}."]
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run all parts, and write what they found so far after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--transfer-model", help="trained on rows that --model chose by coverage")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", default="", help="only those whose names begin so")
    parser.add_argument("--plan", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    db = make_store(options.corpora, options.out, options.model, options.dtype)
    results: list[tuple[Part, StudyResult]] = []
    for part in parts(options.budget, options.seeds, options.transfer_model):
        if not part.name.startswith(options.parts):
            continue
        run = db.quantiles if "bins" in part.call else db.evaluate
        found = run(
            part.target,
            evaluation_of(options.corpora, part.target),
            name=part.name,
            dtype=options.dtype,
            forecast_only=options.plan,
            progress=Told(),
            **part.call,
        )
        if isinstance(found, Forecast):
            print("\n".join(found.lines()))
            continue
        results.append((part, found))
        write_report(found, options.out / f"{part.name}.html")
        (options.out / "evidence.md").write_text(document(results, options.model))
        facts = {
            "parts": [{**asdict(part), "result": result.as_dict()} for part, result in results],
            **circumstances(),
        }
        (options.out / "evidence.json").write_text(json.dumps(facts, indent=1, default=str))


if __name__ == "__main__":
    main()
