"""What a report shows of a pool alone: what it is made of, and whether anything is to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..evaluation.results import list_studies
from ..ingest.drift import status
from ..query.compare import LENGTHS
from ..query.distributions import (
    categorical_metadata,
    column_distributions,
    numeric_columns,
    score_distributions,
    value_counts,
)
from ..query.maps import place_columns
from ..query.origins import Origin
from ..schemas.plain_text import count_of
from ..schemas.recipe import ANNOTATION
from ..schemas.tables import POOL
from ..store.features import features_of
from ..store.sql.names import quoted
from ..store.sql.session import FILTER_TIME_LIMIT, SqlSession
from ..store.status import Status
from .charts import Chart, counts_chart, distribution_chart, origins_chart
from .page import cut, number
from .study import StudyView, newest_studies

if TYPE_CHECKING:
    from ..store.store import Store

NUMBERS_SHOWN = 24
"""Numeric columns that are drawn, lengths apart."""

SCORES_SHOWN = 12
VALUES_SHOWN = 25
FIELDS_SHOWN = 4
"""Metadata fields whose values are counted."""

CORPORA_SHOWN = 40
REASONS_SHOWN = 25
CLUSTERS_SHOWN = 10

Say = Callable[[str], None]
Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Table:
    """A table of a report, and what is to be said of it; which columns are texts of others."""

    caption: str
    names: tuple[str, ...]
    rows: Rows
    says: str = ""
    texts: tuple[int, ...] = ()


@dataclass(frozen=True)
class PoolView:
    """A pool as templates/pool.html.jinja shows it.

    Attributes:
        status: of the store.
        facts: in a line each.
        make_up, lengths, languages, numbers, scores: charts.
        corpora, lengths_by_corpus: tables.
        language_says: a sentence where languages are not known.
        other_numbers: what is not drawn.
        duplicates, rejects: tables, or a sentence.
        fits: tables of how well what was fitted still suits.
        fits_say: sentences.
        due: what to do.
        targets, coresets: tables.
        studies: the newest evaluations, and a sentence on those left out.
    """

    status: Status
    facts: list[tuple[str, str]]
    make_up: list[Chart]
    corpora: Table
    languages: list[Chart]
    language_says: str
    lengths: list[Chart]
    lengths_by_corpus: Table
    numbers: list[Chart]
    other_numbers: list[str]
    scores: list[Chart]
    scores_say: str
    duplicates: list[Table]
    duplicates_say: list[str]
    rejects: list[Table]
    rejects_say: str
    fits: list[Table]
    fits_say: str
    due: list[str]
    targets: Table
    coresets: Table
    studies: list[StudyView]
    studies_say: str

    @property
    def charts(self) -> list[Chart]:
        """All of them."""
        return [
            *self.make_up,
            *self.languages,
            *self.lengths,
            *self.numbers,
            *self.scores,
        ]


def pool_view(store: Store, say: Say) -> PoolView:
    """Gather what a report shows of a pool; DuckDB and the store's tables count, no model runs.

    Args:
        store: an open store.
        say: receives a sentence on each step.

    Raises:
        QueryError: DuckDB meets a limit.
    """
    say("what the store holds")
    state = status(store)
    version = state.version
    schema = store.dataset("pool", version).schema
    columns = numeric_columns(schema) if state.rows else []
    lengths = [name for name in LENGTHS if name in columns]
    others = [name for name in columns if name not in {*POOL.names, *place_columns(schema.names)}]
    say(f"lengths and numbers of {count_of(state.rows, 'row')}")
    drawn = others[:NUMBERS_SHOWN]
    found = {each.what: each for each in column_distributions(store, [*lengths, *drawn], version)}
    languages, language_says = _languages(store, schema.names, version, state.rows)
    with SqlSession(
        store.place.uri,
        at=version,
        time_limit=FILTER_TIME_LIMIT,
        storage_options=store.place.options,
    ) as session:
        say("duplicates, rejects and scores")
        duplicates, duplicates_say = _duplicates(store, session, state)
        rejects, rejects_say = _rejects(session, state)
        by_corpus = _lengths_by_corpus(session, state)
        scores, left = score_distributions(session, SCORES_SHOWN)
        ingested = _ingested(session)
    names = [study["study"] for study in list_studies(store)]
    studies, studies_say = newest_studies(store, names, set(names))
    return PoolView(
        status=state,
        facts=[*_facts(state), *ingested],
        make_up=_make_up(store, state),
        corpora=_corpora(state),
        languages=languages,
        language_says=language_says,
        lengths=[_length_chart(found[name], name) for name in lengths if name in found],
        lengths_by_corpus=by_corpus,
        numbers=[distribution_chart(found[name]) for name in drawn if name in found],
        other_numbers=others[NUMBERS_SHOWN:],
        scores=[distribution_chart(each) for each in scores],
        scores_say=_scores_say(scores, left, store),
        duplicates=duplicates,
        duplicates_say=duplicates_say,
        rejects=rejects,
        rejects_say=rejects_say,
        fits=_fits(state),
        fits_say=""
        if state.bases or state.ensembles
        else "No feature of this store was fitted to a sample, so nothing can go out of date.",
        due=state.advice(),
        targets=_plain("Targets", state.targets),
        coresets=_plain("Coresets", state.coresets),
        studies=studies,
        studies_say=studies_say,
    )


def _facts(state: Status) -> list[tuple[str, str]]:
    tokens = sum(row["tokens"] or 0 for row in state.corpora)
    answers = sum(row["response tokens"] or 0 for row in state.corpora)
    facts = [
        ("store", state.uri),
        ("rows", f"{state.rows:,} at version {state.version}"),
        ("tokens", f"{tokens:,}, of which {answers:,} in answers"),
        ("corpora", f"{len(state.corpora):,}"),
        ("model", state.backbone),
        ("features", ", ".join(dict.fromkeys(row["representation"] for row in state.features))),
    ]
    if size := sum(row.get("bytes a row", 0) or 0 for row in state.sizes):
        facts.append(("on disk", f"{size:,.0f} bytes a row"))
    return [(name, value) for name, value in facts if value]


def _ingested(session: SqlSession) -> list[tuple[str, str]]:
    """What came of all records that were read, over all ingestions."""
    [row] = (
        session.run(
            "SELECT sum(f.read) AS read, sum(f.new) AS new, sum(f.duplicate) AS duplicate, "
            "sum(f.rejected) AS rejected FROM (SELECT unnest(files) AS f FROM runs) "
            "WHERE f.corpus <> ''"  # what is attached to rows has no corpus
        )
        .read_all()
        .to_pylist()
    )
    if not row["read"]:
        return []
    return [
        (
            "records read",
            f"{int(row['read']):,}: {int(row['new']):,} new, {int(row['duplicate']):,} duplicate "
            f"(the same content), {int(row['rejected']):,} rejected",
        )
    ]


def _make_up(store: Store, state: Status) -> list[Chart]:
    if not state.corpora:
        return []
    by_size = sorted(state.corpora, key=lambda row: -row["rows"])
    origins = [Origin(row["corpus"], 0, row["rows"]) for row in by_size]
    charts = [origins_chart("corpus", origins, picked=False)]
    for name in categorical_metadata(store, state.version, FIELDS_SHOWN):
        counts, rest = value_counts(store, name, state.version, VALUES_SHOWN)
        named = [(each["value"] or "(none)", each["rows"]) for each in counts]
        says = _most_frequent(counts)
        says += f" {count_of(rest, 'rarer value is', 'rarer values are')} left out." if rest else ""
        charts.append(counts_chart(f"Rows by {name}", named, says, name))
    return charts


def _most_frequent(counts: list[dict[str, Any]], absent: str = "none") -> str:
    """The value that most rows have, and how many rows have no value, which is called `absent`."""
    named = [each["value"] for each in counts if each["value"]]
    says = f"{cut(named[0])} is the most frequent." if named else ""
    none = sum(each["rows"] for each in counts if not each["value"])
    return f"{says} {count_of(none, 'row has', 'rows have')} {absent}.".strip() if none else says


def _corpora(state: Status) -> Table:
    by_size = sorted(state.corpora, key=lambda row: -row["rows"])
    rest = len(by_size) - CORPORA_SHOWN
    return Table(
        "Corpora",
        ("corpus", "rows", "of the pool", "tokens", "in answers", "truncated"),
        [
            (
                cut(row["corpus"]),
                f"{row['rows']:,}",
                f"{row['rows'] / max(state.rows, 1):.1%}",
                *(f"{row[name] or 0:,}" for name in ("tokens", "response tokens", "truncated")),
            )
            for row in by_size[:CORPORA_SHOWN]
        ],
        f"The {rest:,} smallest corpora are not listed." if rest > 0 else "",
    )


def _languages(store: Store, names: list[str], version: int, rows: int) -> tuple[list[Chart], str]:
    if "lang" not in names or not rows:
        return [], (
            "Not known: the store has no feature lang. Add it: "
            f"coresetdb featurize {store.typed} lang"
        )
    counts, rest = value_counts(store, "lang", version, VALUES_SHOWN)
    named = [(each["value"] or "(unclear)", each["rows"]) for each in counts]
    says = _most_frequent(counts, "an unclear one")
    if rest:
        says += f" {count_of(rest, 'rarer language is', 'rarer languages are')} left out."
    return [counts_chart("Rows by language", named, says, "language")], ""


def _length_chart(of: Any, name: str) -> Chart:
    titles = {
        "prompt_tokens": "Tokens of the prompt",
        "response_tokens": "Tokens of the answers",
        "tokens": "Tokens of the whole row",
    }
    return distribution_chart(of, titles[name], "tokens")


def _lengths_by_corpus(session: SqlSession, state: Status) -> Table:
    names = ("corpus", "rows", "10 %", "median", "90 %", "longest")
    if not state.rows:
        return Table("Tokens of answers by corpus", names, [])
    rows = session.run(
        "SELECT corpus, count(*) AS rows, "
        "approx_quantile(response_tokens, [0.1, 0.5, 0.9]) AS quantiles, "
        "max(response_tokens) AS longest FROM pool GROUP BY corpus "
        f"ORDER BY rows DESC, corpus LIMIT {CORPORA_SHOWN}"
    ).read_all()
    return Table(
        "Tokens of answers by corpus",
        names,
        [
            (
                cut(row["corpus"]),
                f"{row['rows']:,}",
                *(number(each) for each in row["quantiles"] or ("", "", "") if each != ""),
                number(row["longest"]),
            )
            for row in rows.to_pylist()
        ],
    )


def _scores_say(scores: list, left: list[str], store: Store) -> str:
    if left:
        return f"Not drawn: {', '.join(left)}."
    if scores:
        return ""
    return f"No scores are kept. coresetdb score run {store.typed} TARGET keeps some."


def _duplicates(store: Store, session: SqlSession, state: Status) -> tuple[list[Table], list[str]]:
    """What each deduplication that the store keeps found; how many places rows were seen in."""
    tables, says = [], []
    for name, recipe in features_of(store).items():
        pair = _dedup_columns(recipe)
        if pair is None:
            continue
        cluster, kept = (quoted(column) for column in pair)
        [row] = (
            session.run(
                f"SELECT count(*) FILTER (NOT {kept}) AS not_kept, count(*) AS rows, "
                f"count(*) FILTER ({kept} IS NULL) AS unknown FROM pool"
            )
            .read_all()
            .to_pylist()
        )
        groups = (
            session.run(
                f"SELECT {cluster} AS id, count(*) AS rows, count(DISTINCT corpus) AS corpora "
                f"FROM pool WHERE {cluster} IS NOT NULL GROUP BY {cluster} HAVING count(*) > 1 "
                f"ORDER BY rows DESC, id LIMIT {CLUSTERS_SHOWN}"
            )
            .read_all()
            .to_pylist()
        )
        sentence = (
            f"{name}: {row['not_kept']:,} of {row['rows']:,} rows repeat another one nearly "
            f"({row['not_kept'] / max(row['rows'], 1):.1%})"
        )
        if row["unknown"]:
            sentence += f"; {row['unknown']:,} rows came later and were not compared"
        says.append(sentence + ".")
        if groups:
            texts = _first_words(store, [group["id"] for group in groups])
            tables.append(
                Table(
                    f"The largest clusters of {name}",
                    ("rows", "corpora", "kept row", "begins"),
                    [
                        (
                            f"{group['rows']:,}",
                            f"{group['corpora']:,}",
                            group["id"][:8],
                            texts.get(group["id"], "(removed)"),
                        )
                        for group in groups
                    ],
                    texts=(3,),
                )
            )
    if not says and state.rows:
        says.append(
            "Near-duplicates were never looked for. "
            f"coresetdb dedup {store.typed} looks for them and keeps what it finds."
        )
    return tables, says


def _dedup_columns(recipe: Any) -> tuple[str, str] | None:
    """The columns of clusters and of kept rows, if a deduplication made the annotation."""
    if recipe.representation != ANNOTATION or len(recipe.columns) < 2:
        return None
    cluster, kept = recipe.columns[:2]
    if not (cluster.endswith("cluster") and kept.endswith("kept")):
        return None
    return (cluster, kept) if "linkage" in recipe.options.get("dedup", recipe.options) else None


def _first_words(store: Store, ids: list[str]) -> dict[str, str]:
    from ..query.dedup.duplicates import first_words

    listed = ", ".join(f"'{row_id}'" for row_id in ids)
    rows = store.dataset("pool").to_table(columns=["id", "messages"], filter=f"id IN ({listed})")
    return {row["id"]: first_words(row["messages"]) for row in rows.to_pylist()}


def _rejects(session: SqlSession, state: Status) -> tuple[list[Table], str]:
    if not state.rejected:
        return [], "No record was rejected."
    rows = session.run(
        "SELECT reason, count(*) AS rows, count(DISTINCT file) AS files, "
        "min(file || ':' || line) AS first, any_value(excerpt) AS excerpt "
        f"FROM rejects GROUP BY reason ORDER BY rows DESC, reason LIMIT {REASONS_SHOWN}"
    ).read_all()
    [total] = session.run("SELECT count(DISTINCT reason) AS n FROM rejects").read_all().to_pylist()
    rest = total["n"] - len(rows)
    table = Table(
        "Rejected records by reason",
        ("reason", "records", "files", "such as", "which begins"),
        [
            (
                cut(row["reason"], 120),
                f"{row['rows']:,}",
                f"{row['files']:,}",
                cut(row["first"] or "", 60),
                cut(row["excerpt"] or "", 120),
            )
            for row in rows.to_pylist()
        ],
        f"{rest:,} rarer reasons are not listed." if rest > 0 else "",
        texts=(0, 4),
    )
    return [table], f"{count_of(state.rejected, 'record')} could not be used."


def _fits(state: Status) -> list[Table]:
    tables = []
    if state.bases:
        tables.append(_plain("Share of the energy that each basis keeps, by corpus", state.bases))
    if state.ensembles:
        tables.append(_plain("Ensembles", state.ensembles))
    return tables


def _plain(caption: str, rows: list[dict[str, Any]]) -> Table:
    """Plain rows as a table."""
    names = tuple(rows[0]) if rows else ()
    return Table(caption, names, [tuple(_cell(row[name]) for name in names) for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return "" if value is None else cut(value)
