"""Coresets: what was chosen, from what, how, and everything needed to choose it again."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.canonical import canonical_json
from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, ids_of, keys_of
from ..schemas.notebook import html_bars
from ..schemas.plain_text import count_of
from ..schemas.tables import CORESET_ROWS, CORESETS, literal
from ..store import underway
from ..store.purge import PURGED, universe_of
from ..store.removal import Tombstone, tombstones
from ..store.rows import keys_under, row_keys
from .methods import as_recorded
from .names import LONGEST, name_lock, unknown_coreset
from .origins import Origin, origins
from .result_rows import ResultRows, beginnings
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store


IMPORTED = "imported"
"""The method of coresets whose rows another tool chose."""

_LONGEST_STEM = LONGEST - 8
_RANKS_NAMED = 10

CORPORA_DRAWN = 8
"""Corpora that a notebook draws."""


@dataclass(frozen=True)
class CorpusCount:
    """How many rows of a corpus are among the picks, and in the pool."""

    corpus: str
    picked: int
    pool: int


@dataclass(frozen=True, repr=False)
class Coreset(ResultRows):
    """A named, replayable selection; `for messages in coreset` gives its conversations by rank.

    Attributes:
        store: that it was chosen from.
        name: of the coreset.
        targets: that it was chosen for, in order; empty for selections without one.
        method: in full, such as "rds:round_robin".
        parameters: JSON values; all that `replay` needs beside the other fields.
        fingerprint: of the feature compared, or None.
        seed: of random methods.
        budget: as it was requested.
        pool_version: of the pool; tagged, like that of the targets, so that `clean` keeps it.
        filter: the SQL expression, or None.
        eligible: rows that passed the filter.
        short_by: what is left of the budget, in its unit, because the eligible rows ran out.
        distance: mean over queries of 1 - highest cosine to a pick; None where undefined.
        query_hash: digest of the targets' examples and their feature's fingerprint.
        created_at: when.
        members: rank (from 1), id, score, target, query, corpus; in order of rank.
        mix: corpora of the pool, most picked first.
        notes: sentences for the user; those on its rules are kept with the parameters.
        saved: whether the store keeps it; not after a dry run, nor where the store is read-only.
        removed: tombstones of members that were taken out of the pool since, by id.
    """

    store: Store = field(compare=False)
    name: str
    targets: tuple[str, ...]
    method: str
    parameters: dict[str, Any]
    fingerprint: str | None
    seed: int
    budget: str
    pool_version: int
    filter: str | None
    eligible: int
    short_by: int
    distance: float | None
    query_hash: str | None
    created_at: datetime
    members: pa.Table
    mix: tuple[CorpusCount, ...]
    notes: tuple[str, ...] = ()
    saved: bool = True
    removed: Mapping[str, Tombstone] = field(default_factory=dict, compare=False)

    @property
    def mmd(self) -> float | None:
        """Maximum mean discrepancy to the queries, by the cosine (see `query/distances.py`).

        None where undefined, and for coresets made before it was measured.
        """
        return self.parameters.get("mmd")

    @property
    def how(self) -> str:
        """How its rows were chosen, in words: "by rds:top", or "imported from a.csv"."""
        if self.method == IMPORTED:
            return f"imported from {self.parameters[IMPORTED]['file']}"
        return f"by {self.method}"

    @property
    def ids(self) -> list[str]:
        """Ids of the rows, best first, those removed since included."""
        return self.members["id"].to_pylist()

    @property
    def left(self) -> pa.Table:
        """The members that are still in the pool, best first."""
        return self._without(self.removed) if self.removed else self.members

    @property
    def readable(self) -> pa.Table:
        """The members that the pool's version still has: all but those that were purged."""
        purged = {row_id for row_id, stone in self.removed.items() if stone.purged}
        return self._without(purged) if purged else self.members

    def _without(self, ids: Collection[str]) -> pa.Table:
        rows = self.members["id"].to_pylist()
        return self.members.filter(pa.array([row_id not in ids for row_id in rows], pa.bool_()))

    @property
    def weights(self) -> dict[str, str]:
        """Weight of each target, as recorded; empty where they took turns row by row."""
        return self.parameters.get("weights", {})

    @property
    def pulled(self) -> dict[str, int]:
        """How many rows each of its targets pulled; empty by methods that no target takes part in.

        In the order of the targets.
        """
        counts = Counter(self.members["target"].drop_null().to_pylist())
        return {target: counts[target] for target in self.targets} if counts else {}

    def origins(self, field: str) -> list[Origin]:
        """Count the values of a field among its rows and in the pool, most picked first.

        Args:
            field: a column of the pool or a metadata field, such as `lang`.

        Raises:
            UsageError: the pool has no such field, or it is not one value a row.
        """
        return origins(self.store, self.readable["id"].to_pylist(), self.pool_version, field)

    def __len__(self) -> int:
        return self.members.num_rows

    def _beside(self, first: pa.Table) -> dict[str, list[str]]:
        """The beginning of the example that pulled each row, where examples pull rows."""
        pulling = list(zip(first["target"].to_pylist(), first["query"].to_pylist(), strict=True))
        ids = ", ".join(literal(query) for query in dict.fromkeys(q for _, q in pulling if q))
        if not ids:
            return {}
        rows = self.store.dataset("targets").to_table(
            columns=["target", "id", "messages"], filter=f"id IN ({ids})"
        )
        asked = {
            (row["target"], row["id"]): beginnings(row["messages"])[0] for row in rows.to_pylist()
        }
        return {"pulled by": [asked.get(pair, "") for pair in pulling]}

    def _chart(self) -> str:
        """Where the rows come from, against the pool."""
        total = max(sum(share.pool for share in self.mix), 1)
        shown = [share for share in self.mix if share.picked][:CORPORA_DRAWN]
        rows = [
            (share.corpus, (share.picked / max(len(self), 1), share.pool / total))
            for share in shown
        ]
        return html_bars("Where the rows come from", ("of the picks", "of the pool"), rows)

    def table(self) -> pa.Table:
        """Return rank, id, score, target, query (the example it was chosen for) and corpus.

        Rows that were removed from the pool since are left out; `members` has them.
        """
        return self.left

    def __repr__(self) -> str:
        targets = f" for {', '.join(self.targets)}" if self.targets else ""
        distances = "" if self.distance is None else f", distance {self.distance:.4f}"
        distances += "" if self.mmd is None else f", MMD {self.mmd:.4f}"
        total = max(1, sum(share.pool for share in self.mix))
        lines = [
            f"Coreset {self.name}: {count_of(len(self), 'row')} {self.how}{targets} "
            f"(pool version {self.pool_version}{distances})"
        ]
        lines += [
            f"  {share.corpus}: {share.picked:,} of {share.pool:,} "
            f"({share.picked / len(self):.1%} of the picks, {share.pool / total:.1%} of the pool)"
            for share in self.mix
            if share.picked
        ]
        return "\n".join([*lines, *pulled_lines(self), *(f"  {note}" for note in self.notes)])

    def row(self) -> dict[str, Any]:
        """Return the row of the table `coresets`."""
        return {
            "name": self.name,
            "targets": list(self.targets),
            "method": self.method,
            "parameters": canonical_json(self.parameters),
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "budget": self.budget,
            "pool_version": self.pool_version,
            "filter": self.filter,
            "eligible": self.eligible,
            "rows": len(self),
            "short_by": self.short_by,
            "distance": self.distance,
            "query_hash": self.query_hash,
            "created_at": self.created_at,
        }


