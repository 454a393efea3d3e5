"""Coresets as facts: what was chosen, from what, how, and everything needed to choose it again.

What the rules of a selection did, in sentences for a person.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.errors import UsageError, suggest
from ..schemas.tables import CORESET_ROWS, CORESETS, literal
from ..store.rows import keys_under
from .names import LONGEST, naming
from .result_rows import ResultRows

if TYPE_CHECKING:
    from ..store.store import Store


def told(rules: Mapping[str, Any] | None) -> list[str]:
    """Sentences on a coreset's `parameters["rules"]`; none for coresets without rules."""
    if rules is None:
        return []
    sentences = []
    if rules["asked"]["leakage"] == "off":
        sentences.append("leakage was allowed: no row's text was held against the examples")
    elif "leakage" not in rules:
        sentences.append("no leakage was looked for: neither a target nor an evaluation was named")
    if rules.get("leakage", {}).get("left_out"):
        sentences.append(_leakage(rules["leakage"]))
    sentences += [
        f"not eligible: the {rule['rows']:,} rows of coreset {rule['coreset']}"
        for rule in rules["asked"]["exclude"]
    ]
    sentences += [
        f"quota {corpus}: {each['chosen']:,} of {each['rows']:,} rows"
        + ("" if each["chosen"] == each["rows"] else ", no more of it could be chosen")
        for corpus, each in rules.get("quota", {}).items()
    ]
    if rules.get("cap", {}).get("reached"):
        met = ", ".join(f"{corpus} {most:,}" for corpus, most in rules["cap"]["reached"].items())
        sentences.append(f"cap reached: {met}")
    if "distinct" in rules:
        sentences += _distinct(rules["distinct"], rules["asked"]["distinct"])
    return sentences


def _leakage(found: Mapping[str, Any]) -> str:
    first = found["rows"][0]
    kinds = ", ".join(f"{count:,} {how}" for how, count in sorted(found["how"].items()))
    example = f"example {first['example'][:8]} of {first['of']}"
    return (
        f"left out for leakage: {found['left_out']:,} that give examples away ({kinds}), such as "
        f"{first['id'][:8]} ({first['how']}, {example}: {first['words']!r}). "
        "They are listed in the parameters; --allow-leakage lets them in"
    )


def _distinct(found: Mapping[str, Any], threshold: float) -> list[str]:
    sentences = [
        f"left out as near-duplicates: {found['left_out']:,} with a cosine of {threshold:g} or "
        f"more to an earlier pick (by {found['by']})"
    ]
    if found["not_compared"]:
        sentences.append(
            f"{found['not_compared']:,} picks have no {found['by']} and were not compared"
        )
    return sentences


_LONGEST_STEM = LONGEST - 8


@dataclass(frozen=True)
class Share:
    """How a corpus fares: its rows among the picks and in the pool."""

    corpus: str
    picked: int
    pool: int


