"""An explanation of why a row is in a coreset, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


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
        neurons: what each neuron added (`neuron_gains`), where it covers neurons.
        words: shared with the examples (`shared_words`), where it counts words.
        cannot: sentences on what cannot be explained, and why.
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

    def __repr__(self) -> str:
        pulled = self.pulled_by
        by = f", pulled by example {pulled.position} of {pulled.target}" if pulled else ""
        return (
            f"<Explanation of row {self.id[:8]}: rank {self.rank:,} of {self.rows:,} in "
            f"{self.coreset} by {self.method}{by}; as_dict() has everything>"
        )

    def __str__(self) -> str:
        from .explanation_text import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from .explanation_text import html

        return html(self)

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
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
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
