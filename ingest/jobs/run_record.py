"""What the table `runs` tells of an ingestion or a featurization, written anew as it goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...schemas.tables import RUNS
from ...schemas.version import VERSION

if TYPE_CHECKING:
    from ...store.store import Store


def record_run(
    store: Store, run: str, command: str, status: str, started_at: datetime, **told: Any
) -> None:
    """Write a run's row; `told` are further columns of `runs`, 0 or empty where left out."""
    row = {
        "run": run,
        "command": command,
        "status": status,
        "started_at": started_at,
        "finished_at": None if status == "running" else datetime.now(UTC),
        **dict.fromkeys(("new", "duplicate", "rejected"), 0),
        "files": [],
        "metadata_keys": [],
        "code_version": VERSION,
        **told,
    }
    store.upsert("runs", pa.Table.from_pylist([row], schema=RUNS))