def pulled_lines(coreset: Coreset) -> list[str]:
    """Return a line for each of several targets: what it pulled, and its weight."""
    return [
        f"  for {share['target']}: {count_of(share['rows'], 'row')} ({share['share']}"
        + (f", weight {share['weight']})" if "weight" in share else ")")
        for share in pulled_shares(coreset)
    ]


def pulled_shares(coreset: Coreset) -> list[dict[str, Any]]:
    """Return what each of several targets pulled: target, weight, rows, tokens, share.

    Weight only where targets have one, and tokens where these shared a budget in tokens.
    """
    if len(coreset.targets) < 2:
        return []
    tokens = coreset.parameters.get("target_tokens")
    counted = coreset.pulled if tokens is None else tokens
    total = max(sum(counted.values()), 1)
    of = "of the picks" if tokens is None else "of the tokens"
    return [
        {
            "target": target,
            **({"weight": coreset.weights[target]} if coreset.weights else {}),
            "rows": rows,
            **({} if tokens is None else {"tokens": tokens.get(target, 0)}),
            "share": f"{counted.get(target, 0) / total:.1%} {of}",
        }
        for target, rows in coreset.pulled.items()
    ]


def tag_of(name: str, table: str = "pool") -> str:
    """Return the tag that keeps the version of a table that a coreset was made from."""
    return f"coreset-{name}-{table}"


