"""What SQL sees of a store: the relations, by name, with what a row of each is."""

from __future__ import annotations

RELATIONS = {
    "pool": "an instruction, with its metadata fields and scalar features",
    "sources": "a place where an instruction was seen",
    "targets": "an example of a target task",
    "scores": "a score of an instruction for a target",
    "coresets": "a selection",
    "coreset_rows": "a member of a selection",
    "recipes": "a definition of a feature",
    "runs": "an ingestion",
    "rejects": "a record that could not be used",
}
"""`files` and `artifacts`, the store's own book-keeping, are left out."""

POOL_TABLE = "pool_table"
"""The pool as it is stored, below the view `pool` that adds the metadata fields."""
