"""What the tables of a store say of each other, held against one another.

Checksums tell which bytes are not what was written. They do not tell what is no longer there once a
repair has taken damaged rows out or has stepped back behind a torn manifest: then one table still
says what another no longer has. A contradiction is what cannot be in a store that is whole,
whenever a process was killed; a remark is what a kill, or a person, may have left as well.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.ids import GrowingIdSet, IdSet, keys_of
from ...schemas.plain_text import count_of
from ..removal import UNSETTLED

_NAMED = 10


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What a table lacks, or has too much, by what another one says.

    Attributes:
        table: in which something is missing, or too much.
        what: "members" of a coreset, its "tag", rows that were "removed", rows that are there
            "twice", an "artifact", or "examples" of a target.
        name: of the coreset, the artifact or the target; "" for rows of the pool.
        detail: what each of the two tables says.
        advice: what to do where repair cannot mend it.
        ids: of the rows concerned, of rows of the pool.
        version: that a tag has to stand for.
    """

    table: str
    what: str
    name: str
    detail: str
    advice: str = ""
    ids: tuple[str, ...] = ()
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.table}: {self.detail}"


@dataclass
class Facts:
    """Contradictions between tables, and remarks (sentences)."""

    contradictions: list[Contradiction] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Tables(Protocol):
    """The tables of one store, read for comparison."""

    uri: str
    """As it is typed into a shell."""

    def has(self, table: str) -> bool:
        """Whether the table is there and nothing is known to be damaged in it."""
        ...

    def read(self, table: str, columns: list[str]) -> pa.Table:
        """Columns of all its rows."""
        ...

    def batches(self, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """What `read` reads, in batches: for columns that have a value for every row."""
        ...

    def reread(self, table: str, columns: list[str]) -> pa.Table:
        """The same of the version that is the newest by now."""
        ...

    def tags(self, table: str) -> Mapping[str, int]:
        """Name -> version."""
        ...

    def versions(self, table: str) -> Collection[int]:
        """Those that are still there."""
        ...


def compare_tables(tables: Tables) -> Facts:
    """Hold every table against the others that say something about it."""
    facts = Facts()
    checks: list[tuple[Callable[[Tables, Facts], None], tuple[str, ...]]] = [
        (_twins, ("pool",)),
        (_removed_rows, ("pool", "removed")),
        (_members, ("coresets", "coreset_rows")),
        (_tags, ("coresets", "pool", "targets")),
        (_artifacts, ("recipes", "artifacts")),
        (_examples, ("targets",)),
        (_scores, ("scores",)),
        (_measurements, ("evaluations",)),
        (_places, ("pool", "sources")),
    ]
    for check, needed in checks:
        if all(tables.has(table) for table in needed):
            check(tables, facts)
    return facts


def coreset_tag(name: str, table: str) -> str:
    """The tag that keeps the version of a table that a coreset was made from."""
    return f"coreset-{name}-{table}"


def _twins(tables: Tables, facts: Facts) -> None:
    """No row is in the pool twice."""
    keys = [keys_of(batch["id"]) for batch in tables.batches("pool", ["id"])]
    if not keys:
        return
    ordered = IdSet(np.concatenate(keys)).keys()
    again = ordered[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]
    if not len(again):
        return
    there = sorted(set(_among(tables, IdSet(again))))
    detail = f"{count_of(len(there), 'id')} with more than one row: {_few(there)}"
    facts.contradictions.append(Contradiction("pool", "twice", "", detail, ids=tuple(there)))


def _among(tables: Tables, ids: IdSet) -> list[str]:
    """The ids of the pool that are in a set, a row each."""
    there: list[str] = []
    for batch in tables.batches("pool", ["id"]):
        there += batch["id"].filter(pa.array(ids.contains(keys_of(batch["id"])))).to_pylist()
    return there


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")


def _removed_rows(tables: Tables, facts: Facts) -> None:
    """A row that was removed or purged is not in the pool."""
    removed = tables.read("removed", ["id", "state"])
    gone = removed.filter(pc.is_in(removed["state"], pa.array(["removed", "purged"])))  # pyright: ignore[reportAttributeAccessIssue]
    if not gone.num_rows:
        return
    there = _among(tables, IdSet(keys_of(gone["id"])))
    if there:
        rows = count_of(len(there), "row")
        detail = f"{rows} that the table removed says were removed: {_few(there)}"
        facts.contradictions.append(Contradiction("pool", "removed", "", detail, ids=tuple(there)))


def _members(tables: Tables, facts: Facts) -> None:
    """A coreset has as many members as it says, of ranks from 1 on; members have a coreset."""
    columns = ["name", "rows", "created_at"]
    coresets = {row["name"]: row for row in tables.read("coresets", columns).to_pylist()}
    rows = tables.read("coreset_rows", ["coreset", "rank"])
    ranks: dict[str, list[int]] = defaultdict(list)
    for name, rank in zip(rows["coreset"].to_pylist(), rows["rank"].to_pylist(), strict=True):
        ranks[name].append(rank)
    short = {
        name: row
        for name, row in coresets.items()
        if sorted(ranks.get(name, [])) != list(range(1, (row["rows"] or 0) + 1))
    }
    ownerless = ranks.keys() - coresets.keys()
    if not short and not ownerless:
        return
    # A coreset goes before its members, and comes after them: it may have been removed or chosen
    # between the two looks.
    now = {row["name"]: row for row in tables.reread("coresets", columns).to_pylist()}
    for name, row in sorted(short.items()):
        if now.get(name) != row:
            continue
        there = len(set(ranks.get(name, ())) & set(range(1, row["rows"] + 1)))
        twice = len(ranks.get(name, ())) - there
        more = f", and {count_of(twice, 'row')} beside them" if twice > 0 else ""
        facts.contradictions.append(
            Contradiction(
                "coreset_rows",
                "members",
                name,
                f"{there:,} of the {count_of(row['rows'], 'member')} of coreset {name} are "
                f"there{more}",
                f"type `coresetdb coreset remove {tables.uri} {name}` and select again",
            )
        )
    for name in sorted(ownerless - now.keys()):
        facts.remarks.append(
            f"coreset_rows: {count_of(len(ranks[name]), 'member')} of a coreset {name} that the "
            "table coresets does not have: its selection or removal was killed, or damage took it. "
            "The next coreset of that name replaces them"
        )


def _tags(tables: Tables, facts: Facts) -> None:
    """The versions that a coreset was made from are kept under its tags."""
    if tables.has("removed"):
        states = tables.read("removed", ["state"])["state"].to_pylist()
        if any(state in UNSETTLED for state in states):
            return  # a purge or a restore moves them
    columns = ["name", "targets", "pool_version", "parameters", "created_at"]
    coresets = tables.read("coresets", columns).to_pylist()
    if not coresets:
        return
    known = {table: tables.tags(table) for table in ("pool", "targets")}
    there = {table: set(tables.versions(table)) for table in ("pool", "targets")}
    wrong: list[tuple[dict[str, Any], str, int]] = []
    for row in coresets:
        wanted = {"pool": row["pool_version"]}
        parameters = _json_of(row["parameters"])
        if row["targets"] and "purged_examples" not in parameters:
            wanted["targets"] = parameters.get("targets_version")
        wrong += [
            (row, table, version)
            for table, version in wanted.items()
            if version is not None and known[table].get(coreset_tag(row["name"], table)) != version
        ]
    if not wrong:
        return
    now = {row["name"]: row for row in tables.reread("coresets", columns).to_pylist()}
    for row, table, version in wrong:
        name = row["name"]
        if now.get(name) != row:
            continue  # removed or moved meanwhile
        if version not in there[table]:
            facts.remarks.append(
                f"{table}: version {version}, which coreset {name} was chosen from, is gone. Its "
                "rows are still known; it cannot be replayed"
            )
            continue
        tag, stands_for = coreset_tag(name, table), known[table].get(coreset_tag(name, table))
        said = "is missing" if stands_for is None else f"stands for version {stands_for}"
        detail = f"coreset {name} was chosen from version {version}, and its tag {tag} {said}"
        facts.contradictions.append(Contradiction(table, "tag", name, detail, version=version))


def _artifacts(tables: Tables, facts: Facts) -> None:
    """What was fitted for a feature is there."""
    rows = tables.read("recipes", ["representation", "fingerprint", "artifacts"]).to_pylist()
    wanted = {
        (content, name): row for row in rows for name, content in _json_of(row["artifacts"]).items()
    }
    if not wanted:
        return
    kept = tables.read("artifacts", ["fingerprint", "name"])
    there = set(zip(kept["fingerprint"].to_pylist(), kept["name"].to_pylist(), strict=True))
    for (content, name), row in sorted(wanted.items()):
        if (content, name) not in there:
            facts.contradictions.append(
                Contradiction(
                    "artifacts",
                    "artifact",
                    content,
                    f"the {name} that the feature {row['representation']} "
                    f"({row['fingerprint'][:8]}) was fitted with is gone",
                    "rows that have the feature can be compared, and no others can get it; type "
                    f"`coresetdb feature remove {tables.uri} {row['representation']}` and "
                    f"`coresetdb featurize {tables.uri} {row['representation']}` to fit it again",
                )
            )


def _examples(tables: Tables, facts: Facts) -> None:
    """The examples of a target are numbered without a gap, unless a purge took some."""
    if tables.has("removed"):
        states = tables.read("removed", ["state"])["state"].to_pylist()
        if any(state in ("purging", "purged") for state in states):
            return
    rows = tables.read("targets", ["target", "position"])
    for row in _counted(rows, "target", "position"):
        missing = (row["position_max"] or 0) + 1 - row["position_count"]
        if row["position_count"] and missing > 0:
            name = row["target"]
            facts.contradictions.append(
                Contradiction(
                    "targets",
                    "examples",
                    name,
                    f"{row['position_count']:,} of at least {row['position_max'] + 1:,} examples "
                    f"of target {name} are there",
                    f"type `coresetdb target remove {tables.uri} {name}` and add it again",
                )
            )


def _scores(tables: Tables, facts: Facts) -> None:
    """A set of scores has a row for every rank up to its last."""
    keys = ["target", "method", "fingerprint", "pool_version"]
    rows = tables.read("scores", [*keys, "rank"])
    for row in _counted(rows, keys, "rank"):
        if row["rank_count"] < (row["rank_max"] or 0):
            facts.remarks.append(
                f"scores: {row['rank_count']:,} of at least {count_of(row['rank_max'], 'score')} "
                f"by {row['method']} for target {row['target']} are there; `coresetdb score "
                f"{tables.uri} {row['target']} --method '{row['method']}'` writes them anew"
            )


def _measurements(tables: Tables, facts: Facts) -> None:
    """Every arm of a study was measured on the same items."""
    keys = ["study", "metric", "arm", "budget", "seed"]
    rows = tables.read("evaluations", [*keys, "item"])
    most: dict[tuple[str, str], int] = defaultdict(int)
    counted = _counted(rows, keys, "item")
    for row in counted:
        key = row["study"], row["metric"]
        most[key] = max(most[key], row["item_count"])
    for row in counted:
        items = most[row["study"], row["metric"]]
        if row["item_count"] < items:
            facts.remarks.append(
                f"evaluations: arm {row['arm']} (budget {row['budget']}, seed {row['seed']}) of "
                f"study {row['study']} has {row['item_count']:,} of the {items:,} values of "
                f"{row['metric']} that others have"
            )


def _places(tables: Tables, facts: Facts) -> None:
    """Every row of the pool was read somewhere."""
    seen = GrowingIdSet()
    seen.add_all(batch["id"] for batch in tables.batches("sources", ["id"]))
    if not len(seen):
        return  # rows that another tool put there
    placeless = sum(
        int((~seen.contains(batch["id"])).sum()) for batch in tables.batches("pool", ["id"])
    )
    if placeless:
        facts.remarks.append(
            f"sources: where {count_of(placeless, 'row')} of the pool "
            f"{'was' if placeless == 1 else 'were'} read is not known; ingesting the files again "
            "writes it down"
        )


def _counted(rows: pa.Table, keys: str | list[str], column: str) -> list[dict[str, Any]]:
    kinds = ["count"] if pa.types.is_string(rows.schema.field(column).type) else ["count", "max"]
    return rows.group_by(keys).aggregate([(column, kind) for kind in kinds]).to_pylist()


def _json_of(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}