def coreset_names(store: Store) -> list[str]:
    """Return the names of all coresets, sorted."""
    return sorted(store.dataset("coresets").to_table(columns=["name"])["name"].to_pylist())


def list_coresets(store: Store) -> list[dict[str, Any]]:
    """Return how each coreset was made, as JSON values, the newest last."""
    rows = store.dataset("coresets").to_table().sort_by("created_at").to_pylist()
    return [
        {
            "coreset": row["name"],
            "rows": row["rows"],
            "method": as_recorded(row["method"], json.loads(row["parameters"])),
            "targets": row["targets"] or [],
            "budget": row["budget"],
            "filter": row["filter"],
            "version": row["pool_version"],
            "distance": row["distance"],
            "mmd": json.loads(row["parameters"]).get("mmd"),
            "created": row["created_at"].isoformat(),
        }
        for row in rows
    ]


def record(snapshot: Snapshot, coreset: Coreset) -> bool:
    """Write a coreset that was chosen from a snapshot; return False if its name was taken.

    Its tags are made first, then its rows are written, then itself: a process killed in between
    leaves a tag and rows without a coreset, which nothing shows and the next selection of that name
    replaces; never a coreset without its rows.

    Raises:
        UsageError: the version that it was chosen from is gone; nothing is written then.
    """
    store = snapshot.store
    with name_lock(store):
        if coreset.name in coreset_names(store):
            return False  # before anything of it is touched
        _tag(snapshot, coreset)
        store.delete("coreset_rows", f"coreset = {literal(coreset.name)}")
        store.append("coreset_rows", _member_rows(coreset.name, coreset.members))
        created = coreset.created_at.isoformat()
        underway.note(store.place, coreset=coreset.name, created=created)
        store.insert("coresets", pa.Table.from_pylist([coreset.row()], CORESETS))
    store.sync()
    return True


def recorded_when_killed(store: Store, from_here: bool = False) -> Coreset | None:
    """Return the coreset that this command recorded before it broke off, if it is still there.

    Args:
        from_here: only one that was recorded by a process of this machine.
    """
    made = underway.made_when_killed(store.place, from_here)
    name = made.get("coreset")
    if name is None or name not in coreset_names(store):
        return None
    coreset = load_coreset(store, name)
    if coreset.created_at.isoformat() != made["created"]:
        return None  # another process took the name in that moment
    return coreset


def recorded_rows(store: Store, name: str) -> int:
    """Return how many members a coreset was recorded with, whether they are there or not."""
    rows = store.dataset("coresets").to_table(["rows"], filter=f"name = {literal(name)}")
    return rows["rows"][0].as_py()


def restore(store: Store, name: str, members: pa.Table) -> None:
    """Write the members of a coreset that damage took; those that are there stay.

    Args:
        members: all of them: rank, id, score, target, query; those there are among them.
    """
    rows = _member_rows(name, members)
    with name_lock(store):
        where = f"coreset = {literal(name)}"
        there = store.dataset("coreset_rows").to_table(columns=["rank"], filter=where)["rank"]
        if len(set(there.to_pylist())) < len(there) or (pc.max(there).as_py() or 0) > len(rows):  # pyright: ignore[reportAttributeAccessIssue]
            store.delete("coreset_rows", where)  # some are there twice
        store.insert("coreset_rows", rows)
    store.sync()


