"""Rows as reports show them: texts cut openly, and explanations with all that a method saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..query.explaining.explanation import STRONGEST, ComparedExample, Explanation, Neighbour
from .page import cut, number, visible

if TYPE_CHECKING:
    import polars as pl

TEXT_SHOWN = 1200
"""Characters of a turn."""

EXAMPLE_SHOWN = 500
"""Characters of a turn of a target's example."""

TURNS_SHOWN = 6
TOKENS_SHOWN = 600
LEVELS = 5
"""Of a token's colour."""


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation: the `shown` first of its characters."""

    role: str
    text: str
    characters: int
    shown: int

    @property
    def cut(self) -> bool:
        """Whether it is longer than what is shown."""
        return self.shown < self.characters


@dataclass(frozen=True)
class Text:
    """A conversation: its first turns, and how many more there are."""

    turns: tuple[Turn, ...]
    more: int


def text_of(messages: Sequence[Mapping[str, Any]], most: int = TEXT_SHOWN) -> Text:
    """Return a conversation as it is shown, every turn cut to `most` characters."""
    turns = []
    for message in messages[:TURNS_SHOWN]:
        said = (message.get("reasoning_content"), message.get("content"))
        content = "\n\n".join(filter(None, said)) or str(message.get("tool_calls") or "")
        turns.append(
            Turn(str(message["role"]), content[:most], len(content), min(most, len(content)))
        )
    return Text(tuple(turns), max(0, len(messages) - TURNS_SHOWN))


@dataclass(frozen=True)
class Part:
    """A table of what a method saw in a row: cells, a bar's width in per cent, whether negative."""

    title: str
    names: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], int, bool], ...]
    more: str = ""
    bars: bool = True


@dataclass(frozen=True)
class ExplainedRow:
    """A row with the reasons for which it is in a coreset, or nearly.

    Attributes:
        anchor: of the page.
        title, subtitle: rank, and id, corpus, score.
        text: its conversation, where its tokens are not shown.
        why: what its score means.
        pulled, pulled_title: the example that pulled it.
        sentences: on what is near it.
        parts: tokens, layers, neurons, words.
        tokens: stretches of text of one level each; None for text between them.
        tokens_say, tokens_cut: how many there are, and how many are not shown.
        cannot: sentences on what is not known.
    """

    anchor: str
    title: str
    subtitle: str
    text: Text
    why: str = ""
    pulled: Text | None = None
    pulled_title: str = ""
    sentences: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    tokens: tuple[tuple[int | None, str], ...] = ()
    tokens_say: str = ""
    tokens_cut: str = ""
    cannot: tuple[str, ...] = field(default=())


def explained_row(explanation: Explanation, anchor: str, near: bool = False) -> ExplainedRow:
    """Return an explanation as it is shown.

    Args:
        anchor: of the page.
        near: whether the row is a near miss, whose rank was never recorded.
    """
    score = "" if explanation.score is None else f", score {explanation.score:.4g}"
    title = f"Would be #{explanation.rank:,}" if near else f"#{explanation.rank:,}"
    row = ExplainedRow(
        anchor=anchor,
        title=title,
        subtitle=f"{explanation.id} from {cut(explanation.corpus)}{score}",
        text=text_of(explanation.messages),
        why=_why(explanation),
        sentences=tuple(_sentences(explanation)),
        parts=tuple(_parts(explanation)),
        cannot=explanation.cannot,
        **_pulled(explanation),
    )
    if explanation.tokens is None or explanation.tokens["text"].null_count():
        return row
    return ExplainedRow(**{**vars(row), **_tokens(explanation.tokens)})


def _why(explanation: Explanation) -> str:
    purpose = f" for {explanation.target}" if explanation.target else ""
    if explanation.group is not None:
        purpose += f", group {cut(explanation.group)} by {explanation.group_field}"
    meaning = f" Its score is {explanation.score_is}." if explanation.score_is else ""
    return f"By {explanation.method}{purpose}.{meaning}"


def _pulled(explanation: Explanation) -> dict[str, Any]:
    pulled = explanation.pulled_by
    if pulled is None:
        return {}
    asked = " ".join(turn["content"] for turn in pulled.messages if turn["role"] == "user")
    title = f"Pulled by {_named(pulled)}{_cosine(pulled, explanation)}: {cut(asked, 90)}"
    return {"pulled": text_of(pulled.messages, EXAMPLE_SHOWN), "pulled_title": title}


def _named(example: ComparedExample) -> str:
    return f"example {example.position} of {example.target}"


