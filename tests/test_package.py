"""What is installed: a wheel with the proxy's weights, and no import against the arrows."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

MAY_IMPORT = {
    "schemas": set(),
    "store": {"schemas"},
    "ingest": {"schemas", "store"},
    "selectors": {"schemas"},
    "query": {"schemas", "store", "ingest", "selectors"},
}


def imported_rooms(path: Path, root: Path) -> set[str]:
    """The rooms that a module's relative imports reach, other than its own."""
    parts = path.relative_to(root).with_suffix("").parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            target = (*base, *(node.module or "").split("."))
            rooms.add(next((part for part in target if part), ""))
    return rooms - {parts[0], ""}


def test_imports_follow_the_arrows(repository):
    wrong = [
        f"{path.relative_to(repository)} imports {room}"
        for name, allowed in MAY_IMPORT.items()
        for path in (repository / name).rglob("*.py")
        for room in imported_rooms(path, repository) - allowed
    ]
    assert not wrong


def test_the_wheel_runs_from_another_folder(repository, tmp_path):
    tree = tmp_path / "tree"  # building writes into the tree it builds from
    unwanted = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(repository, tree, ignore=unwanted)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"),
            *("-w", str(tmp_path), str(tree)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = tmp_path.glob("coresetdb-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    assert "coresetdb/proxies/builtin/model.safetensors" in names
    assert "coresetdb/demo/pool.jsonl.gz" in names
    assert "coresetdb/py.typed" in names
    assert not any(name.startswith(("tests/", "coresetdb/tests")) for name in names)
    code = (
        "import coresetdb, sys; assert coresetdb.__file__.startswith(sys.argv[1]), coresetdb;"
        "db = coresetdb.create('pool'); print(db.status().headline())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "0 rows" in ran.stdout


def test_every_public_name_resolves():
    import coresetdb

    assert all(getattr(coresetdb, name) is not None for name in coresetdb.__all__)
    assert set(coresetdb.__all__) <= set(dir(coresetdb))
    raised = {name for name in vars(coresetdb.errors) if name.endswith("Error")}
    assert raised <= set(coresetdb.__all__), "an error that cannot be imported from the top"
    assert not hasattr(coresetdb, "nosuch")


def test_importing_is_light():
    code = (
        "import sys, coresetdb; coresetdb.UsageError, coresetdb.errors;"
        "heavy = ('torch', 'transformers', 'lance', 'lancedb', 'pyarrow', 'polars', 'numpy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