def _tag(snapshot: Snapshot, coreset: Coreset) -> None:
    """Keep what a coreset was made from, whatever a killed selection of its name kept."""
    store, tables = snapshot.store, {"pool": snapshot.pool}
    if coreset.targets:
        tables["targets"] = snapshot.targets
    for table, dataset in tables.items():
        tag = tag_of(coreset.name, table)
        if tag in (tags := dataset.tags.list()) and tags[tag]["version"] != dataset.version:
            store.untag(tag, table)
        try:
            store.tag(tag, dataset.version, table, dataset)
        except UsageError as error:
            for made in tables:
                store.untag(tag_of(coreset.name, made), made)
            raise UsageError(
                f"{store.uri}: table {table} was purged or compacted meanwhile, and the version "
                "that the coreset was chosen from is gone; select again"
            ) from error


def remove_coreset(store: Store, name: str) -> None:
    """Remove a coreset; the pool keeps its rows, and its version may be cleaned away.

    The coreset goes first and its rows follow: a process killed in between leaves rows without a
    coreset, as in `record`. The next removal of that name takes them.

    Raises:
        UsageError: there is no such coreset.
    """
    members = f"coreset = {literal(name)}"
    with name_lock(store):
        names = coreset_names(store)
        if name in names:
            store.delete("coresets", f"name = {literal(name)}")
        if store.dataset("coreset_rows").count_rows(members):
            store.delete("coreset_rows", members)
        for table in ("pool", "targets"):
            store.untag(tag_of(name, table), table)
    store.sync()
    if name not in names:
        raise UsageError(unknown_coreset(store, name, names))


def load_coreset(store: Store, name: str) -> Coreset:
    """Return a recorded coreset.

    Raises:
        UsageError: there is none of that name; the message names those most like it.
    """
    rows = store.dataset("coresets").to_table(filter=f"name = {literal(name)}").to_pylist()
    if not rows:
        raise UsageError(unknown_coreset(store, name, coreset_names(store)))
    (row,) = rows
    snapshot = Snapshot(store, row["pool_version"])
    members = _members(store, name)
    parameters = json.loads(row["parameters"])
    removed, corpora = _removed_and_corpora(snapshot, members["id"].to_pylist(), parameters)
    return Coreset(
        store=store,
        name=name,
        targets=tuple(row["targets"] or ()),
        method=as_recorded(row["method"], parameters),
        parameters=parameters,
        fingerprint=row["fingerprint"],
        seed=row["seed"],
        budget=row["budget"],
        pool_version=snapshot.pool_version,
        filter=row["filter"],
        eligible=row["eligible"],
        short_by=row["short_by"],
        distance=row["distance"],
        query_hash=row["query_hash"],
        created_at=row["created_at"],
        members=members.append_column("corpus", corpora),
        mix=mix_of(snapshot, corpora, universe_of(store, parameters)),
        notes=(*rule_notes(parameters.get("rules")), *removal_notes(members, removed)),
        removed=removed,
    )


def _removed_and_corpora(
    snapshot: Snapshot, ids: Sequence[str], parameters: Mapping[str, Any]
) -> tuple[dict[str, Tombstone], pa.ChunkedArray]:
    """Return the tombstones of members, and the corpus of each member, as one of the two has it."""
    removed = {stone.id: stone for stone in tombstones(snapshot.store, ids)}
    if not removed and PURGED not in parameters:
        return {}, snapshot.take(ids, ["corpus"])["corpus"]
    pool = row_keys(snapshot.pool)
    there = set(ids_of(pool[IdSet(keys_of(list(ids))).contains(pool)]))
    if PURGED in parameters:  # some may have been purged, and their tombstones lifted since
        when = datetime.fromisoformat(parameters[PURGED]["at"])
        gone = [each for each in ids if each not in there and each not in removed]
        removed |= {each: Tombstone(each, "", "", when, purged=True) for each in gone}
    held = [each for each in ids if each in there or each not in removed]
    found = dict(zip(held, snapshot.take(held, ["corpus"])["corpus"].to_pylist(), strict=True))
    corpora = [found[each] if each in found else removed[each].corpus for each in ids]
    return removed, pa.chunked_array([pa.array(corpora, pa.string())])


