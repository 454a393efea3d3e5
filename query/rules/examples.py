"""The examples that a coreset must not give away: those of its targets and of evaluation files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...schemas.canonical import canonical_json, digest_of
from ...schemas.errors import InputError, UsageError
from ...schemas.instruction import Instruction, Reject
from ..names import quoted
from .words import Said, said_in

if TYPE_CHECKING:
    from ...store.store import Store

_EVALUATION = "evaluation"


@dataclass(frozen=True)
class Example:
    """An example that may leak: its id, the target or file it is `of`, and what is said in it."""

    id: str
    of: str
    said: Said


@dataclass(frozen=True)
class Evaluation:
    """A benchmark: the name of its file and its distinct examples, in the file's order."""

    name: str
    instructions: tuple[Instruction, ...]

    @property
    def digest(self) -> str:
        """Of its content; the store keeps it under this name."""
        return digest_of([each.id for each in self.instructions])


def read_evaluation(file: str) -> Evaluation:
    """The examples of a benchmark, in any shape the importers know; answers may be missing.

    Raises:
        InputError: the file cannot be read to its end, or has no usable example.
    """
    from ...ingest.reading.records import ReadOptions, find_files, open_source

    found: dict[str, Instruction] = {}
    refused: set[str] = set()
    for each in find_files([file]):
        source = open_source(each, ReadOptions(allow_empty_answer=True))
        for record in source:
            if isinstance(record, Reject):
                refused.add(record.reason)
            else:
                found.setdefault(record.instruction.id, record.instruction)
        if source.fault:
            raise source.fault
    if not found:
        reasons = "; ".join(sorted(refused)) or "it is empty"
        raise InputError(file, f"no usable example ({reasons})", "An evaluation file needs one")
    name = file.rstrip("/").rsplit("/", 1)[-1]
    return Evaluation(name, tuple(found.values()))


def keep_evaluation(store: Store, evaluation: Evaluation) -> None:
    """Keep its examples in the store, so that a selection can be replayed without the file."""
    rows = [
        {"messages": [turn.as_dict() for turn in each.messages], "tools": each.tools}
        for each in evaluation.instructions
    ]
    data = zlib.compress(canonical_json(rows).encode())
    store.put_artifact(evaluation.digest, _EVALUATION, data)


def kept_evaluation(store: Store, name: str, digest: str) -> Evaluation:
    """The evaluation that was kept under a digest.

    Raises:
        UsageError: the store lost it.
    """
    data = store.artifact(digest, _EVALUATION)
    if data is None:
        raise UsageError(f"{store.uri} has lost the examples of evaluation {name} ({digest})")
    rows = json.loads(zlib.decompress(data))
    return Evaluation(
        name, tuple(Instruction.from_row(row["messages"], row["tools"]) for row in rows)
    )


def examples_of(
    store: Store, targets: Sequence[str], version: int, evaluations: Sequence[Evaluation]
) -> list[Example]:
    """All examples to be guarded, targets first, each source in its own order."""
    found = []
    table = store.dataset("targets", version)
    for target in targets:
        rows = table.to_table(
            columns=["id", "position", "messages"], filter=f"target = {quoted(target)}"
        )
        found += [
            Example(row["id"], target, said_in(row["messages"]))
            for row in rows.sort_by("position").to_pylist()
        ]
    for evaluation in evaluations:
        found += [
            Example(each.id, evaluation.name, said_in([turn.as_dict() for turn in each.messages]))
            for each in evaluation.instructions
        ]
    return found


def digest_of_examples(examples: Sequence[Example]) -> str:
    """Of which examples are guarded, in their order."""
    return digest_of([[each.of, each.id] for each in examples])