@dataclass(frozen=True, repr=False)
class Coreset(ResultRows):
    """A named, replayable selection; `for messages in coreset` gives its conversations by rank.

    Attributes:
        store: that it was chosen from.
        name: its own.
        targets: asked for, in order; empty for selections without one.
        method: in full, such as "rds:round_robin".
        parameters: JSON values; all that `replay` needs beside the other fields.
        fingerprint: of the feature compared, or None.
        budget: as it was asked for.
        pool_version: of the pool, tagged (as that of the targets is) so that cleaning up keeps it.
        filter: the SQL expression, or None.
        eligible: rows the filter let through.
        short_by: what is left of the budget, in its unit, because eligible rows ran out.
        distance: mean over queries of 1 - highest cosine to a pick; None where undefined.
        query_hash: digest of the examples asked with and their feature's fingerprint.
        members: rank (from 1), id, score, target, query, corpus; in order of rank.
        mix: corpora of the pool, most picked first.
        notes: sentences a person should read; those on its rules are kept with the parameters.
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
    mix: tuple[Share, ...]
    notes: tuple[str, ...] = ()

    @property
    def mmd(self) -> float | None:
        """Maximum mean discrepancy to the queries, by the cosine (see `query/distances.py`).

        None where undefined, and for coresets made before it was measured.
        """
        return self.parameters.get("mmd")

    @property
    def ids(self) -> list[str]:
        """Row ids, best first."""
        return self.members["id"].to_pylist()

    def __len__(self) -> int:
        return self.members.num_rows

    def table(self) -> pa.Table:
        """The members: rank, id, score, target, query (the example that pulled it), corpus."""
        return self.members

    def __repr__(self) -> str:
        asked = f" for {', '.join(self.targets)}" if self.targets else ""
        near = "" if self.distance is None else f", distance {self.distance:.4f}"
        near += "" if self.mmd is None else f", MMD {self.mmd:.4f}"
        total = sum(share.pool for share in self.mix)
        lines = [
            f"Coreset {self.name}: {len(self):,} rows by {self.method}{asked} "
            f"(pool version {self.pool_version}{near})"
        ]
        lines += [
            f"  {share.corpus}: {share.picked:,} of {share.pool:,} "
            f"({share.picked / len(self):.1%} of the picks, {share.pool / total:.1%} of the pool)"
            for share in self.mix
            if share.picked
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def row(self) -> dict[str, Any]:
        """The row of the table `coresets`."""
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


def tag_of(name: str, table: str = "pool") -> str:
    """The tag that keeps the version of a table that a coreset was made from."""
    return f"coreset-{name}-{table}"


def coreset_names(store: Store) -> list[str]:
    """The names of all coresets, sorted."""
    return sorted(store.dataset("coresets").to_table(columns=["name"])["name"].to_pylist())


def list_coresets(store: Store) -> list[dict[str, Any]]:
    """What tells coresets apart, as JSON values, the newest last; their rows are not read."""
    rows = store.dataset("coresets").to_table().sort_by("created_at").to_pylist()
    return [
        {
            "coreset": row["name"],
            "rows": row["rows"],
            "method": row["method"],
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


def record(store: Store, coreset: Coreset) -> bool:
    """Write a coreset: its rows, its tags, then itself; False if the name was taken.

    A kill in between leaves rows and a tag without a coreset, which nothing shows and the next
    selection of that name replaces; never a coreset without its rows.
    """
    with naming(store):
        if coreset.name in coreset_names(store):
            return False  # before anything of it is touched
        store.delete("coreset_rows", f"coreset = {literal(coreset.name)}")
        store.append("coreset_rows", _member_rows(coreset))
        _tag(store, coreset)
        store.insert("coresets", pa.Table.from_pylist([coreset.row()], CORESETS))
    store.sync()
    return True


def _tag(store: Store, coreset: Coreset) -> None:
    """Keep what a coreset was made from, whatever a killed selection of its name kept."""
    versions = {"pool": coreset.pool_version}
    if coreset.targets:
        versions["targets"] = coreset.parameters["targets_version"]
    for table, version in versions.items():
        tag = tag_of(coreset.name, table)
        if store.tags(table).get(tag, version) != version:
            store.untag(tag, table)
        store.tag(tag, version, table)


def remove_coreset(store: Store, name: str) -> None:
    """Forget a coreset; the pool keeps its rows, and its version may be cleaned away.

    Itself goes first: a kill in between leaves rows without a coreset, as in `record`.

    Raises:
        UsageError: there is no such coreset.
    """
    with naming(store):
        if name not in coreset_names(store):
            raise UsageError(_no_coreset(store, name))
        store.delete("coresets", f"name = {literal(name)}")
        store.delete("coreset_rows", f"coreset = {literal(name)}")
        for table in ("pool", "targets"):
            store.untag(tag_of(name, table), table)
    store.sync()


def load_coreset(store: Store, name: str) -> Coreset:
    """A recorded coreset.

    Raises:
        UsageError: there is none of that name; the message names those most like it.
    """
    found = store.dataset("coresets").to_table(filter=f"name = {literal(name)}").to_pylist()
    if not found:
        raise UsageError(_no_coreset(store, name))
    row = found[0]
    rows, version = _stored_rows(store, name), row["pool_version"]
    members = rows.select(["rank", "id", "score", "target", "query"])
    corpora = store.take(members["id"].to_pylist(), ["corpus"], version)["corpus"]
    parameters = json.loads(row["parameters"])
    return Coreset(
        store=store,
        name=name,
        targets=tuple(row["targets"] or ()),
        method=row["method"],
        parameters=parameters,
        fingerprint=row["fingerprint"],
        seed=row["seed"],
        budget=row["budget"],
        pool_version=version,
        filter=row["filter"],
        eligible=row["eligible"],
        short_by=row["short_by"],
        distance=row["distance"],
        query_hash=row["query_hash"],
        created_at=row["created_at"],
        members=members.append_column("corpus", corpora),
        mix=mix_of(store, corpora, version),
        notes=tuple(told(parameters.get("rules"))),
    )


def _no_coreset(store: Store, name: str) -> str:
    there = suggest(name, coreset_names(store), f"coresetdb coreset list {store.typed}")
    return f"no coreset {name!r} in {store.uri}; coresets: {there}"


def mix_of(store: Store, corpora: pa.Array | pa.ChunkedArray, version: int) -> tuple[Share, ...]:
    """The mix of corpora against the pool's, from the corpus of each pick."""
    picked, pool = (
        _counts([corpora]),
        _counts(
            batch.column("corpus")
            for batch in store.dataset("pool", version).scanner(columns=["corpus"]).to_batches()
        ),
    )
    mix = [Share(corpus, picked.get(corpus, 0), count) for corpus, count in pool.items()]
    mix.sort(key=lambda share: (-share.picked, -share.pool, share.corpus))
    return tuple(mix)


def _counts(columns: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for column in columns:
        for each in column.value_counts().to_pylist():
            counts[each["values"]] = counts.get(each["values"], 0) + each["counts"]
    return counts


def _member_rows(coreset: Coreset) -> pa.Table:
    members, count = coreset.members, len(coreset)
    keys = keys_under([coreset.name], members["rank"].to_pylist())
    columns = {
        "key": pa.array(keys, pa.string()),
        "coreset": pa.array([coreset.name] * count, pa.string()),
        **{name: members[name] for name in ("rank", "id", "score", "target", "query")},
    }
    return pa.table([columns[field.name] for field in CORESET_ROWS], schema=CORESET_ROWS)


def _stored_rows(store: Store, name: str) -> pa.Table:
    rows = store.dataset("coreset_rows").to_table(filter=f"coreset = {literal(name)}")
    return rows.sort_by("rank")


def free_name(store: Store, targets: Sequence[str], method: str) -> str:
    """A name nobody has: `<target>-<method>-<n>` with the lowest n that is free."""
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
        raise UsageError(f"there is a coreset {name!r} already; choose another name with --name")
