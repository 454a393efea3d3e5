"""coresetdb: a database for choosing which instruction data to fine-tune on.

import coresetdb

db = coresetdb.connect("pool")
db.ingest(["data/*.jsonl"])
db.add_target("gsm8k", "examples.jsonl")
coreset = db.select("gsm8k", budget=1000)
coreset.to_polars()
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .schemas.version import VERSION

if TYPE_CHECKING:
    from .database import Database

__version__ = VERSION
__all__ = ["Database", "__version__", "connect", "create"]


def _let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for work; a setting of the user's stays.

    By default torch's OpenMP (GNU's, in the wheels for Linux) spins, and on a busy machine the
    waiting threads keep the working ones off the processor. The variable is OpenMP's own, not
    GNU's; a GOMP_SPINCOUNT of the user's wins over it. It is read once, when torch is loaded:
    therefore here, which everything of coresetdb is imported through.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_let_idle_threads_sleep()


def connect(uri: str, *, storage_options: dict[str, str] | None = None) -> Database:
    """Open the store at `uri`, a folder or an `s3://` address.

    Raises:
        StoreNotFoundError: there is no store at `uri`.
        LayoutError: a newer coresetdb wrote it.
    """
    from .database import Database

    return Database.open(uri, storage_options=storage_options)


def create(uri: str, **options: Any) -> Database:
    """Create an empty store at `uri`; `options` are those of `Database.create`."""
    from .database import Database

    return Database.create(uri, **options)


def __getattr__(name: str) -> Any:
    if name == "Database":
        from .database import Database

        return Database
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
