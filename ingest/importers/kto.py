"""KTO: a conversation and a truth value `label`; only what is labelled true is kept."""

from __future__ import annotations

from collections.abc import Iterable

from ..reading.read_options import ReadOptions
from .flan import FLAN
from .messages import MESSAGES
from .sharegpt import SHAREGPT
from .shape import Fields, Found, Importer, Refused

LABEL = "label"
INNER = (MESSAGES, SHAREGPT, FLAN)


def _fits_kto(record: Fields) -> list[str] | None:
    if not isinstance(record.get(LABEL), bool):
        return None
    columns = next((used for inner in INNER if (used := inner.fits(record)) is not None), None)
    return None if columns is None else [*columns, LABEL]


def _read_kto(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    label = record.get(LABEL)
    if not isinstance(label, bool):
        raise Refused(f"missing field: {LABEL}")
    if not label:
        raise Refused("not preferred: label is false")
    inner = next((inner for inner in INNER if inner.fits(record) is not None), None)
    if inner is None:
        raise Refused("missing field: messages")
    return inner.read(record, options)


KTO = Importer(
    name="kto",
    reads="messages or conversations, label",
    fits=_fits_kto,
    read=_read_kto,
    on_request="it keeps only the conversations labelled true",
)
