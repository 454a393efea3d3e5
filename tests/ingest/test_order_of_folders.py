"""Inside `ingest/` imports run one way: a folder imports only those that stand before it."""

from __future__ import annotations

import ast
from pathlib import Path

ORDER = (
    ("readers",),
    ("importers", "conversations"),
    ("sources", "models"),
    ("columns", "passes"),
    ("fits",),
    ("representations",),
    ("featurizer",),
    ("create",),
    ("jobs",),
    ("planning", "drift", "testing"),
)
"""Folders and files, lowest first; those of one line do not import each other."""

RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imported(path: Path, room: Path) -> set[str]:
    """The other folders and files of `ingest/` that a module imports, wherever it does."""
    parts = path.relative_to(room).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(parts):
            module = tuple(node.module.split(".")) if node.module else ()
            target = (*parts[: len(parts) - node.level], *module)
            found |= {target[0]} if target else {alias.name for alias in node.names}
    return found - {parts[0]}


def test_every_folder_has_its_place(repository):
    room = repository / "ingest"
    names = {path.relative_to(room).with_suffix("").parts[0] for path in room.rglob("*.py")}
    assert names == set(RANK)


def test_imports_run_down(repository):
    room = repository / "ingest"
    wrong = [
        f"{path.relative_to(repository)} imports ingest/{other}"
        for path in sorted(room.rglob("*.py"))
        for other in sorted(imported(path, room))
        if RANK[other] >= RANK[path.relative_to(room).with_suffix("").parts[0]]
    ]
    assert not wrong, "\n".join(wrong)
