"""The study of docs/evidence.md: do coresets train a better model, and which method's do?

    python benchmarks/evidence.py CORPORA OUT --model FOLDER [--transfer-model FOLDER]
    make evidence CORPORA=... OUT=... MODEL=...

CORPORA holds `pools/` and `targets/` as for `small_pools.py`, whose three pools are used; MODEL
chooses rows and is trained. Every part is kept in the store OUT/store as soon as it is done, and
the same command goes on after a kill. With `--kept FOLDER` it goes on where another machine
stopped: measurements are read from files there, and written to them when a part ends. `--plan` says
what every part would take, and stops; `--write` writes down what was measured so far, parts that
were killed among it, and trains nothing.

Parts: pairs of pool and target, each with all methods and controls; the whole pool of each pair;
bins of a ranking on three pairs for three representations; how many examples TRIM needs; the first,
random and last rows of NAIT's ranking; GradFiltering's rows and random ones after one epoch and
after two; MADS's coverage with another model trained on its rows. Writes OUT/evidence.md,
OUT/evidence.json and a page for each study.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from kept_studies import keep, public_name, take_up
from report import circumstances
from small_pools import TYPING, general_rows

import coresetdb
from coresetdb import Database
from coresetdb.evaluation.results import ArmSummary, StudyResult, is_method
from coresetdb.evaluation.running import Forecast
from coresetdb.evaluation.statistics import Difference
from coresetdb.ingest.models.model_folder import settled_name
from coresetdb.reports.study import write_study
from coresetdb.schemas.progress import Silence

FEATURES = "fast,lexical"
METHODS = "rds;less;trim;nait;mads(weights=target);bm25"
"""Those that look at a target; GradFiltering and MADS without one have parts of their own."""
EXAMPLES = 32
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
    """A pool and a target, and the file its models are measured on.

    Attributes:
        pool: of `small_pools.py`.
        relevant: SQL condition: rows known to be relevant; None where none are.
        evaluation: of the target's held-out examples; None where they are drawn from `dolly_3k`.
        metrics: what is measured.
        of_bins: what is measured of bins, where that is less.
        items: examples that are measured.
    """

    target: str
    pool: str
    relevant: str | None
    evaluation: str | None
    metrics: str
    of_bins: str | None = None
    items: int = EVAL_ITEMS

    @property
    def call(self) -> dict[str, Any]:
        """Keywords of every study of the pair."""
        where = f"corpus = '{self.pool}'"
        return {"where": where, "metrics": self.metrics, "limit": self.items}


GSM8K, SVAMP, MBPP, ARC_EASY, QUAREL, QUESTION_TYPING, DOLLY = PAIRS = (
    Pair("gsm8k", "general", "task = 'gsm8k'", "gsm8k", "loss,exact_match", "loss"),
    Pair("svamp", "general", "task = 'gsm8k'", "svamp", "loss,exact_match"),
    Pair("mbpp", "general", "task = 'mbpp'", "mbpp", "loss"),
    Pair("arc_easy", "general", None, "arc_easy", "loss,choice,choice_likelihood"),
    Pair(
        "quarel",
        "p3",
        "task = 'quarel'",
        "p3_minority_quarel",
        "loss,exact_match,choice,choice_likelihood",
    ),
    Pair(
        "question_typing",
        "ni",
        f"task = '{TYPING}'",
        "ni_minority_question_typing",
        "loss,exact_match",
        items=50,  # each of 512 tokens
    ),
    Pair("dolly", "general", "task = 'dolly'", None, "loss"),
)
ORDER = (QUAREL, SVAMP, QUESTION_TYPING, ARC_EASY, GSM8K, MBPP, DOLLY)


def parts(budget: int, seeds: int, other_model: str | None) -> Iterator[Part]:
    """Yield the parts in the order in which they are run."""
    every = {"budgets": budget, "seeds": seeds}
    for pair in ORDER:
        yield Part(
            f"pair-{pair.target}",
            pair.target,
            "rows by a method train a better model than random ones",
            {**every, **pair.call, "relevant": pair.relevant, "methods": METHODS.split(";")},
        )
    for pair in ORDER:
        yield Part(
            f"full-{pair.target}",
            pair.target,
            "the whole pool, trained once",
            {**every, **pair.call, "seeds": 1, "methods": [], "controls": "zero-shot,full"},
        )
    for pair in (QUAREL, GSM8K, QUESTION_TYPING):
        for method in QUANTILES:
            yield Part(
                f"bins-{pair.target}-{method.partition(':')[0]}",
                pair.target,
                "nearness predicts what is learned (arXiv 2602.14696)",
                {
                    **pair.call,
                    "metrics": pair.of_bins or pair.metrics,
                    "method": method,
                    "bins": 10,
                    "budget": budget // 2,
                },
            )
    for examples in TRIM_EXAMPLES:
        yield Part(
            f"trim-{examples}",
            f"quarel-{examples}",
            "TRIM: a few examples suffice (arXiv 2510.07118)",
            {**every, **QUAREL.call, "methods": "trim", "controls": "random"},
        )
    yield Part(
        "nait-first-last",
        "quarel",
        "NAIT: the first rows over random ones over the last (arXiv 2603.13201)",
        {**every, **QUAREL.call, "methods": "nait", "controls": "zero-shot,random,worst"},
    )
    for epochs in (1, 2):
        yield Part(
            f"gradfiltering-{epochs}",
            "dolly",
            "GradFiltering: faster convergence at equal compute (arXiv 2601.13697)",
            {
                **every,
                **DOLLY.call,
                "methods": "gradfiltering",
                "controls": "zero-shot,random",
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
                **GSM8K.call,
                "methods": "mads",
                "controls": "zero-shot,random,full",
                "model": other_model,
            },
        )


def make_store(corpora: Path, out: Path, model: str, dtype: str, rows: int | None) -> Database:
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
        db.ingest(read_lines(pools / f"{pool}.jsonl")[:rows], corpus=pool, progress=Told())
    known = {target.name for target in db.list_targets()}
    for pair in PAIRS:
        if pair.target not in known:
            db.add_target(pair.target, target_examples(corpora, pools, pair))
    for count in TRIM_EXAMPLES:
        if f"quarel-{count}" not in known:
            db.add_target(f"quarel-{count}", target_examples(corpora, pools, QUAREL)[:count])
    return db


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def target_examples(corpora: Path, pools: Path, pair: Pair) -> list[dict[str, Any]]:
    """Return the examples that rows are chosen for."""
    if pair.evaluation is None:
        return unused_dolly(corpora, pools)[:EXAMPLES]
    drawn = pools / f"{pair.target}.target.jsonl"
    if drawn.exists():
        return read_lines(drawn)
    rows = read_lines(corpora / "targets" / f"{pair.evaluation}.query.jsonl.gz")
    if pair is ARC_EASY:
        answered = [example for row in rows if (example := answered_in_words(row))]
        return [{"prompt": row["prompt"], "response": row["response"]} for row in answered]
    return [{"prompt": row["prompt"], "response": row["target"]} for row in rows]


def evaluation_of(corpora: Path, pools: Path, pair: Pair) -> list[dict[str, Any]]:
    """Return the held-out examples of a target."""
    if pair.evaluation is None:
        return unused_dolly(corpora, pools)[EXAMPLES : EXAMPLES + EVAL_ITEMS]
    rows = read_lines(corpora / "targets" / f"{pair.evaluation}.eval.jsonl.gz")
    if pair is ARC_EASY:
        return [example for row in rows if (example := answered_in_words(row))]
    examples = [
        {"prompt": row["prompt"], "response": row["target"], "answer": row["answer"]}
        for row in rows
    ]
    if pair is QUAREL:  # its prompts end in: choose between "rabbit" and "snail"
        examples = [
            {**row, "choices": re.findall(r'"\s*([^"]+?)\s*"', row["prompt"])[-2:]}
            for row in examples
        ]
        examples = [row for row in examples if row["answer"] in row["choices"]]
    return examples


def answered_in_words(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a question of ARC with its choices as texts, None where two are the same.

    Asked for the letter, models of this size are at chance, trained or not; the text of the right
    answer they prefer to others more often than that.
    """
    asked = row["orig"]["question"]
    texts = {choice["label"]: choice["text"] for choice in asked["choices"]}
    if len(set(texts.values())) < len(texts):
        return None
    right = texts[row["orig"]["answerKey"]]
    return {"prompt": asked["stem"], "response": right, "choices": list(texts.values())}


