"""Columns of the conversation that a pair of columns would leave unread, and the `--map` for them.

A file with `context, question, answer` looks like question and answer, and its answers would lose
what they are about. Names tell what a column is for; a value tells whether there is anything in it:
only text, a list or an object that is not empty counts, so that a flag called `reasoning` does not.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import AmbiguousFormatError
from ...schemas.plain_text import count_of
from .importer import Fields, Importer
from .mapped import is_choice_name, numbered
from .single_turn import ANSWERS


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONTEXTS = _names(
    "context contexts passage passages document documents article articles paragraph paragraphs "
    "background story evidence evidences fact facts support supporting_facts knowledge narrative "
    "excerpt transcript abstract premise hypothesis table tables schema db_schema database_schema "
    "create_table code snippet code_context situation scenario source_text reference_text sentence "
    "sentence1 sentence2 input inputs search_results retrieved_documents retrieved_context ctxs "
    "few_shot fewshot demonstrations instruction instructions constraints requirements caption"
)
"""Stand before the question."""

HISTORIES = _names("history conversation_history chat_history dialogue_history previous_turns")
HINTS = _names("hint hints clue clue_text test_cases examples_in_prompt starter_code")
"""Stand behind the question."""

REASONINGS = _names(
    "reasoning reasoning_content reasoning_trace reasoning_text reasoning_chain thinking "
    "thinking_trace thinking_trajectory thinking_content thought thoughts think cot "
    "chain_of_thought chain_of_thoughts scratchpad deepseek_thinking_trajectory "
    "gemini_thinking_trajectory complex_cot"
)
"""Are the reasoning of the answer."""

EXPLANATIONS = _names(
    "rationale rationales explanation explanations solution solutions steps solution_steps "
    "intermediate_steps analysis justification proof derivation reason reasons working workings "
    "decomposition long_answer answer_explanation step_by_step"
)
"""Stand before the answer."""

SYSTEMS = _names("system system_prompt system_message system_instruction")
TOOLS = _names("tools functions")
TEXTS = _names("text prompt content full_prompt formatted_prompt full_text question query")
"""Are the prompt again, with the question in it; or stand before it, if they hold sentences."""

SENTENCE_WORDS = 8

QUESTIONS = tuple(
    "question question_stem query prompt instruction problem goal ctx sentence statement claim "
    "stem inputs input text premise user human".split()
)
"""Names of questions where no shape is known, the likeliest first."""


@dataclass
class ColumnKinds:
    """What the columns of a file are for, as far as their names say: columns of each kind."""

    before: list[str]
    behind: list[str]
    choices: list[str]
    reasoning: list[str]
    explanation: list[str]
    system: list[str]
    tools: list[str]
    history: list[str]

    @property
    def all(self) -> list[str]:
        """The columns of all kinds."""
        return [
            *self.before,
            *self.behind,
            *self.choices,
            *self.reasoning,
            *self.explanation,
            *self.system,
            *self.tools,
            *self.history,
        ]


def kinds_of(records: Sequence[Fields], read: Collection[str]) -> ColumnKinds:
    """What the columns outside `read` are for that belong to a conversation.

    Args:
        records: the first ones of a file.
        read: columns that are read already.
    """
    kinds = ColumnKinds([], [], [], [], [], [], [], [])
    names = [name for name in _filled(records) if name not in read]
    siblings = numbered(names, STEMS)
    for name in names:
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        purposes = (
            (kinds.choices, name in siblings or (is_choice_name(plain) and plain != "answers")),
            (kinds.history, plain in HISTORIES and _are_lists(records, name)),
            (kinds.before, plain in CONTEXTS or plain in HISTORIES),
            (kinds.behind, plain in HINTS),
            (kinds.reasoning, plain in REASONINGS),
            (kinds.explanation, plain in EXPLANATIONS),
            (kinds.system, plain in SYSTEMS),
            (kinds.tools, plain in TOOLS),
            (kinds.before, plain in TEXTS and _says_more(records, name, read)),
        )
        kind = next((kind for kind, fits in purposes if fits), None)
        if kind is not None:
            kind.append(name)
    return kinds


def _filled(records: Sequence[Fields]) -> Iterator[str]:
    """The columns in which some record has text, a list or an object."""
    for name in dict.fromkeys(name for record in records for name in record):
        values = (record.get(name) for record in records)
        if any(
            bool(value.strip() if isinstance(value, str) else value)
            for value in values
            if isinstance(value, str | list | dict)
        ):
            yield name


WRONG = _names("distractor incorrect_answer wrong_answer incorrect")
STEMS = WRONG | _names("option opt op choice answer ans ending sol candidate alternative") | {""}
"""Before the numbers of columns that hold a choice each; those of `WRONG` lack the right one."""


def _are_lists(records: Sequence[Fields], name: str) -> bool:
    values = [record[name] for record in records if record.get(name)]
    return all(isinstance(value, list) for value in values)


def _says_more(records: Sequence[Fields], name: str, read: Collection[str]) -> bool:
    """Whether a column holds sentences that neither hold nor are held by a text that is read."""
    return any(
        isinstance(record.get(name), str)
        and len(record[name].split()) >= SENTENCE_WORDS
        and not any(
            isinstance(record.get(column), str)
            and (record[column].strip() in record[name] or record[name].strip() in record[column])
            for column in read
        )
        for record in records
    )


ALL = CONTEXTS | HINTS | REASONINGS | EXPLANATIONS | SYSTEMS | TOOLS | HISTORIES


class UnreadColumns:
    """Counts records with a part of the conversation that their shape does not read.

    The first records decide whether a file is read as a pair; a column that is empty in all of
    them, or absent, may hold something later.

    Args:
        read: the columns that are read.
    """

    def __init__(self, read: Collection[str]) -> None:
        self._watched = ALL - {*read}
        self.counts: Counter[str] = Counter()

    def add(self, record: Fields) -> None:
        """Count a record that was read."""
        for name in self._watched & record.keys():
            value = record[name]
            if isinstance(value, str | list | dict) and (
                value.strip() if isinstance(value, str) else value
            ):
                self.counts[name] += 1

    def sentences(self) -> list[str]:
        """One sentence for each such column, the most frequent first."""
        return [
            f"{count_of(count, 'record')} with {name!r}, which is kept as metadata only and was "
            "empty in the first records; --map reads it"
            for name, count in self.counts.most_common()
        ]


def check_unread(
    file: str,
    importer: Importer,
    used: Collection[str],
    records: Sequence[Fields],
    original: dict[str, str],
) -> None:
    """Refuse to read a pair of columns that leaves a part of the conversation unread.

    Args:
        used: the columns that the importer reads.
        original: the importer's names of columns -> the file's, where they differ.

    Raises:
        AmbiguousFormatError: there is such a column; the message says what to type.
    """
    records = [record for record in records if importer.fits(record) is not None]
    kinds = kinds_of(records, {*used, *importer.beside})
    if not kinds.all:
        return
    left = ", ".join(original.get(name, name) for name in kinds.all)
    turn_columns = [name for name in used if name not in EXPLANATIONS and name not in HISTORIES]
    kinds_to_map = kinds_of(records, {*turn_columns, *importer.beside} - HISTORIES)
    turn_columns += [""] if importer.unanswered else []
    mapping = mapping_for(records, kinds_to_map, turn_columns, original)
    problem = (
        f"{importer.name} ({', '.join(used)}) would leave out a part of the conversation: {left}"
    )
    raise AmbiguousFormatError(
        file,
        problem,
        f"Put columns together with {mapping}, or say --format {importer.name} to keep {left} "
        "as metadata only",
        mapping,
    )


def suggested_mapping(records: Sequence[Fields]) -> str | None:
    """The `--map` that columns suggest by their names where no shape is known; None for none."""
    filled = {name.strip().lower(): name for name in _all_names(records)}
    question = next((filled[name] for name in QUESTIONS if name in filled), None)
    answer = next((filled[name] for name in ANSWERS if name in filled), None)
    if question is None or answer is None or question == answer:
        return None
    kinds = kinds_of(records, {question, answer})
    return mapping_for(records, kinds, [question, answer], {})


def _all_names(records: Sequence[Fields]) -> list[str]:
    return list(dict.fromkeys(str(name) for record in records for name in record))


def mapping_for(
    records: Sequence[Fields], kinds: ColumnKinds, used: Sequence[str], original: dict[str, str]
) -> str:
    """The options that read the columns `used`, of which the last is the answer, and all others."""
    *questions, answer = used
    before = kinds.before
    if questions and questions[0].lower().startswith("instruct"):  # what to do, then with what
        user = [*questions[:1], *before, *questions[1:]]
    else:
        user = [*before, *questions]
    choices = list(kinds.choices)
    if numbered(choices, WRONG):
        choices.append(answer)
    many = len(choices) > 1
    user += [*(["choices"] if many else choices), *kinds.behind]
    pairs = [
        ("user", user),
        ("choices", choices if many else []),
        ("reasoning", kinds.reasoning),
        ("assistant", [*kinds.explanation, answer] if answer else []),
        ("history", kinds.history[:1]),
        ("system", kinds.system[:1]),
        ("tools", kinds.tools[:1]),
    ]
    text = ",".join(
        f"{key}={'+'.join(original.get(name, name) for name in names)}"
        for key, names in pairs
        if names
    )
    options = f"--map {_quoted(text)}"
    if kinds.choices:
        return f"{options} --choices letters"
    return f"{options} --choices text" if _are_truths(records, answer) else options


def _are_truths(records: Sequence[Fields], name: str) -> bool:
    values: list[Any] = [record[name] for record in records if record.get(name) is not None]
    return bool(values) and all(isinstance(value, bool) for value in values)


def _quoted(text: str) -> str:
    """The text as a shell takes it, in double quotes where that is enough."""
    plain = not set(text) & set('"$`\\!')
    return f'"{text}"' if plain else shlex.quote(text)
