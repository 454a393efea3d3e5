"""What a report shows of a coreset, gathered from the store; no model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..evaluation.results import list_studies
from ..query.closeness import Closeness, CoveredExample, closeness, prefix_sizes
from ..query.compare import LENGTHS, SideBySide, overlap
from ..query.coreset_facts import facts_of, selection_command
from ..query.coresets import IMPORTED, Coreset, pulled_shares
from ..query.distributions import categorical_metadata, column_distributions, numeric_columns
from ..query.explaining.explain import Explainer
from ..query.explaining.near_misses import with_near_misses
from ..query.maps import place_columns
from ..query.origins import Origin
from ..query.result_rows import beginnings, conversations
from ..query.snapshot import Snapshot
from ..schemas.errors import CoresetDBError, FingerprintError, MissingFeatureError, UsageError
from ..schemas.plain_text import count_of
from ..schemas.tables import POOL, literal
from ..store.evaluation_results import measurements
from .charts import (
    Chart,
    budget_chart,
    coverage_chart,
    distribution_chart,
    origins_chart,
    overlap_chart,
)
from .page import cut, number
from .rows import EXAMPLE_SHOWN, ExplainedRow, Text, explained_row, text_of
from .study import StudyView, newest_studies

if TYPE_CHECKING:
    from ..store.store import Store

ROWS_EXPLAINED = 10
"""Best rows, rows at the edge, and near misses, of each so many."""

EXAMPLES_SHOWN = 60
EXAMPLES_OPEN = 5
"""Examples, of those covered least, whose texts are unfolded."""

LEAKS_SHOWN = 20
FIELDS_SHOWN = 3
"""Metadata fields by which origins are counted."""

NUMBERS_SHOWN = 16
"""Numeric columns that are drawn, lengths apart."""

_GONE = (UsageError, MissingFeatureError, FingerprintError)

Say = Callable[[str], None]


@dataclass(frozen=True)
class RowGroup:
    """Rows that are explained together; a sentence where there are none."""

    name: str
    title: str
    says: str
    rows: tuple[ExplainedRow, ...]


@dataclass(frozen=True)
class ShownExample:
    """An example of a target: how well it is covered, its text, and the nearest pick's."""

    name: str
    covered: CoveredExample
    text: Text
    pick: Text

    @property
    def picks(self) -> str:
        """How many rows it pulled, in words."""
        return count_of(self.covered.pulled or 0, "pick")

    @property
    def beginning(self) -> str:
        """Of what the user says first, on one line; of the first turn where there is no user."""
        turns = self.text.turns
        first = next((turn for turn in turns if turn.role == "user"), turns[0] if turns else None)
        return cut(first.text, 160) if first else ""


@dataclass(frozen=True)
class LeftOut:
    """Rows that the leakage guard left out: a sentence, and some of them.

    Rows: row, how, example, words, the beginning of its text.
    """

    says: str
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class CoresetView:
    """A coreset as templates/coreset.html.jinja shows it.

    Attributes:
        coreset: it.
        key: its part of the anchors in the page.
        facts: what was asked for and came of it.
        commands: title and command each, to repeat and to use it.
        notes: sentences.
        share_names, shares: a table of what each of several targets pulled.
        origins, lengths, numbers: charts.
        other_numbers: numeric columns that are not drawn.
        near: charts of how near it comes to its targets.
        near_says: sentences about that, or on why it is not known.
        examples, examples_say, examples_open: of its targets, covered least first; a sentence on
            those left out; how many are unfolded.
        groups: the explained rows.
        left_out: by the leakage guard.
        studies, studies_say: evaluations that used it or its targets, and those left out.
    """

    coreset: Coreset
    key: str
    facts: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    notes: tuple[str, ...]
    share_names: tuple[str, ...]
    shares: list[tuple[Any, ...]]
    origins: list[Chart]
    lengths: list[Chart]
    numbers: list[Chart]
    other_numbers: list[str]
    near: list[Chart]
    near_says: list[str]
    examples: list[ShownExample]
    examples_say: str
    examples_open: int
    groups: list[RowGroup]
    left_out: LeftOut
    studies: list[StudyView]
    studies_say: str

    @property
    def charts(self) -> list[Chart]:
        """All of them."""
        return [*self.origins, *self.lengths, *self.numbers, *self.near]


