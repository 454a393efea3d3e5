"""Examples that coresets were chosen for, kept where a purge takes the version that held them.

A version of `targets` holds the examples of all targets, so one example with the content of a
purged row takes all of them along. A coreset whose targets are others by now keeps what is left of
its examples as an artifact, and is replayed with that; what it lost is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import DamagedStoreError
from ..schemas.ids import IdSet, keys_of
from ..schemas.tables import literal
from . import catalog

if TYPE_CHECKING:
    import lance

    from .store import Store

PURGED_EXAMPLES = "purged_examples"
"""The parameter of a coreset that says what its targets lost, and where the others are kept."""

_NAME = "targets"


def lost(parameters: dict[str, Any]) -> dict[str, int]:
    """Target -> examples that purges took, of a coreset with these parameters."""
    return parameters.get(PURGED_EXAMPLES, {}).get("lost", {})


def kept(store: Store, parameters: dict[str, Any]) -> lance.LanceDataset | None:
    """The examples that a coreset keeps, as a table like `targets`; None where it keeps none.

    Raises:
        DamagedStoreError: they are gone.
    """
    import lance

    rows = _rows_kept(store, parameters)
    return None if rows is None else lance.write_dataset(rows, "memory://targets")


def keep(
    store: Store,
    parameters: dict[str, Any],
    targets: Sequence[str],
    version: int | None,
    gone: IdSet,
) -> None:
    """Keep what a coreset's targets have beside purged rows, and note in its parameters what not.

    Args:
        parameters: of the coreset; changed in place.
        targets: names of its targets.
        version: of the table `targets` that it was made from; None where the coreset stays there,
            or was moved before.
        gone: ids of the purged rows.
    """
    rows = _rows_kept(store, parameters)
    if rows is None:
        if version is None:
            return
        rows = _rows_of(store, targets, version)
    doomed = gone.contains(keys_of(rows["id"]))
    taken = Counter(rows["target"].filter(pa.array(doomed)).to_pylist())
    left = rows.filter(pa.array(~doomed))
    noted: dict[str, Any] = {"lost": dict(sorted((taken + Counter(lost(parameters))).items()))}
    if PURGED_EXAMPLES in parameters or not _alike(left, _rows_of(store, targets)):
        noted["artifact"] = _put(store, left)
    if noted["lost"] or "artifact" in noted:
        parameters[PURGED_EXAMPLES] = noted


def held(
    store: Store, parameters: dict[str, Any], targets: Sequence[str], version: int | None
) -> list[tuple[str, str]]:
    """The examples of a coreset's targets as it was chosen for them: target and id.

    Args:
        parameters: of the coreset.
        targets: names of its targets.
        version: of the table `targets` that it was made from; None where that is gone.
    """
    rows = _rows_kept(store, parameters)
    if rows is None:
        if version is None:
            return []
        rows = _rows_of(store, targets, version, ["target", "id", "position"])
    return list(zip(rows["target"].to_pylist(), rows["id"].to_pylist(), strict=True))


def tables(store: Store, all_parameters: Sequence[dict[str, Any]]) -> list[pa.Table]:
    """All examples that coresets with these parameters keep, a table each."""
    found = (_rows_kept(store, parameters) for parameters in all_parameters)
    return [rows for rows in found if rows is not None]


def drop_others(store: Store, all_parameters: Sequence[dict[str, Any]]) -> None:
    """Delete the examples that no coreset with one of these parameters keeps."""
    used = {each.get(PURGED_EXAMPLES, {}).get("artifact") for each in all_parameters}
    rows = store.dataset("artifacts").to_table(
        columns=["fingerprint"], filter=f"name = {literal(_NAME)}"
    )
    for digest in set(rows["fingerprint"].to_pylist()) - used:
        store.delete("artifacts", f"name = {literal(_NAME)} AND fingerprint = {literal(digest)}")


def _rows_kept(store: Store, parameters: dict[str, Any]) -> pa.Table | None:
    digest = parameters.get(PURGED_EXAMPLES, {}).get("artifact")
    if digest is None:
        return None
    data = catalog.artifact(store, digest, _NAME)
    if data is None:
        raise DamagedStoreError(
            f"{store.uri}: examples of targets that coresets keep ({digest}) are gone. "
            "Run `coresetdb verify --full`"
        )
    return pa.ipc.open_stream(data).read_all()


def _rows_of(
    store: Store,
    targets: Sequence[str],
    version: int | None = None,
    columns: list[str] | None = None,
) -> pa.Table:
    dataset = store.dataset("targets", version)
    named = ", ".join(map(literal, targets))
    rows = dataset.to_table(columns=columns, filter=f"target IN ({named})")
    rows = rows if columns else rows.cast(dataset.schema)
    return rows.sort_by([("target", "ascending"), ("position", "ascending")])


def _alike(some: pa.Table, others: pa.Table) -> bool:
    """Whether two tables have the same examples in the same order."""
    return all(
        some[name].to_pylist() == others[name].to_pylist() for name in ("target", "id", "position")
    )


def _put(store: Store, rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    data = sink.getvalue().to_pybytes()
    digest = catalog.content_of(data)
    catalog.put_artifact(store, digest, _NAME, data)
    return digest