def unused_dolly(corpora: Path, pools: Path) -> list[dict[str, Any]]:
    """Return the rows of dolly that were not drawn for the pool."""
    drawn = {row["prompt"] for row in read_lines(pools / "general.jsonl")}
    rows = general_rows(corpora / "pools", "dolly")
    return [
        {"prompt": row["prompt"], "response": row["response"]}
        for row in rows
        if row["prompt"] not in drawn
    ]


class Told(Silence):
    """Prints what is worth a line."""

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)


Results = Sequence[tuple[Part, StudyResult]]


def judged_by(result: StudyResult) -> str | None:
    """Return the metric that a pair is judged by: the first one in which the controls show an
    effect, None for a blind pair. Methods have no say in it."""
    for metric in result.metrics:
        sees = result.sees(metric)
        if (all(sees.values()) if sees else True) and not result.at_an_end(metric):
            return metric
    return None


def over(gain: Difference | None) -> str:
    """Return a difference with its interval."""
    return f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def study_tables(part: Part, result: StudyResult) -> Iterator[str]:
    """Yield a study: its arms by every metric, beside random, length-matched and zero-shot."""
    yield from (f"### {part.name}: {part.says}", "")
    for metric in result.metrics:
        rows = [
            [
                f"`{arm.arm}`" if is_method(arm.arm) else arm.arm,
                f"{arm.mean:.3f}" + (f" ± {arm.spread:.3f}" if arm.spread is not None else ""),
                *(over(arm.gains.get(name)) for name in ("random", "length_matched", "zero-shot")),
                arm.verdict or "",
            ]
            for arm in result.of(metric)
        ]
        columns = ("over random", "over length-matched", "over zero-shot", "verdict")
        yield from table((f"arm, by {metric}", "mean ± seeds", *columns), rows)
        yield ""
        for budget, sees in result.sees(metric).items():
            yield f"Budget {budget}, {metric}: {'the study sees' if sees else 'blind'}."
        if end := result.at_an_end(metric):
            yield f"Every arm is at the {end} of {metric}."
        for correlation in result.bins(metric).values():
            yield f"Spearman of bin and {metric}: {correlation:+.2f}."
        yield ""


