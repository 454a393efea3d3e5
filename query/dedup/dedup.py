"""Dedup: which rows of the whole pool are near-duplicates, kept as two columns of it.

The result is an annotation like those of files: it has a recipe with all parameters, rows that come
later lack it and are counted, and a new run replaces it. No row is removed.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from ...ingest.attachments.keys import Entries
from ...ingest.attachments.names import check_attached_name, check_free_columns, notes_on_names
from ...ingest.jobs.run import Run
from ...ingest.representations.attached import annotation_fields
from ...schemas.errors import QueryError, UsageError
from ...schemas.ids import ids_of, keys_of
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import ANNOTATION, FINGERPRINT_KEY, Recipe
from ...store.features import declare, drop, features_of
from ...store.fill import fill, only_filler
from ...store.sql.session import FILTER_TIME_LIMIT, run_query
from ..features import Feature
from ..rules.examples import conversation_words
from ..rules.leakage import messages_of
from ..scanning.vectors import block_rows
from ..snapshot import Snapshot
from .close_texts import ShingledRows, shingles_of
from .close_vectors import VectorRows, cluster_vectors
from .duplicates import Duplicates
from .linkage import LINKAGES, LinkageName

if TYPE_CHECKING:
    from ...store.store import Store

NAME = "dedup"
"""Of the result whose columns are called `cluster` and `kept`."""

LEXICAL = 0.8
NEAR = 0.95
NGRAM = 3

Part = Literal["conversation", "prompt", "response"]
PARTS: tuple[Part, ...] = get_args(Part)

NO_WORDS = "no words"
WRITERS_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Comparison:
    """What makes two rows close.

    Attributes:
        near: cosine of the vectors of `feature`, or None for words.
        feature: its name.
        lexical: Jaccard similarity of the runs of words, where `near` is None.
        part: of the conversation whose words are compared.
        ngram: words in a run.

    Raises:
        UsageError: a number that makes no sense.
    """

    near: float | None = None
    feature: str | None = None
    lexical: float = LEXICAL
    part: Part = "conversation"
    ngram: int = NGRAM

    def __post_init__(self) -> None:
        for option, value in (("near", self.near), ("lexical", self.lexical)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"--{option} {value:g}: a similarity above 0 and up to 1")
        if self.part not in PARTS:
            raise UsageError(f"part {self.part!r}: choose from {', '.join(PARTS)}")
        if self.ngram < 1:
            raise UsageError(f"ngram {self.ngram}: a run has one word or more")

    def __str__(self) -> str:
        if self.near is not None:
            return f"the cosine of {self.feature}, at least {self.near:g}"
        words = "words" if self.ngram == 1 else f"runs of {self.ngram} words"
        return f"the {words} of the {self.part}, Jaccard similarity at least {self.lexical:g}"

    def as_dict(self) -> dict[str, Any]:
        """What was compared, as JSON values."""
        if self.near is not None:
            return {"near": self.near, "feature": self.feature}
        return {"lexical": self.lexical, "part": self.part, "ngram": self.ngram}

    def arguments(self) -> list[str]:
        """The options of the command."""
        if self.near is not None:
            return ["--near", f"{self.near:g}", "--feature", str(self.feature)]
        arguments = ["--lexical", f"{self.lexical:g}"]
        arguments += ["--part", self.part] if self.part != "conversation" else []
        return arguments + (["--ngram", str(self.ngram)] if self.ngram != NGRAM else [])


def comparison_for(
    snapshot: Snapshot,
    near: float | None,
    feature: str | None,
    lexical: float | None,
    part: Part,
    ngram: int,
) -> Comparison:
    """What a call compares; without a threshold, words.

    Raises:
        UsageError: thresholds for both, or options of the one with a threshold for the other.
        MissingFeatureError: there is no such feature.
    """
    if near is None and feature is None:
        return Comparison(lexical=LEXICAL if lexical is None else lexical, part=part, ngram=ngram)
    if lexical is not None:
        raise UsageError(
            "--near and --feature compare vectors, --lexical compares words: choose one. To have "
            "both results, run twice and give one of them another name (--name)"
        )
    if part != "conversation" or ngram != NGRAM:
        raise UsageError("--part and --ngram are about words: leave them out, or use --lexical")
    return Comparison(
        near=NEAR if near is None else near, feature=_vectors_in(snapshot, feature).name
    )


def _vectors_in(snapshot: Snapshot, name: str | None) -> Feature:
    if name is not None:
        feature = snapshot.feature(name)
        if feature.column is None:
            raise UsageError(
                f"--feature {name} has no vectors to compare: choose from "
                f"{', '.join(_with_vectors(snapshot)) or 'none'}, or compare words with --lexical"
            )
        return feature
    names = _with_vectors(snapshot)
    if "rds" in names or len(names) == 1:
        return snapshot.feature("rds" if "rds" in names else names[0])
    if not names:
        raise UsageError(
            f"{snapshot.store.uri} has no feature with vectors to compare. Compare words: --lexical"
        )
    raise UsageError(f"--near needs a feature: choose with --feature from {', '.join(names)}")


def _with_vectors(snapshot: Snapshot) -> list[str]:
    return [name for name, feature in snapshot.features.items() if feature.column is not None]


def dedup(
    store: Store,
    *,
    near: float | None = None,
    feature: str | None = None,
    lexical: float | None = None,
    part: Part = "conversation",
    ngram: int = NGRAM,
    keep: str = "first",
    linkage: LinkageName = "single",
    name: str = NAME,
    memory_limit: int = 4 << 30,
    progress: Progress | None = None,
    command: str = "",
) -> Duplicates:
    """Find the near-duplicates of a pool, and keep them as columns of it.

    Args:
        store: an open store.
        near, feature, lexical, part, ngram: what makes rows close; see `comparison_for`.
        keep: which row of a cluster is kept: `first`, the earliest ingested; `longest`, that with
            the longest answer; or that with the highest value of an SQL expression over the pool.
        linkage: see linkage.py.
        name: of the result.
        memory_limit: bytes that may be planned for.
        progress: is told how far it is.
        command: kept in the table `runs`.

    Raises:
        UsageError: options that contradict each other, an empty pool, or a name that is taken.
        MissingFeatureError: there is no such feature.
        QueryError: DuckDB does not accept `keep`.
        StoreBusyError: another process is filling columns.
    """
    progress = progress or Silence()
    if linkage not in LINKAGES:
        raise UsageError(f"linkage {linkage!r}: choose from {', '.join(LINKAGES)}")
    columns = _columns_of(store, name)
    with only_filler(store):
        snapshot = Snapshot(store)
        compared = comparison_for(snapshot, near, feature, lexical, part, ngram)
        if not snapshot.pool.count_rows():
            raise UsageError(f"the pool of {store.uri} is empty: there is nothing to compare")
        account = Duplicates(name, columns, str(compared), keep, linkage)
        run = Run(store, command, account, lambda: _run_columns(account), progress)
        with run.running(run.finish, run.finish):
            run.record("running")
            recipe = _recipe(name, columns, compared, keep, linkage, snapshot.pool_version)
            rows = _Rows.of(snapshot, keep)
            kept_row, why = _clusters(snapshot, rows, compared, linkage, memory_limit, progress)
            account.rows, account.pool_version = len(rows.keys), snapshot.pool_version
            unknown = int((kept_row < 0).sum())
            account.without = {why: unknown} if unknown else {}
            account.describe(snapshot, kept_row, rows.keys, rows.corpora)
            _write(store, recipe, _Clusters(recipe, rows.keys, kept_row, why))
            account.notes = notes_on_names(store, recipe)
    return account


def _columns_of(store: Store, name: str) -> tuple[str, ...]:
    """The columns of a result.

    Raises:
        UsageError: the name or a column stands for something else.
    """
    prefix = "" if name == NAME else f"{name}_"
    columns = (f"{prefix}cluster", f"{prefix}kept")
    there = features_of(store).get(name)
    if there is None or there.made_by != NAME:
        check_attached_name(store, name, "annotation")
        check_free_columns(
            store, [*columns, f"{name}_missing"], "Give the result another name: --name NAME"
        )
    return columns


def _recipe(
    name: str,
    columns: tuple[str, ...],
    compared: Comparison,
    keep: str,
    linkage: LinkageName,
    pool_version: int,
) -> Recipe:
    arguments = compared.arguments()
    arguments += ["--keep", keep] if keep != "first" else []
    arguments += ["--linkage", linkage] if linkage != "single" else []
    arguments += ["--name", name] if name != NAME else []
    cluster, kept = columns
    options = {
        "name": name,
        "made_by": NAME,
        "arguments": shlex.join(arguments),
        "compared": compared.as_dict(),
        "keep": keep,
        "linkage": linkage,
        "pool_version": pool_version,
        "columns": {cluster: "text", kept: "truth value"},
    }
    columns = (cluster, kept, f"{name}_missing")
    return Recipe(ANNOTATION, 1, options, columns=columns, stored_dtype="")


@dataclass(frozen=True)
class _Rows:
    """The rows of a pool in its order.

    Attributes:
        keys: (n, 2) int64.
        corpora: of each row.
        order: their numbers, the row that is preferred to all others first, (n,) int64.
    """

    keys: np.ndarray
    corpora: pa.DictionaryArray
    order: np.ndarray

    @classmethod
    def of(cls, snapshot: Snapshot, keep: str) -> _Rows:
        table = snapshot.pool.scanner(
            columns=["id", "corpus", "added_at", "response_tokens"], scan_in_order=True
        ).to_table()
        keys = keys_of(table["id"])
        if keep == "first":
            value = np.zeros(len(keys))
        elif keep == "longest":
            value = _numbers(table["response_tokens"].combine_chunks())
        else:
            value = _preference(snapshot, keep, keys)
        added = table["added_at"].cast(pa.int64()).fill_null(0).to_numpy()
        value = np.where(np.isnan(value), -np.inf, value)
        corpora = table["corpus"].fill_null("").combine_chunks().dictionary_encode()
        return cls(keys, corpora, np.lexsort((added, -value)))


def _preference(snapshot: Snapshot, expression: str, keys: np.ndarray) -> np.ndarray:
    """The value of an SQL expression for each row, (n,) float64; NaN for none.

    Raises:
        QueryError: DuckDB does not accept it.
        UsageError: it is no number for each row.
    """
    place = snapshot.store.place
    try:
        answer = run_query(
            place.uri,
            f"SELECT id, ({expression}) AS preference FROM pool",
            at=snapshot.pool_version,
            time_limit=FILTER_TIME_LIMIT,
            storage_options=place.options,
        ).read_all()
    except QueryError as error:
        raise QueryError(
            f"--keep {expression!r} is neither first nor longest nor SQL over the pool: {error}"
        ) from error
    entries = Entries.of([keys_of(answer["id"])], [np.arange(answer.num_rows)])
    found = entries.find(keys)
    values = answer["preference"].combine_chunks()
    kind = values.type
    if len(answer) != len(keys) or (found < 0).any():
        raise UsageError(f"--keep {expression!r}: it must give one value for each row")
    if pa.types.is_temporal(kind):
        values = values.cast(pa.timestamp("us")).cast(pa.int64())
    elif not (pa.types.is_boolean(kind) or pa.types.is_null(kind) or _is_number(kind)):
        raise UsageError(
            f"--keep {expression!r} gives {kind}, but it must give a number, a time or a truth "
            "value; the row with the highest is kept"
        )
    return _numbers(values)[entries.rows[found]]


def _is_number(kind: pa.DataType) -> bool:
    return any(
        check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )


def _numbers(values: pa.Array) -> np.ndarray:
    return np.array(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _clusters(
    snapshot: Snapshot,
    rows: _Rows,
    compared: Comparison,
    linkage: LinkageName,
    memory_limit: int,
    progress: Progress,
) -> tuple[np.ndarray, str]:
    """The kept row of each row (n,) int64, -1 for rows that cannot be compared, and why these."""
    count = len(rows.keys)
    kept_row = np.full(count, -1)
    if compared.near is not None:
        feature = _vectors_in(snapshot, compared.feature)
        assert feature.column is not None, "comparison_for refuses features without vectors"
        order = rows.order[_with_vector(snapshot, feature)[rows.order]]
        vectors = VectorRows(snapshot.pool, feature.column, order, feature.width)
        clusters = LINKAGES[linkage](len(order))
        first = cluster_vectors(vectors, compared.near, clusters, memory_limit, progress)
        why = f"no vector of {feature.name}"
    else:
        with ShingledRows(compared.lexical) as shingled:
            worded = _read_words(snapshot, compared, shingled, count, progress)
            order = rows.order[worded[rows.order]]
            number_of = np.cumsum(worded) - 1  # among the rows that have words
            clusters = LINKAGES[linkage](len(order))
            first = shingled.cluster(number_of[order], clusters, progress)
        why = NO_WORDS
    kept_row[order] = order[first]
    return kept_row, why


def _with_vector(snapshot: Snapshot, feature: Feature) -> np.ndarray:
    """Which rows have a vector, (n,) bool, in the order of the table."""
    scanner = snapshot.pool.scanner(
        columns=[feature.first], batch_size=block_rows(feature.width), scan_in_order=True
    )
    return np.concatenate([np.asarray(batch[0].is_valid()) for batch in scanner.to_batches()])


def _read_words(
    snapshot: Snapshot,
    compared: Comparison,
    shingled: ShingledRows,
    count: int,
    progress: Progress,
) -> np.ndarray:
    """Give the sets of all rows that have words to `shingled`; which these are, (n,) bool."""
    worded = np.zeros(count, bool)
    read = 0
    for batch in messages_of(snapshot.pool):
        sets = []
        for messages in batch.column("messages").to_pylist():
            conversation = conversation_words(messages)
            words = {
                "conversation": conversation.everything,
                "prompt": conversation.question,
                "response": conversation.answer,
            }[compared.part]
            if words:
                sets.append(shingles_of(words, compared.ngram))
                worded[read] = True
            read += 1
        shingled.add(sets)
        progress.learn(name="reading", share=read / count, said=f"{read:,} of {count:,} rows")
    return worded


class _Clusters:
    """The columns of a result, as `store.fill` takes them.

    Args:
        recipe: of the columns.
        keys: of the rows, (n, 2) int64.
        kept_row: of each row; -1 where it could not be compared.
        why: it could not.
    """

    def __init__(self, recipe: Recipe, keys: np.ndarray, kept_row: np.ndarray, why: str) -> None:
        self.recipe = recipe
        self._keys, self._kept_row, self._why = keys, kept_row, why
        self._entries = Entries.of([keys], [np.arange(len(keys))])

    def positions(self, ids: pa.Array) -> np.ndarray:
        found = self._entries.find(keys_of(ids))
        return np.where(found >= 0, self._entries.rows[found], -1)

    def take(self, positions: np.ndarray) -> pa.Table:
        kept_row = self._kept_row[positions]
        unknown = kept_row < 0
        columns = [
            pa.array(ids_of(self._keys[np.maximum(kept_row, 0)]), pa.string(), mask=unknown),
            pa.array((kept_row == positions) | unknown),
            pa.array([self._why if is_unknown else None for is_unknown in unknown], pa.string()),
        ]
        return pa.table(columns, names=list(self.recipe.columns))

    def row_bytes(self) -> int:
        return 32

    def forget(self, ids: pa.Array) -> None:
        """There is nothing to let go of."""


def _write(store: Store, recipe: Recipe, values: _Clusters) -> None:
    """Replace the columns of an earlier result; the values come in one commit."""
    if recipe.feature in features_of(store):
        drop(store, recipe.feature, force=True, wait=WRITERS_WAIT_SECONDS)
    with store.lock(shared=True, wait=WRITERS_WAIT_SECONDS):
        marked = {FINGERPRINT_KEY: recipe.fingerprint.encode()}
        fields = [field.with_metadata(marked) for field in annotation_fields(recipe)]
        declare(store, recipe, fields, ["pool"])
        fragments = [part.fragment_id for part in store.dataset("pool").get_fragments()]
        fill(store, fragments, [values])


def _run_columns(account: Duplicates) -> dict[str, Any]:
    """The columns of a deduplication in the table `runs`."""
    said = [line.strip() for line in account.lines()] if account.rows else []
    return {"read": account.rows, "note": "; ".join(said) or None}
