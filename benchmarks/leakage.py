"""The leakage guard on real data: rows it leaves out of real pools, and planted leaks it finds.

    python benchmarks/leakage.py --data ../shared/data

Both versions of the guard are compared: the first took any 13 words in a row for a leak. Pools and
examples are held in memory, and how common a run of words is, is counted over the pools together.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import write_report

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.query.rules.examples import GuardedExample, conversation_words, ngrams
from coresetdb.query.rules.guard import NGRAM, SHORT_NGRAM, Guard, Leak, Suspicion
from coresetdb.query.rules.leakage import wording_above
from coresetdb.schemas.instruction import Reject

POOLS = (
    *("mbpp_train.jsonl.gz", "code_alpaca_2k.json.gz", "gpteacher_codegen.json.gz"),
    *("dolly_3k.json.gz", "gsm8k_train.jsonl.gz", "math_test_rest.jsonl.gz"),
    "self_instruct_seed_175.jsonl.gz",
)
TARGETS = ("mbpp.query", "mbpp.eval", "gsm8k.eval", "svamp.eval", "arc_easy.eval", "mmlu.eval")
PLANTED = ("mbpp.eval", "gsm8k.eval")
VERSIONS = (1, 2)

Messages = list[dict[str, Any]]


def rows_of(file: Path, mapping: dict[str, str] | None = None) -> list[tuple[str, Messages]]:
    """Ids and messages of a file."""
    source = open_source(str(file), ReadOptions(allow_empty_answer=True, mapping=mapping or {}))
    instructions = (record.instruction for record in source if not isinstance(record, Reject))
    return [(each.id, [turn.as_stored() for turn in each.messages]) for each in instructions]


def leak(guard: Guard, row: str, messages: Messages, is_rare: Any) -> Leak | None:
    """The first leak of a row."""
    found = guard.leak_or_suspicion(row, messages)
    if isinstance(found, Suspicion):
        return next(guard.leaks_of(found, is_rare), None)
    return found


def edited(text: str, every: int) -> str:
    """A text with every so-manieth word changed, where it is a word of letters."""
    parts, words = re.findall(r"\s+|\S+", text), 0
    for at, part in enumerate(parts):
        words += not part.isspace()
        if not part.isspace() and words % every == 0 and part.isalpha():
            parts[at] = part + "x"
    return "".join(parts)


def renamed(code: str) -> str:
    """Code with other names for its functions."""
    for number, name in enumerate(dict.fromkeys(re.findall(r"def (\w+)", code))):
        code = re.sub(rf"\b{name}\b", f"solve{number}", code)
    return code


def planted(question: str, answer: str) -> dict[str, tuple[str, str]]:
    """Rows that give an example away, by how."""
    plain = re.sub(r"[^\w\s]", " ", question.upper())
    return {
        "whole": (question, answer),
        "question alone": (question, "I do not know."),
        "re-cased, without punctuation": (plain, answer),
        "answer alone": ("Show me some code or a sum.", answer),
        "answer, functions renamed": ("Show me some code or a sum.", renamed(answer)),
        "question, every 10th word edited": (edited(question, 10), "I do not know."),
        "both, every 12th word edited": (edited(question, 12), edited(answer, 12)),
    }


def found_of(examples: Sequence[GuardedExample], rows: Sequence[tuple[str, Messages]]) -> dict:
    """Share of the planted leaks that each version finds."""
    guards = {version: Guard(examples, version) for version in VERSIONS}
    found: dict[str, Counter[int]] = {}
    for _, messages in rows:
        for how, texts in planted(messages[0]["content"], messages[1]["content"]).items():
            turns = zip(("user", "assistant"), texts, strict=True)
            row = [{"role": role, "content": text} for role, text in turns]
            for version, guard in guards.items():
                leaks = leak(guard, "0" * 32, row, lambda run: True) is not None
                found.setdefault(how, Counter())[version] += leaks
    return {how: {v: n[v] / len(rows) for v in VERSIONS} for how, n in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    pool = [row for name in POOLS for row in rows_of(arguments.data / "pools" / name)]
    counts = Counter[str]()
    for _, messages in pool:
        words = conversation_words(messages).everything
        counts.update({*ngrams(words, NGRAM), *ngrams(words, SHORT_NGRAM)})
    most = wording_above(len(pool))
    report: dict[str, Any] = {"pool": len(pool), "left_out": {}, "planted": {}}
    for target in TARGETS:
        mapping = {"user": "prompt", "assistant": "target"}
        rows = rows_of(arguments.data / "targets" / f"{target}.jsonl.gz", mapping)
        examples = [GuardedExample.from_messages(id, target, text) for id, text in rows]
        for version in VERSIONS:
            guard = Guard(examples, version)
            leaks = (leak(guard, id, text, lambda run: counts[run] <= most) for id, text in pool)
            how = Counter(each.how for each in leaks if each)
            report["left_out"][f"{target}, version {version}"] = dict(how)
            print(
                f"{target:15} version {version}: {how.total()} of {len(pool):,} rows, {dict(how)}"
            )
        if target in PLANTED:
            report["planted"][target] = found_of(examples, rows)
            for name, shares in report["planted"][target].items():
                both = "  ".join(f"{version}: {share:.1%}" for version, share in shares.items())
                print(f"  {name:34} {both}")
    if arguments.out:
        write_report(arguments.out, "leakage", report)


if __name__ == "__main__":
    main()
