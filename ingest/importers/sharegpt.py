"""ShareGPT: `conversations` [{from, value}] (also `conversation`, `items`), `system`, `tools`."""

from __future__ import annotations

from collections.abc import Iterable

from ..reading.read_options import ReadOptions
from .messages import fits_list, read_list
from .shape import Fields, Found, Importer, Refused

_SHAREGPT_LISTS = ("conversations", "conversation", "items")


def _read_sharegpt(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    return [read_list(record, _SHAREGPT_LISTS)]


SHAREGPT = Importer(
    name="sharegpt",
    reads="conversations [{from, value}], system?, tools?",
    fits=lambda record: fits_list(record, _SHAREGPT_LISTS),
    read=_read_sharegpt,
)