def coreset_view(
    store: Store, coreset: Coreset, key: str, memory_limit: int, say: Say
) -> CoresetView:
    """Gather what a report shows of a coreset.

    Args:
        store: an open store.
        coreset: one of its coresets.
        key: for the anchors in the page.
        memory_limit: bytes that the selections it repeats may plan for.
        say: receives a sentence on each step.

    Raises:
        QueryError: DuckDB meets a limit.
    """
    ids = coreset.readable["id"].to_pylist()
    say(f"{coreset.name}: lengths and numbers of {count_of(len(ids), 'row')} and of the pool")
    schema = store.dataset("pool", coreset.pool_version).schema
    columns = numeric_columns(schema)
    lengths = [name for name in LENGTHS if name in columns]
    others = [name for name in columns if name not in {*POOL.names, *place_columns(schema.names)}]
    drawn = others[:NUMBERS_SHOWN]
    distributions = {
        each.what: each
        for each in column_distributions(store, [*lengths, *drawn], coreset.pool_version, ids)
    }
    say(f"{coreset.name}: how near it comes to its targets")
    near, near_charts, near_says = _near(store, coreset, memory_limit)
    examples, examples_say = _examples(store, coreset, near)
    say(f"{coreset.name}: why its rows were chosen")
    shares = pulled_shares(coreset)
    studies, studies_say = _studies(store, coreset)
    return CoresetView(
        coreset=coreset,
        key=key,
        facts=list(facts_of(coreset)),
        commands=_commands(coreset),
        notes=coreset.notes,
        share_names=tuple(shares[0]) if shares else (),
        shares=[tuple(share.values()) for share in shares],
        origins=_origins(coreset),
        lengths=[_length_chart(distributions[name]) for name in lengths if name in distributions],
        numbers=[
            *([_similarity_chart(near)] if near else []),
            *([distribution_chart(near.scores)] if near and near.scores else []),
            *(distribution_chart(distributions[name]) for name in drawn if name in distributions),
        ],
        other_numbers=others[NUMBERS_SHOWN:],
        near=near_charts,
        near_says=near_says,
        examples=examples,
        examples_say=examples_say,
        examples_open=EXAMPLES_OPEN,
        groups=list(_groups(store, coreset, key, memory_limit)),
        left_out=_left_out(store, coreset),
        studies=studies,
        studies_say=studies_say,
    )


def _commands(coreset: Coreset) -> list[tuple[str, str]]:
    store = coreset.store.typed
    commands = []
    imported = coreset.method == IMPORTED
    if coreset.saved and not imported:
        commands += [
            (
                "Choose the same rows again, from the same version of the pool",
                f"coresetdb coreset replay {store} {coreset.name}",
            )
        ]
    if not imported:
        commands.append(("Select like this from the pool as it is now", selection_command(coreset)))
    if coreset.saved:
        commands += [
            (
                "Write the rows for a trainer",
                f"coresetdb export {store} {coreset.name} --out {coreset.name}.jsonl",
            ),
            ("Explain a row by its rank", f"coresetdb explain {store} {coreset.name} 1"),
        ]
    return commands


def _origins(coreset: Coreset) -> list[Chart]:
    if not len(coreset):
        return []
    corpora = [Origin(share.corpus, share.picked, share.pool) for share in coreset.mix]
    charts = [origins_chart("corpus", corpora)]
    schema = coreset.store.dataset("pool", coreset.pool_version).schema
    fields = ["lang"] if "lang" in schema.names else []
    fields += categorical_metadata(coreset.store, coreset.pool_version, FIELDS_SHOWN)
    return charts + [origins_chart(field, coreset.origins(field)) for field in fields]


_LENGTH_TITLES = {
    "prompt_tokens": "Tokens of the prompt",
    "response_tokens": "Tokens of the answers",
    "tokens": "Tokens of the whole row",
}


