"""An explanation of why a row is in a coreset, as data and as text.

As text it is sentences, the conversation, and tokens in the colour of their scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from io import StringIO
from typing import IO, TYPE_CHECKING, Any

from ...schemas.plain_text import count_of, safe, text_table

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.text import Text

STRONGEST = 10
"""Tokens, layers and neurons that are listed; --json has all of them."""

EXCERPT = 200
"""Characters of a turn of the runner-up."""

_QUIET = "dim"


@dataclass(frozen=True)
class ComparedExample:
    """An example of a target, compared with the row.

    Attributes:
        target: its name.
        id: of the example.
        position: among the target's examples, from 1.
        similarity: cosine to the row; None where one of the two has no vector.
        place: among all examples, by similarity, from 1; None without a similarity.
        pulled: whether the row was chosen for it.
        messages: its text.
    """

    target: str
    id: str
    position: int
    similarity: float | None
    place: int | None
    pulled: bool
    messages: list[dict[str, Any]]


@dataclass(frozen=True)
class Neighbour:
    """Another row of the coreset; `similarity` is its cosine to the explained row, or None."""

    rank: int
    id: str
    score: float | None
    similarity: float | None = None


@dataclass(frozen=True)
class Without:
    """The same selection from the pool without this row: ids added, ids removed."""

    comes: tuple[str, ...]
    goes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a row is in a coreset.

    Attributes:
        coreset: its name.
        method: in full.
        rows: of the coreset.
        rank: of the row, from 1.
        id: of the row.
        corpus: the first that it was ingested with.
        score: as recorded; None for methods that give none.
        target: that it was chosen for; None for methods without one.
        messages: the row's text.
        tools: offered in it, as JSON; None for none.
        score_is: what the score means, in words; None for selectors of other packages.
        compared_by: the feature whose cosines the similarities are; None for none.
        asked: how many examples of the coreset's targets have that feature.
        examples: the one that pulled the row, and the most similar ones, best first.
        nearest: of the rows ranked before it, the most similar one.
        next: the row ranked after it.
        without: what would be chosen without the row; None unless requested.
        values: the numbers that the method's feature keeps of the row.
        tokens: what each token scores (`token_scores`), where the method looks at tokens.
        layers: what each layer adds (`layer_contributions`), where it looks at layers.
        neurons: what each neuron added, where it covers neurons (`neuron_gains`) or compares them
            with the target's (`profile_frame`).
        words: shared with the examples (`shared_words`), where it counts words.
        cannot: sentences on what cannot be explained, and why.
        group: of examples that pulled it, where they are compared in groups by `group_field`.
    """

    coreset: str
    method: str
    rows: int
    rank: int
    id: str
    corpus: str
    score: float | None
    target: str | None
    messages: list[dict[str, Any]]
    tools: str | None
    score_is: str | None = None
    compared_by: str | None = None
    asked: int = 0
    examples: tuple[ComparedExample, ...] = ()
    nearest: Neighbour | None = None
    next: Neighbour | None = None
    without: Without | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    tokens: pl.DataFrame | None = None
    layers: pl.DataFrame | None = None
    neurons: pl.DataFrame | None = None
    words: pl.DataFrame | None = None
    cannot: tuple[str, ...] = ()
    group: str | None = None
    group_field: str | None = None

    def __repr__(self) -> str:
        pulled = self.pulled_by
        by = f", pulled by example {pulled.position} of {pulled.target}" if pulled else ""
        return (
            f"<Explanation of row {self.id[:8]}: rank {self.rank:,} of {self.rows:,} in "
            f"{self.coreset} by {self.method}{by}; as_dict() has everything>"
        )

    def __str__(self) -> str:
        return "\n".join(str(part) for part in parts(self))

    def _repr_html_(self) -> str:
        """The text in the colours of a terminal, markup escaped."""
        page = console(StringIO(), record=True)
        for part in parts(self):
            page.print(part)
        return page.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    @property
    def pulled_by(self) -> ComparedExample | None:
        """The example that the row was chosen for, where the method knows one."""
        return next((example for example in self.examples if example.pulled), None)

    @property
    def runner_up(self) -> ComparedExample | None:
        """The most similar example besides the one that pulled the row."""
        others = (example for example in self.examples if not example.pulled)
        return next((other for other in others if other.similarity is not None), None)

    @property
    def margin(self) -> float | None:
        """How much more similar the row is to the example that pulled it than to the runner-up.

        Negative where another example is nearer: it was not that one's turn.
        """
        pulled, other = self.pulled_by, self.runner_up
        if pulled is None or other is None:
            return None
        if pulled.similarity is None or other.similarity is None:
            return None
        return pulled.similarity - other.similarity

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON values; tables are lists of rows."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("tokens", "layers", "neurons", "words"):
            plain[name] = None if plain[name] is None else plain[name].to_dicts()
        for name in ("nearest", "next", "without"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        return plain | {
            "examples": [asdict(example) for example in self.examples],
            "margin": self.margin,
            "values": dict(self.values),
            "cannot": list(self.cannot),
        }


def console(file: IO[str] | None = None, record: bool = False) -> Console:
    """A console that prints text as it is: no markup, no line breaks of its own."""
    from rich.console import Console

    return Console(
        file=file,
        record=record,
        markup=False,
        highlight=False,
        soft_wrap=True,
        force_jupyter=False,  # else a notebook shows what is only recorded
    )


def parts(explanation: Explanation) -> Iterator[Text | str]:
    """The lines, in the order in which they are read."""
    from rich.text import Text

    purpose = f" for {explanation.target}" if explanation.target else ""
    if explanation.group is not None:
        purpose += f", group {safe(explanation.group)} by {explanation.group_field}"
    yield Text(
        f"#{explanation.rank:,} of {explanation.rows:,} in {explanation.coreset}: {explanation.id}",
        "bold",
    )
    yield f"chosen by {explanation.method}{purpose}, from corpus {safe(explanation.corpus)}"
    if explanation.score is not None:
        meaning = f", {explanation.score_is}" if explanation.score_is else ""
        yield f"score {explanation.score:.6g}{meaning}"
    elif explanation.score_is:
        yield f"score {explanation.score_is}"
    yield ""
    yield (
        _coloured(explanation.tokens)
        if _readable(explanation.tokens)
        else _turns(explanation.messages)
    )
    if explanation.tools:
        yield Text(f"tools: {safe(explanation.tools)}", _QUIET)
    yield from _examples(explanation)
    yield from _rows(explanation)
    if explanation.tokens is not None:
        yield from _tokens(explanation.tokens)
    for title, frame in (("Layers", explanation.layers), ("Neurons", explanation.neurons)):
        if frame is not None:
            yield from _listed(title, frame)
    if explanation.words is not None:
        yield from _words(explanation.words)
    if explanation.values:
        yield ""
        numbers = (f"{name} {_number(value)}" for name, value in explanation.values.items())
        yield f"Values of {explanation.method.partition(':')[0]}: {', '.join(numbers)}"
    for sentence in explanation.cannot:
        yield Text(f"Not known. {sentence}", "yellow")


def _turns(messages: Sequence[dict[str, Any]], most: int | None = None) -> Text:
    """Who says what, every turn cut to `most` characters if that is given."""
    from rich.text import Text

    lines = Text()
    for message in messages:
        said = (message.get("reasoning_content"), message["content"])
        content = "\n\n".join(filter(None, said)) or str(message.get("tool_calls", ""))
        shown = content if most is None or len(content) <= most else content[: most - 1] + "…"
        lines.append(f"  {message['role']}: ", "cyan")
        lines.append(safe(shown).replace("\n", "\n    ") + "\n")
    lines.rstrip()
    return lines


def _examples(explanation: Explanation) -> Iterator[Text | str]:
    pulled, other = explanation.pulled_by, explanation.runner_up
    if pulled:
        yield ""
        yield f"Pulled by {_named(pulled)}{_similarity(pulled, explanation)}"
        yield _turns(pulled.messages)
    if other:
        yield ""
        # Only where the method looks at these cosines has the example lost a contest.
        contest = explanation.method.startswith(f"{explanation.compared_by}:")
        first = "Runner-up:" if pulled and contest else "The most similar example is"
        if pulled and not contest:
            by = f"By {explanation.compared_by}, which {explanation.method} does not use"
            first = f"{by}, the most similar one is"
        by = f", {_apart(explanation.margin)}" if contest and explanation.margin is not None else ""
        yield f"{first} {_named(other)}{_similarity(other, explanation)}{by}"
        yield _turns(other.messages, EXCERPT)


def _named(example: ComparedExample) -> str:
    return f"example {example.position} of {example.target}"


def _similarity(example: ComparedExample, explanation: Explanation) -> str:
    if example.similarity is None:
        return ""
    place = f"number {example.place} of {explanation.asked} by similarity"
    return f" ({explanation.compared_by} {example.similarity:.4f}, {place})"


def _apart(margin: float) -> str:
    if margin >= 0:
        return f"{margin:.4f} less similar than the one that pulled it"
    return f"{-margin:.4f} more similar than the one that pulled it"


def _rows(explanation: Explanation) -> Iterator[str]:
    yield ""
    if explanation.nearest:
        yield f"Most similar row before it: {_row(explanation.nearest, explanation.compared_by)}"
    after = (
        _row(explanation.next, explanation.compared_by)
        if explanation.next
        else "none, it is the last"
    )
    yield f"Next row: {after}"
    if explanation.without:
        added = ", ".join(explanation.without.comes) or "none, no other row can be chosen"
        yield f"Rows added without it: {added}"
        if explanation.without.goes:
            yield f"Rows removed without it: {', '.join(explanation.without.goes)}"


def _row(other: Neighbour, by: str | None) -> str:
    score = "" if other.score is None else f", score {other.score:.6g}"
    cosine = "" if other.similarity is None else f", {by} {other.similarity:.4f} to this one"
    return f"#{other.rank:,} {other.id}{score}{cosine}"


def _readable(tokens: pl.DataFrame | None) -> bool:
    return tokens is not None and tokens["text"].null_count() == 0


def _coloured(tokens: pl.DataFrame | None) -> Text:
    """The text as the model read it: the greener a token, the higher it scores."""
    from rich.text import Text

    assert tokens is not None
    line = Text("  ")
    top = max(tokens.filter("counts")["score"].max() or 0.0, 1e-9)  # type: ignore[type-var]
    for row in tokens.iter_rows(named=True):
        text = safe(row["text"]).replace("\n", "\n  ")
        if not row["counts"]:
            line.append(text, _QUIET)
            continue
        strength = min(max(row["score"] / top, 0.0), 1.0)
        line.append(text, f"on rgb(0,{int(140 * strength)},0)" if strength > 0.05 else None)
    return line


def _tokens(tokens: pl.DataFrame) -> Iterator[str]:
    counting = tokens.filter("counts").sort("score", descending=True, maintain_order=True)
    mean, greatest = counting["score"].mean(), counting["score"].max()
    yield ""
    yield (
        f"Tokens: {len(counting):,} of {len(tokens):,} are scored; mean {_number(mean)}, maximum "
        f"{_number(greatest)}; the row's score is the mean of the two. The strongest:"
    )
    rows = [
        {
            "token": row["token"],
            "text": "" if row["text"] is None else repr(safe(row["text"])),
            "score": row["score"],
            "compared with": "itself" if row["seen"] else f"class {row['class']}, penalised",
        }
        for row in counting.head(STRONGEST).iter_rows(named=True)
    ]
    yield text_table(rows)


def _listed(title: str, frame: pl.DataFrame) -> Iterator[str]:
    """The layers in their order; of neurons the first ones, which add most."""
    yield ""
    gain = frame.columns[-1]
    rest = len(frame) - STRONGEST
    some = title == "Neurons" and rest > 0
    shown = frame.head(STRONGEST) if some else frame
    yield f"{title}; {gain} sums to {_number(frame[gain].sum())}:"
    yield text_table(shown.to_dicts())
    if some:
        yield f"and {rest:,} more, {_number(frame[gain][STRONGEST:].sum())} in total"


def _words(words: pl.DataFrame) -> Iterator[str]:
    yield ""
    if not len(words):
        yield "It shares no word with the examples."
        return
    yield f"It shares {count_of(len(words), 'word')} with the examples. The rarest:"
    rows = [{**row, "word": repr(safe(row["word"]))} for row in words.head(STRONGEST).to_dicts()]
    yield text_table(
        [{name.replace("_", " "): value for name, value in row.items()} for row in rows]
    )


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
