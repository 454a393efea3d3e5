"""An explanation for a person: sentences, the text, tokens in the colour of their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .frame import table

if TYPE_CHECKING:
    import polars as pl

    from ..query.explaining.explanation import Example, Explanation, Neighbour

STRONGEST = 10
"""Tokens, layers and neurons that are listed; --json has all of them."""

EXCERPT = 200
"""Characters of a turn of the runner-up."""

_QUIET = "dim"


def show(found: Explanation) -> None:
    """Print an explanation on stdout; colours on a terminal only."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for part in parts(found):
        console.print(part)


def parts(found: Explanation) -> Iterator[Text | str]:
    """The lines, in the order in which they are read."""
    asked = f" for {found.target}" if found.target else ""
    yield Text(f"#{found.rank:,} of {found.rows:,} in {found.coreset}: {found.id}", "bold")
    yield f"chosen by {found.method}{asked}, from corpus {safe(found.corpus)}"
    if found.score is not None:
        meaning = f", {found.score_is}" if found.score_is else ""
        yield f"score {found.score:.6g}{meaning}"
    elif found.score_is:
        yield f"score {found.score_is}"
    yield ""
    yield _coloured(found.tokens) if _readable(found.tokens) else _turns(found.messages)
    if found.tools:
        yield Text(f"tools: {safe(found.tools)}", _QUIET)
    yield from _examples(found)
    yield from _rows(found)
    if found.tokens is not None:
        yield from _tokens(found.tokens)
    for title, frame in (("Layers", found.layers), ("Neurons", found.neurons)):
        if frame is not None:
            yield from _listed(title, frame)
    if found.words is not None:
        yield from _words(found.words)
    if found.values:
        yield ""
        numbers = (f"{name} {_number(value)}" for name, value in found.values.items())
        yield f"What {found.method.partition(':')[0]} keeps of it: {', '.join(numbers)}"
    for sentence in found.cannot:
        yield Text(f"Not told. {sentence}", "yellow")


def safe(text: str) -> str:
    """A text whose control characters, line breaks and tabs apart, are written as escapes."""
    return "".join(
        each
        if each.isprintable() or each in "\n\t"
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def _turns(messages: Sequence[dict[str, Any]], most: int | None = None) -> Text:
    """Who says what, every turn cut to `most` characters if that is given."""
    lines = Text()
    for each in messages:
        said = each["content"] or str(each.get("tool_calls", ""))
        shown = said if most is None or len(said) <= most else said[: most - 1] + "…"
        lines.append(f"  {each['role']}: ", "cyan")
        lines.append(safe(shown).replace("\n", "\n    ") + "\n")
    lines.rstrip()
    return lines


def _examples(found: Explanation) -> Iterator[Text | str]:
    pulled, other = found.pulled_by, found.runner_up
    if pulled:
        yield ""
        yield f"Pulled by {_named(pulled)}{_similarity(pulled, found)}"
        yield _turns(pulled.messages)
    if other:
        yield ""
        # Only where the method looks at these cosines has the example lost a contest.
        contest = found.method.startswith(f"{found.compared_by}:")
        first = "Runner-up:" if pulled and contest else "The most similar example is"
        if pulled and not contest:
            first = (
                f"By {found.compared_by}, which {found.method} does not look at, most similar is"
            )
        by = f", {_apart(found.margin)}" if contest and found.margin is not None else ""
        yield f"{first} {_named(other)}{_similarity(other, found)}{by}"
        yield _turns(other.messages, EXCERPT)


def _named(example: Example) -> str:
    return f"example {example.position} of {example.target}"


def _similarity(example: Example, found: Explanation) -> str:
    if example.similarity is None:
        return ""
    place = f"number {example.place} of {found.asked} by similarity"
    return f" ({found.compared_by} {example.similarity:.4f}, {place})"


def _apart(margin: float) -> str:
    if margin >= 0:
        return f"{margin:.4f} less similar than the one that pulled it"
    return f"{-margin:.4f} more similar than the one that pulled it"


def _rows(found: Explanation) -> Iterator[str]:
    yield ""
    if found.nearest:
        yield f"Most similar row before it: {_row(found.nearest, found.compared_by)}"
    after = _row(found.next, found.compared_by) if found.next else "none, it is the last"
    yield f"Next row: {after}"
    if found.without:
        come = ", ".join(found.without.comes) or "nothing, no other row can be chosen"
        yield f"Without it would come in: {come}"
        if found.without.goes:
            yield f"Without it would also go: {', '.join(found.without.goes)}"


def _row(other: Neighbour, by: str | None) -> str:
    score = "" if other.score is None else f", score {other.score:.6g}"
    cosine = "" if other.similarity is None else f", {by} {other.similarity:.4f} to this one"
    return f"#{other.rank:,} {other.id}{score}{cosine}"


def _readable(tokens: pl.DataFrame | None) -> bool:
    return tokens is not None and tokens["text"].null_count() == 0


def _coloured(tokens: pl.DataFrame | None) -> Text:
    """The text as the model read it: the greener a token, the higher it scores."""
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
    counted = tokens.filter("counts").sort("score", descending=True, maintain_order=True)
    mean, greatest = counted["score"].mean(), counted["score"].max()
    yield ""
    yield (
        f"Tokens: {len(counted):,} of {len(tokens):,} count; mean score {_number(mean)}, greatest "
        f"{_number(greatest)}, and the row scores the mean of the two. The strongest:"
    )
    rows = [
        {
            "token": row["token"],
            "text": "" if row["text"] is None else repr(safe(row["text"])),
            "score": row["score"],
            "compared with": "itself" if row["seen"] else f"class {row['class']}, penalised",
        }
        for row in counted.head(STRONGEST).iter_rows(named=True)
    ]
    yield table(rows)


def _listed(title: str, frame: pl.DataFrame) -> Iterator[str]:
    """The layers in their order; of neurons the first ones, which add most."""
    yield ""
    gain = frame.columns[-1]
    rest = len(frame) - STRONGEST
    some = title == "Neurons" and rest > 0
    shown = frame.head(STRONGEST) if some else frame
    yield f"{title}, {gain} adds up to {_number(frame[gain].sum())}:"
    yield table(shown.to_dicts())
    if some:
        yield f"and {rest:,} more, {_number(frame[gain][STRONGEST:].sum())} together"


def _words(words: pl.DataFrame) -> Iterator[str]:
    yield ""
    if not len(words):
        yield "Words: it shares none with the examples"
        return
    yield f"Words: it shares {len(words):,} with the examples. The rarest:"
    rows = [{**row, "word": repr(safe(row["word"]))} for row in words.head(STRONGEST).to_dicts()]
    yield table([{name.replace("_", " "): value for name, value in row.items()} for row in rows])


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