def _length_chart(of: Any) -> Chart:
    return distribution_chart(of, _LENGTH_TITLES[of.what], "tokens")


def _similarity_chart(near: Closeness) -> Chart:
    says = f"Highest {near.feature} cosine of a row to an example, over all eligible rows"
    return distribution_chart(near.similarity, "Similarity to the targets", "highest cosine", says)


def _near(
    store: Store, coreset: Coreset, memory_limit: int
) -> tuple[Closeness | None, list[Chart], list[str]]:
    if not coreset.targets:
        return None, [], ["It was chosen without a target, so there is nothing to come near to."]
    try:
        near = closeness(store, coreset, memory_limit)
    except _GONE as error:
        return None, [], [f"Not known. {error}"]
    if near is None or not near.examples:
        return None, [], ["Not known: the pool and its targets share no feature with a cosine."]
    other = "" if near.own else ", which is not what the method compares"
    says = [f"Measured by the cosine of {near.feature}{other}."]
    last = near.prefixes[-1]
    drawn = [each.nearest for each in last.random if each.nearest is not None]
    if last.picks.nearest is not None and drawn:
        says.append(
            f"An example's nearest pick is {last.picks.nearest:.3f} away on average, its nearest "
            f"of as many random rows {sum(drawn) / len(drawn):.3f} (mean of {len(drawn)} draws), "
            f"its nearest row of the pool "
            f"{1 - float(np.mean([each.possible for each in near.examples])):.3f}."
        )
    names = _example_names(near)
    charts = [
        budget_chart(
            near.prefixes,
            "nearest",
            "Distance over the budget",
            "Mean over the examples of 1 - the highest cosine to one of the first rows.",
        ),
        budget_chart(
            near.prefixes,
            "mmd",
            "Discrepancy over the budget",
            "MMD: distance between the mean vector of the examples and that of the first rows.",
        ),
        coverage_chart(near.examples, names),
    ]
    return near, charts, says


def _example_names(near: Closeness) -> list[str]:
    several = len({example.target for example in near.examples}) > 1
    return [
        f"{example.target} {example.position}" if several else f"example {example.position}"
        for example in near.examples
    ]


def _examples(
    store: Store, coreset: Coreset, near: Closeness | None
) -> tuple[list[ShownExample], str]:
    if near is None:
        return [], ""
    named = dict(zip(near.examples, _example_names(near), strict=True))
    worst = sorted(near.examples, key=lambda example: example.nearest)[:EXAMPLES_SHOWN]
    texts = _example_texts(store, coreset, worst)
    picks = _texts(coreset, [example.pick for example in worst])
    shown = [
        ShownExample(
            named[example],
            example,
            texts.get((example.target, example.id), Text((), 0)),
            text_of(picks[example.pick], EXAMPLE_SHOWN),
        )
        for example in worst
    ]
    says = "Those that are covered least come first."
    if (rest := len(near.examples) - len(worst)) > 0:
        says += f" The {rest:,} that are covered best are left out."
    return shown, says


def _example_texts(
    store: Store, coreset: Coreset, examples: list[CoveredExample]
) -> dict[tuple[str, str], Text]:
    ids = ", ".join(dict.fromkeys(literal(example.id) for example in examples))
    rows = Snapshot(store).targets.to_table(
        columns=["target", "id", "messages"], filter=f"id IN ({ids})"
    )
    return {
        (row["target"], row["id"]): text_of(row["messages"], EXAMPLE_SHOWN)
        for row in rows.to_pylist()
    }


