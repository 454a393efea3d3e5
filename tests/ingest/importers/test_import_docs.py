"""docs/importers.md names every format, option and key."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from coresetdb.ingest.importers.detection import importers
from coresetdb.ingest.importers.importer import ID_FIELDS
from coresetdb.ingest.readers.locations import NAMES
from coresetdb.ingest.readers.options import MAP_KEYS, ReadOptions

TEXT = (Path(__file__).parents[3] / "docs" / "importers.md").read_text(encoding="utf-8")


def test_everything_a_user_can_type_is_documented() -> None:
    names = [
        name for importer in importers().values() for name in (importer.name, *importer.aliases)
    ]
    documented = (*MAP_KEYS, *ID_FIELDS, *(field.name for field in fields(ReadOptions)))
    hidden = {"natural-instructions", "super_natural_instructions"}
    missing = [name for name in (*names, *documented) if f"`{name}`" not in TEXT]
    assert set(missing) <= hidden
    assert all(ending in TEXT for ending in NAMES)
