"""What SQL sees of a store: relations and macros, by name, with what each of them is."""

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

FEATURES = {
    "features": "the vectors and lists of an instruction",
    "target_features": "the vectors and lists of an example of a target",
}
"""The relations of what the others leave out, float16 as float32."""

FEATURES_OF = {"features": "pool", "target_features": "targets"}

SCORES_OF = "scores_"
"""What comes before a target's name in its view of `scores`."""

MACROS = {
    "cosine(a, b)": "the cosine of two vectors or lists of numbers",
    "members(coreset)": "the rows of a coreset, best first: rank, score, target, query, columns "
    "of pool",
    "nearest(target, feature, k)": "id and score of the k rows nearest to a target's examples, by "
    "mean cosine; by := 'max' takes the nearest example",
}


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"
