"""The store that the environment names, for commands and calls that name none."""

from __future__ import annotations

import os

from .errors import UsageError

STORE_VARIABLE = "CORESETDB_STORE"


def default_store() -> str | None:
    """Return the address in CORESETDB_STORE, None where that is unset or empty."""
    return os.environ.get(STORE_VARIABLE) or None


def store_or_default(address: str | os.PathLike[str] | None) -> str:
    """Return an address, or the default where it is None.

    Raises:
        UsageError: there is neither.
    """
    named = os.fspath(address) if address is not None else default_store()
    if not named:
        raise UsageError(f"name a store, or set the environment variable {STORE_VARIABLE}")
    return named
