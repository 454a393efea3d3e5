"""How many bytes of a table's files its columns take, by what they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.recipe import Recipe

if TYPE_CHECKING:
    import lance

ROWS_THEMSELVES = "texts and keys"


def bytes_of_columns(table: lance.LanceDataset) -> dict[str, int]:
    """Return column -> bytes in the table's files, as Lance encodes them.

    Rows that were removed count until the table is compacted.
    """
    owners: dict[int, str] = {}
    fields = [(field, field.name()) for field in table.lance_schema.fields()]
    while fields:
        field, column = fields.pop()
        owners[field.id()] = column
        fields += [(child, column) for child in field.children()]
    sizes: Counter[str] = Counter()
    of_fields: Any = table.stats.data_stats().fields  # annotated as one, and a list of them
    for statistics in of_fields:
        sizes[owners[statistics.id]] += statistics.bytes_on_disk
    return dict(sizes)


def bytes_per_row(
    table: lance.LanceDataset, features: Mapping[str, Recipe]
) -> list[dict[str, Any]]:
    """Return how many bytes of a row each feature takes on disk, as plain rows.

    Keys: of (a feature, or the texts and keys of the rows), bytes per row. None without rows.
    """
    rows, sizes = table.count_rows(), bytes_of_columns(table)
    if not rows:
        return []

    def sized(name: str, columns: Iterable[str]) -> dict[str, Any]:
        total = sum(sizes.pop(column, 0) for column in columns)
        return {"of": name, "bytes per row": round(total / rows)}

    found = [sized(name, recipe.columns) for name, recipe in features.items()]
    return [*found, sized(ROWS_THEMSELVES, list(sizes))]