def removal_notes(members: pa.Table, removed: Mapping[str, Tombstone]) -> list[str]:
    """Return sentences on rows of a coreset that were taken out of the pool since."""
    notes = []
    for purged in (False, True):
        ranks = [
            (row["rank"], row["id"])
            for row in members.select(["rank", "id"]).to_pylist()
            if row["id"] in removed and removed[row["id"]].purged is purged
        ]
        if not ranks:
            continue
        reasons = dict.fromkeys(removed[row_id].why for _, row_id in ranks)
        why = "; ".join(reason for reason in reasons if reason)
        some = ", ".join(f"{rank:,} ({row_id[:8]})" for rank, row_id in ranks[:_RANKS_NAMED])
        rest = len(ranks) - _RANKS_NAMED
        notes.append(
            f"{count_of(len(ranks), 'row was', 'rows were')} {'purged' if purged else 'removed'} "
            f"from the pool since{f' ({why})' if why else ''}, and left out of exports: "
            f"{'rank' if len(ranks) == 1 else 'ranks'} {some}"
            + (f" and {rest:,} more" if rest > 0 else "")
        )
    return notes


def coreset_members(store: Store, name: str) -> pa.Table:
    """Return rank, id, score, target and query of a coreset's rows, without opening the pool.

    Raises:
        UsageError: as `load_coreset`.
    """
    if name not in coreset_names(store):
        raise UsageError(unknown_coreset(store, name, coreset_names(store)))
    return _members(store, name)


def _members(store: Store, name: str) -> pa.Table:
    rows = store.dataset("coreset_rows").to_table(
        columns=["rank", "id", "score", "target", "query"], filter=f"coreset = {literal(name)}"
    )
    return rows.sort_by("rank")


def mix_of(
    snapshot: Snapshot, corpora: pa.Array | pa.ChunkedArray, universe: IdSet | None = None
) -> tuple[CorpusCount, ...]:
    """Return the mix of corpora against the pool's, from the corpus of each pick.

    Args:
        snapshot: whose pool.
        corpora: of the picks.
        universe: the rows of the pool that count; all of them by default.
    """
    picked, pool = _counts([corpora]), _counts(_pool_corpora(snapshot, universe))
    missing = {corpus: 0 for corpus in picked if corpus not in pool}  # all of its rows are removed
    mix = [
        CorpusCount(corpus, picked.get(corpus, 0), count)
        for corpus, count in (pool | missing).items()
    ]
    mix.sort(key=lambda share: (-share.picked, -share.pool, share.corpus))
    return tuple(mix)


def _pool_corpora(snapshot: Snapshot, universe: IdSet | None) -> Iterator[pa.Array]:
    columns = ["corpus"] if universe is None else ["corpus", "id"]
    for batch in snapshot.pool.scanner(columns=columns).to_batches():
        corpora = batch.column("corpus")
        if universe is not None:
            corpora = corpora.filter(pa.array(universe.contains(keys_of(batch.column("id")))))
        yield corpora


def _counts(columns: Iterable[pa.Array | pa.ChunkedArray]) -> dict[str, int]:
    counts = Counter[str]()
    for column in columns:
        for value in column.value_counts().to_pylist():
            counts[value["values"]] += value["counts"]
    return counts


def _member_rows(coreset: str, members: pa.Table) -> pa.Table:
    keys = keys_under([coreset], members["rank"].to_pylist())
    columns = {
        "key": pa.array(keys, pa.string()),
        "coreset": pa.array([coreset] * members.num_rows, pa.string()),
        **{name: members[name] for name in ("rank", "id", "score", "target", "query")},
    }
    return pa.table([columns[field.name] for field in CORESET_ROWS], schema=CORESET_ROWS)


