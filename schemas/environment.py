"""What the environment says: the store for commands that name none, and the user's home."""

from __future__ import annotations

import os
from pathlib import Path

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


def home_folder() -> Path:
    """Return the user's home; for a user who has none, a path below which nothing can be kept."""
    home = os.path.expanduser("~")
    return Path(home if os.path.isabs(home) else os.devnull)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~user` filled in; as it is where nobody has that name."""
    return Path(os.path.expanduser(path))