def _cosine(example: ComparedExample, explanation: Explanation) -> str:
    if example.similarity is None:
        return ""
    return (
        f" ({explanation.compared_by} {example.similarity:.3f}, number {example.place} of "
        f"{explanation.asked} by similarity)"
    )


def _sentences(explanation: Explanation) -> Iterator[str]:
    other = explanation.runner_up
    if other:
        asked = " ".join(turn["content"] for turn in other.messages if turn["role"] == "user")
        first = "Next most similar" if explanation.pulled_by else "Most similar"
        yield f"{first}: {_named(other)}{_cosine(other, explanation)}: {cut(asked, 90)}"
    if explanation.nearest:
        yield f"Most similar row ranked before it: {_row(explanation.nearest, explanation)}."
    if explanation.values:
        numbers = (f"{name} {number(value)}" for name, value in explanation.values.items())
        yield f"Values of {explanation.method.partition(':')[0]}: {', '.join(numbers)}."


def _row(other: Neighbour, explanation: Explanation) -> str:
    named = f"#{other.rank:,} {other.id[:8]}"
    if other.similarity is None:
        return named
    return f"{named}, {explanation.compared_by} {other.similarity:.3f}"


def _tokens(tokens: pl.DataFrame) -> dict[str, Any]:
    """The text in stretches of tokens that score about the same."""
    counting = tokens.filter("counts")
    top = max(_greatest(counting["score"]), 1e-9)
    stretches: list[tuple[int | None, str]] = []
    for row in tokens.head(TOKENS_SHOWN).iter_rows(named=True):
        level: int | None = 0
        if row["counts"]:
            strength = min(max(row["score"] / top, 0.0), 1.0)
            level = round(strength * LEVELS) or None
        if stretches and stretches[-1][0] == level:
            stretches[-1] = (level, stretches[-1][1] + row["text"])
        else:
            stretches.append((level, row["text"]))
    rest = len(tokens) - TOKENS_SHOWN
    return {
        "tokens": tuple((level, visible(text)) for level, text in stretches),
        "tokens_say": f"{len(counting):,} of {len(tokens):,} tokens are scored; the greatest has "
        f"{number(_greatest(counting['score']))}.",
        "tokens_cut": f"cut: the first {TOKENS_SHOWN:,} of {len(tokens):,} tokens"
        if rest > 0
        else "",
    }


def _greatest(scores: pl.Series) -> float:
    return float(scores.max() or 0.0)  # type: ignore[arg-type]


def _parts(explanation: Explanation) -> Iterator[Part]:
    if explanation.tokens is not None:
        counting = explanation.tokens.filter("counts").sort("score", descending=True)
        rows = [
            {
                "token": repr(row["text"]) if row["text"] is not None else row["token"],
                "compared with": "itself" if row["seen"] else f"class {row['class']}, penalised",
                "score": row["score"],
            }
            for row in counting.head(STRONGEST).iter_rows(named=True)
        ]
        yield _part("The strongest tokens", rows, "score", len(counting))
    if explanation.layers is not None:
        rows = explanation.layers.to_dicts()
        yield _part("What each layer adds", rows, explanation.layers.columns[-1], len(rows))
    if explanation.neurons is not None:
        rows = explanation.neurons.head(STRONGEST).to_dicts()
        gain = explanation.neurons.columns[-1]
        yield _part("The neurons that add most", rows, gain, len(explanation.neurons))
    if explanation.words is not None:
        rows = [
            {**row, "word": repr(row["word"])}
            for row in explanation.words.head(STRONGEST).to_dicts()
        ]
        yield _part("The rarest words that it shares", rows, "", len(explanation.words))


def _part(title: str, rows: Sequence[Mapping[str, Any]], by: str, total: int) -> Part:
    """A table, with bars as long as the column `by` says where it is given."""
    greatest = max((abs(row[by]) for row in rows if by in row), default=0.0) or 1.0
    shown = tuple(
        (
            tuple(_cell(value) for value in row.values()),
            round(100 * abs(row.get(by, 0.0) or 0.0) / greatest) if by else 0,
            bool(by and (row.get(by) or 0.0) < 0),
        )
        for row in rows
    )
    rest = total - len(rows)
    names = tuple(name.replace("_", " ") for name in (rows[0] if rows else {}))
    more = f"and {rest:,} more" if rest > 0 else ("" if rows else "There are none.")
    return Part(title, names, shown, more, bool(by))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "" if value is None else cut(value)
