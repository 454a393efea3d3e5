"""Verifying and repairing a store, which need not open for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store.report import Repair, Report


def verify_store(
    uri: str, *, full: bool = False, storage_options: dict[str, str] | None = None
) -> Report:
    """Hold a store's files against what was written; a store that does not open can be verified."""
    from .store.verify import verify

    return verify(uri, full, storage_options)


def repair_store(
    uri: str,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    storage_options: dict[str, str] | None = None,
) -> Repair:
    """Bring a damaged store back, then verify it in full.

    Raises:
        BackboneError, FingerprintError: rows would have to be made again, and the backbone that
            made them is gone or another; nothing was changed.
    """
    from .ingest.jobs.heal import heal

    return heal(uri, say, storage_options)