def free_name(store: Store, targets: Sequence[str], method: str) -> str:
    """Return `<target>-<method>-<n>` with the lowest n for which no coreset has that name."""
    taken = set(coreset_names(store))
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([*targets, method])).strip("-")
    numbers = itertools.count(1)
    return next(
        name for number in numbers if (name := f"{words[:_LONGEST_STEM]}-{number}") not in taken
    )


def check_free(store: Store, name: str) -> None:
    """Refuse a name that is taken.

    Raises:
        UsageError: there is a coreset of that name.
    """
    if name in coreset_names(store):
        raise UsageError(
            f"there is a coreset {name!r} already. Choose another name, or remove it first: "
            f"coresetdb coreset remove {store.typed} {name}"
        )


def rule_notes(rules: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on a coreset's `parameters["rules"]`; none for coresets without rules."""
    if rules is None:
        return []
    asked, notes = rules["asked"], []
    if asked["leakage"] == "off":
        notes.append("leakage was allowed: no row was compared with the examples' text")
    elif "leakage" not in rules:
        notes.append("nothing was checked for leakage: there is neither a target nor an evaluation")
    leakage = rules.get("leakage", {})
    if asked["evaluations"] and "compared" in leakage:
        notes.append(_checked_note(leakage))
    if leakage.get("left_out"):
        notes.append(_leakage_note(leakage))
    notes += [
        f"{evaluation['name']}: {remark}"
        for evaluation in asked["evaluations"]
        for remark in evaluation.get("remarks", ())
    ]
    notes += [
        f"not eligible: the {count_of(rule['rows'], 'row')} of coreset {rule['coreset']}"
        for rule in asked["exclude"]
    ]
    notes += [
        f"quota {corpus}: {share['chosen']:,} of {count_of(share['rows'], 'row')}"
        + ("" if share["chosen"] == share["rows"] else "; no more of it could be chosen")
        for corpus, share in rules.get("quota", {}).items()
    ]
    if rules.get("cap", {}).get("reached"):
        reached = ", ".join(f"{name} {most:,}" for name, most in rules["cap"]["reached"].items())
        notes.append(f"cap reached: {reached}")
    if "distinct" in rules:
        notes += _distinct_notes(rules["distinct"], asked["distinct"])
    return notes


def _checked_note(leakage: Mapping[str, Any]) -> str:
    sources = [f"{count_of(number, 'example')} of {of}" for of, number in leakage["of"].items()]
    last = sources.pop()
    listed = f"{', '.join(sources)} and {last}" if sources else last
    none = "" if leakage["left_out"] else "; none gives one away"
    return f"checked for leakage: {count_of(leakage['compared'], 'row')} against {listed}{none}"


def _leakage_note(leakage: Mapping[str, Any]) -> str:
    first = leakage["rows"][0]
    kinds = ", ".join(f"{count:,} {how}" for how, count in sorted(leakage["how"].items()))
    example = f"example {first['example'][:8]} of {first['of']}"
    rows = count_of(leakage["left_out"], "row that gives", "rows that give")
    return (
        f"left out for leakage: {rows} examples away ({kinds}), such as "
        f"{first['id'][:8]} ({first['how']}, {example}: {first['words']!r}). "
        "The coreset's parameters list them; --allow-leakage keeps them in"
    )


def _distinct_notes(distinct: Mapping[str, Any], threshold: float) -> list[str]:
    notes = [
        f"left out as near-duplicates: {count_of(distinct['left_out'], 'row')} with a cosine of "
        f"{threshold:g} or more to an earlier pick (by {distinct['by']})"
    ]
    if missing := distinct["not_compared"]:
        notes.append(
            f"{count_of(missing, 'pick has', 'picks have')} no {distinct['by']} and "
            f"{'was' if missing == 1 else 'were'} not compared"
        )
    return notes