def _texts(coreset: Coreset, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    distinct = list(dict.fromkeys(ids))
    found = conversations(coreset.store, distinct, coreset.pool_version)
    return {row_id: row["messages"] for row_id, row in zip(distinct, found, strict=True)}


def _groups(store: Store, coreset: Coreset, key: str, memory_limit: int) -> Iterator[RowGroup]:
    """The best rows, those at the edge and those that nearly came in, each with its reasons."""
    members = coreset.readable
    extended, why_not = coreset, ""
    if coreset.short_by:
        why_not = "Every row that could be chosen was."
    else:
        try:
            extended = with_near_misses(store, coreset, ROWS_EXPLAINED, memory_limit)
        except _GONE as error:
            why_not = f"Not known. {error}"
    explainer = Explainer(store, extended, many=True)

    def explained(some: list[dict[str, Any]], near: bool = False) -> tuple[ExplainedRow, ...]:
        return tuple(
            explained_row(explainer.explain(row), f"{key}-row-{row['rank']}", near) for row in some
        )

    best = members.slice(0, ROWS_EXPLAINED).to_pylist()
    from_edge = max(ROWS_EXPLAINED, members.num_rows - ROWS_EXPLAINED)
    edge = members.slice(from_edge).to_pylist()
    missed = extended.members.slice(len(coreset)).to_pylist()
    yield RowGroup(
        "best",
        f"The {count_of(len(best), 'best row')}" if best else "The best rows",
        "" if best else "The coreset has no row.",
        explained(best),
    )
    yield RowGroup(
        "edge",
        "At the edge of the budget",
        "The last rows that were chosen." if edge else "All rows are among the best ones above.",
        explained(edge),
    )
    says = "Rows that would come in if the budget were ten rows larger, in their order."
    nothing = why_not or "No further row can be chosen."
    yield RowGroup(
        "missed", "Near misses", says if missed else nothing, explained(missed, near=True)
    )


def _left_out(store: Store, coreset: Coreset) -> LeftOut:
    rules = coreset.parameters.get("rules", {})
    leakage = rules.get("leakage")
    if leakage is None:
        if coreset.method == IMPORTED:
            return LeftOut("The leakage guard looked at nothing: the rows were chosen elsewhere.")
        off = (rules.get("asked") or {}).get("leakage") == "off"
        why = "it was turned off" if off else "there was neither a target nor an evaluation"
        return LeftOut(f"The leakage guard looked at nothing: {why}.")
    guarded = " and ".join(
        f"{count_of(examples, 'example')} of {of}" for of, examples in leakage["of"].items()
    )
    looked = f"{count_of(leakage['compared'], 'row')} compared with {guarded}"
    if not leakage["left_out"]:
        return LeftOut(f"The leakage guard left nothing out: {looked}.")
    listed = leakage["rows"][:LEAKS_SHOWN]
    kinds = ", ".join(f"{count:,} {how}" for how, count in sorted(leakage["how"].items()))
    says = f"{count_of(leakage['left_out'], 'row')} left out ({kinds}), of {looked}."
    if (rest := leakage["left_out"] - len(listed)) > 0:
        says += f" The first {len(listed):,} are listed here; {rest:,} more are not."
    try:
        texts = _texts(coreset, [leak["id"] for leak in listed])
    except CoresetDBError:  # some were purged since
        texts = {}
        says += " Some of them were purged since, so their texts are not shown."
    return LeftOut(
        says,
        tuple(
            (
                leak["id"][:8],
                leak["how"],
                f"{leak['example'][:8]} of {leak['of']}",
                cut(leak["words"], 160),
                cut(beginnings(texts[leak["id"]])[0], 160) if leak["id"] in texts else "",
            )
            for leak in listed
        ),
    )


def _studies(store: Store, coreset: Coreset) -> tuple[list[StudyView], str]:
    """The newest evaluations in which it trained a model, or of its targets; those left out."""
    rows = measurements(store, columns=["study", "target", "coreset"])
    groups = rows.group_by(["study", "target", "coreset"]).aggregate([]).to_pylist()
    about = {
        row["study"]
        for row in groups
        if row["coreset"] == coreset.name or row["target"] in coreset.targets
    }
    return newest_studies(store, [each["study"] for each in list_studies(store)], about)


@dataclass(frozen=True)
class PairView:
    """Two coresets side by side.

    Attributes:
        compared: what `compare` found.
        charts: of the overlap.
        facts: about the overlap.
        tables: caption, names and rows each.
        only: for each of the two, the best rows that the other one has not.
    """

    compared: SideBySide
    charts: list[Chart]
    facts: list[tuple[str, str]]
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]
    only: list[tuple[str, list[tuple[str, ...]]]]


