"""coresetdb: a database for choosing which instruction data to fine-tune on.

import coresetdb

db = coresetdb.connect("pool")
db.ingest(["data/*.jsonl"])
db.add_target("gsm8k", "examples.jsonl")
coreset = db.select("gsm8k", budget=1000)
coreset.to_polars()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .schemas import errors
from .schemas.errors import (
    AmbiguousFormatError,
    BackboneError,
    CoresetDBError,
    DamagedStoreError,
    FingerprintError,
    InputError,
    LayoutError,
    MappingError,
    MissingFeatureError,
    NoSuchFileError,
    NoSuchModelError,
    OutputError,
    QueryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreNotFoundError,
    UsageError,
    WorkerError,
)
from .schemas.library_variables import set_library_variables
from .schemas.version import VERSION

if TYPE_CHECKING:
    from .database import Database, connect, create, repair, verify
    from .query.coresets import Coreset

__version__ = VERSION
__all__ = [
    "AmbiguousFormatError",
    "BackboneError",
    "Coreset",
    "CoresetDBError",
    "DamagedStoreError",
    "Database",
    "FingerprintError",
    "InputError",
    "LayoutError",
    "MappingError",
    "MissingFeatureError",
    "NoSuchFileError",
    "NoSuchModelError",
    "OutputError",
    "QueryError",
    "ReadOnlyStoreError",
    "StoreBusyError",
    "StoreError",
    "StoreNotFoundError",
    "UsageError",
    "WorkerError",
    "__version__",
    "connect",
    "create",
    "errors",
    "repair",
    "verify",
]

_LOADED_ON_USE = {
    "Coreset": "query.coresets",
    "Database": "database",
    "connect": "database",
    "create": "database",
    "repair": "database",
    "verify": "database",
}
"""Public name -> the module that holds it; they import Lance, so they load on first use."""


def __getattr__(name: str) -> Any:
    if name not in _LOADED_ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LOADED_ON_USE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


set_library_variables()