def by_method(result: StudyResult, metric: str) -> dict[str, ArmSummary]:
    """Return method -> its arm by a metric."""
    return {arm.arm: arm for arm in result.of(metric) if is_method(arm.arm)}


def summary(results: Results) -> Iterator[str]:
    """Yield verdicts and ranks of the methods over the pairs."""
    pairs = [(part, result) for part, result in results if part.name.startswith("pair-")]
    judged = [(part, result, judged_by(result)) for part, result in pairs]
    blind = [part.target for part, _, metric in judged if metric is None]
    verdicts: dict[str, Counter[str]] = {}
    ranks: dict[str, list[float]] = {}
    for _, result, metric in judged:
        if metric is None:
            continue
        arms = by_method(result, metric)
        gains = {name: arm.gains["random"].estimate for name, arm in arms.items()}
        for name, arm in arms.items():
            verdicts.setdefault(name, Counter())[arm.verdict or ""] += 1
            ahead = sum(gain > gains[name] for gain in gains.values())
            level = sum(gain == gains[name] for gain in gains.values())
            ranks.setdefault(name, []).append(ahead + (level + 1) / 2)
    yield f"Pairs: {len(pairs)}; blind, and not counted: {', '.join(blind) or 'none'}."
    yield ""
    rows = [
        [f"`{name}`", *(str(own[each]) for each in ("better", "not shown", "worse")), mean]
        for name, own in sorted(verdicts.items(), key=lambda item: np.mean(ranks[item[0]]))
        for mean in [f"{np.mean(ranks[name]):.1f}"]
    ]
    yield from table(("method", "better", "not shown", "worse", "mean rank"), rows)
    yield ""
    for part, result, metric in judged:
        seconds = [arm.seconds for arm in result.arms if arm.training_tokens]
        tokens = [arm.training_tokens for arm in result.arms if arm.training_tokens]
        yield (
            f"* {part.target}: judged by {metric or 'nothing, it is blind'}; an arm trained on "
            f"{np.mean(tokens):,.0f} tokens and took {np.mean(seconds):.0f} s with its measurement."
        )


