"""The files of query/ stand in one order, and each imports only from those before it."""

from __future__ import annotations

import ast
from pathlib import Path

# A folder stands for its files; within one, the order is free of circles as well.
ORDER = (
    # what the store has: names, features, one version of pool and targets
    "names features snapshot "
    # how a method ranks the rows of a snapshot
    "methods queries scanning comparison ranking "
    # what was chosen, and in which forms its rows are shown
    "formats result_rows coresets distances indexing "
    # a request, and the coreset that answers it
    "rules request approximate selection replay "
    # the other questions to a store
    "scores score targets method_list compare explaining export"
).split()


def imports_of(path: Path, query: Path) -> set[Path]:
    """The files of query/ that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            files = [base / f"{name.replace('.', '/')}.py" for name in names]
            found |= {file for file in files if file.is_relative_to(query) and file.exists()}
    return found


def place(path: Path, query: Path) -> int:
    return ORDER.index(path.relative_to(query).parts[0].removesuffix(".py"))


def test_every_file_has_its_place_and_imports_run_one_way(repository):
    query = repository / "query"
    files = sorted(query.rglob("*.py"))
    assert {path.relative_to(query).parts[0].removesuffix(".py") for path in files} == {*ORDER}
    against = [
        f"{path.relative_to(query)} imports {other.relative_to(query)}"
        for path in files
        for other in imports_of(path, query)
        if place(other, query) > place(path, query)
    ]
    assert not against


def test_no_circles(repository):
    query = repository / "query"
    left = {path: imports_of(path, query) for path in query.rglob("*.py")}
    while free := [path for path, needed in left.items() if not needed & left.keys()]:
        for path in free:
            del left[path]
    assert not {str(path.relative_to(query)) for path in left}
