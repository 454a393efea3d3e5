"""KTO: a conversation and a truth value `label`; only what is labelled true is kept."""

from __future__ import annotations

from collections.abc import Iterable

from ..reading.read_options import ReadOptions
from . import flan, messages, sharegpt
from .shape import Fields, Found, Importer, Refused

LABEL = "label"
INNER = (messages.IMPORTER, sharegpt.IMPORTER, flan.IMPORTER)


def _fits(record: Fields) -> list[str] | None:
    if not isinstance(record.get(LABEL), bool):
        return None
    columns = next((used for inner in INNER if (used := inner.fits(record)) is not None), None)
    return None if columns is None else [*columns, LABEL]


def _read(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    label = record.get(LABEL)
    if not isinstance(label, bool):
        raise Refused(f"missing field: {LABEL}")
    if not label:
        raise Refused("not preferred: label is false")
    inner = next((inner for inner in INNER if inner.fits(record) is not None), None)
    if inner is None:
        raise Refused("missing field: messages")
    return inner.read(record, options)


IMPORTER = Importer(
    name="kto",
    reads="messages or conversations, label",
    fits=_fits,
    read=_read,
    on_request="it keeps only the conversations labelled true",
)