def time_selections(db: Database, results: Results) -> Iterator[str]:
    """Yield what choosing takes, beside what training an arm takes."""
    pairs = [(part, result) for part, result in results if part.name.startswith("pair-")]
    if not pairs:
        return
    part, result = pairs[0]
    rows = []
    for name, arm in by_method(result, result.metrics[0]).items():
        start = time.perf_counter()
        db.select(
            part.target,
            method=name,
            budget=part.call["budgets"],
            where=part.call["where"],
            dry_run=True,
        )
        rows.append([f"`{name}`", f"{time.perf_counter() - start:.1f}", f"{arm.seconds:.0f}"])
    yield from table((f"method, for {part.target}", "choosing, s", "training an arm, s"), rows)


def document(db: Database, results: Results, model: str) -> str:
    """Return all studies as Markdown."""
    lines = [f"Model: `{model}`. Made by `benchmarks/evidence.py`.", "", "## Over the pairs", ""]
    lines += [*summary(results), "", *time_selections(db, results), "", "## The studies", ""]
    for part, result in results:
        lines += study_tables(part, result)
    return "\n".join(lines)


def without_folder(result: StudyResult) -> StudyResult:
    """Return a study that says of its model's folder the name alone."""
    name = public_name(result.model)
    recipe = {**result.settings["recipe"], "model": name}
    return replace(result, model=name, settings={**result.settings, "recipe": recipe})


def write_down(db: Database, results: Results, model: str, out: Path) -> None:
    """Write tables, facts and a page for each study."""
    results = [(part, without_folder(result)) for part, result in results]
    for part, result in results:
        write_study(result, out / f"{part.name}.html")
    (out / "evidence.md").write_text(document(db, results, public_name(model)), encoding="utf-8")
    facts = {
        "parts": [{**asdict(part), "result": result.as_dict()} for part, result in results],
        **circumstances(),
    }
    (out / "evidence.json").write_text(json.dumps(facts, indent=1, default=str))


def main() -> None:
    """Run the parts that are not done yet, or write down what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--transfer-model", help="trained on rows that --model chose by coverage")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="only the first so many of each pool")
    parser.add_argument("--parts", default="", help="only those whose names begin so")
    parser.add_argument("--kept", type=Path, help="folder of what was measured, a file a part")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--write", action="store_true", help="what was measured; train nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    db = make_store(options.corpora, options.out, options.model, options.dtype, options.rows)
    pairs = {pair.target: pair for pair in PAIRS}
    wanted = [
        part
        for part in parts(options.budget, options.seeds, options.transfer_model)
        if part.name.startswith(options.parts)
    ]
    for part in wanted if options.kept else []:
        model = settled_name(part.call.get("model", options.model))
        if taken := take_up(db.store, part.name, options.kept, model):
            print(f"{part.name}: {taken} arms were measured before", file=sys.stderr)
    for part in [] if options.write else wanted:
        run = db.quantiles if "bins" in part.call else db.evaluate
        pair = pairs[part.target.partition("-")[0]]
        found = run(
            part.target,
            evaluation_of(options.corpora, options.out / "pools", pair),
            eval_format="prompt_response",  # prompts list their choices already
            name=part.name,
            dtype=options.dtype,
            forecast_only=options.plan,
            progress=Told(),
            **{"model": options.model, **part.call},
        )
        if isinstance(found, Forecast):
            print("\n".join(found.lines()))
        elif options.kept:
            keep(db.store, part.name, options.kept)
    if not options.plan:
        known = {study["study"] for study in db.list_studies()}
        done = [(part, db.open_study(part.name)) for part in wanted if part.name in known]
        for part, _ in done if options.kept else []:
            keep(db.store, part.name, options.kept)
        write_down(db, done, options.model, options.out)


if __name__ == "__main__":
    main()