def pair_view(first: Coreset, second: Coreset, compared: SideBySide) -> PairView:
    """Return what a report shows of two coresets side by side."""
    names = (first.name, second.name)
    order = "not defined" if compared.spearman is None else f"{compared.spearman:.3f}"
    facts = [
        (
            "rows in both",
            f"{compared.common:,}: {compared.of_first:.1%} of {names[0]}, "
            f"{compared.of_second:.1%} of {names[1]} "
            f"({compared.by_chance:,.1f} expected by chance)",
        ),
        ("Jaccard", f"{compared.jaccard:.3f}"),
        ("rank correlation of these rows", order),
    ]
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        (
            "Corpora, those that differ most first",
            ("corpus", names[0], "share", names[1], "share", "pool", "share"),
            [
                (
                    cut(mix.corpus),
                    *(f"{mix.first:,}", f"{mix.first_share:.1%}"),
                    *(f"{mix.second:,}", f"{mix.second_share:.1%}"),
                    *(f"{mix.pool:,}", f"{mix.pool_share:.1%}"),
                )
                for mix in compared.corpora[:25]
            ],
        ),
        (
            "Lengths in tokens",
            ("", "coreset", "mean", "median", "90 %", "gap of the distributions"),
            [
                (each.what.replace("_", " "), name, *_length_cells(numbers), gap)
                for each in compared.lengths
                for name, numbers, gap in (
                    (names[0], each.first, ""),
                    (names[1], each.second, f"{each.gap:.3f}"),
                )
            ],
        ),
    ]
    if (rest := len(compared.corpora) - 25) > 0:
        facts.append(("corpora", f"the 25 that differ most are listed, {rest:,} more are not"))
    if compared.measured:
        tables.append(
            (
                "Distances to the targets",
                (
                    "target",
                    "feature",
                    *(f"distance of {name}" for name in names),
                    *(f"MMD of {name}" for name in names),
                ),
                [
                    (
                        each.target,
                        each.feature,
                        *(number(side.nearest, 4) for side in (each.first, each.second)),
                        *(number(side.mmd, 4) for side in (each.first, each.second)),
                    )
                    for each in compared.measured
                ],
            )
        )
    if compared.pulled:
        tables.append(
            (
                "Rows that each target pulled",
                ("target", *names, "in both"),
                [
                    (each.target, f"{each.first:,}", f"{each.second:,}", f"{each.both:,}")
                    for each in compared.pulled
                ],
            )
        )
    sizes = prefix_sizes(min(len(first), len(second)))
    prefixes = [overlap((first.ids, second.ids), size) for size in sizes]
    charts = [overlap_chart(prefixes, *names)]
    return PairView(compared, charts, facts, tables, [_only(first, second), _only(second, first)])


def _length_cells(numbers: dict[str, float]) -> tuple[str, str, str]:
    return tuple(f"{numbers[key]:,.0f}" for key in ("mean", "q50", "q90"))  # type: ignore[return-value]


def _only(own: Coreset, other: Coreset) -> tuple[str, list[tuple[str, ...]]]:
    """The best rows of one that the other has not: rank, corpus, prompt, answer."""
    theirs, members = set(other.ids), own.readable
    places = [at for at, row_id in enumerate(members["id"].to_pylist()) if row_id not in theirs]
    rows = members.take(pa.array(places[:ROWS_EXPLAINED], pa.int64())).to_pylist()
    texts = _texts(own, [row["id"] for row in rows])
    shown = [
        (
            f"{row['rank']:,}",
            cut(row["corpus"], 40),
            *(cut(text, 160) for text in beginnings(texts[row["id"]])),
        )
        for row in rows
    ]
    title = f"Only in {own.name}: {count_of(len(places), 'row')}"
    return title + (", the best of them" if len(places) > len(shown) else ""), shown
