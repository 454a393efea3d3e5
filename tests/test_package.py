"""What is installed: a wheel with the proxy's weights, and which module may import which."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

MAY_IMPORT = {
    "schemas": set(),
    "workers": {"schemas"},
    "store": {"schemas"},
    "ingest": {"schemas", "workers", "store"},
    "selectors": {"schemas"},
    "query": {"schemas", "workers", "store", "ingest", "selectors"},
    "evaluation": {"schemas", "store", "ingest", "query"},
    "reports": {"schemas", "store", "ingest", "query", "evaluation"},
    "explorer": {"database", "schemas", "store", "ingest", "query", "reports"},
}


ORDER = {
    "schemas": "version fitted_table plain_text notebook canonical errors child_process "
    "environment library_variables scratch amounts progress ids tables instruction conversations "
    "reasoning recipe stored_vectors",
    "workers": "machine task child processes options group ray_cluster ray_actors opening",
    "store": "nearby underway place reads grouping commits locks rows checksums layout store "
    "catalog shards fill features indices maintenance scores evaluation_results removal "
    "evaluations excerpts kept_targets purge corpora sql integrity sizes status",
    "store/sql": "frames names lance_relation nearest relations unknown_names child table session",
    "store/integrity": "isolated facts sealed losses report verify repair",
    "ingest": "readers importers conversations sources models columns passes fits representations "
    "featurizer create jobs attachments capabilities planning drift testing",
    "query": "names features snapshot methods weights queries groups scanning pool_statistics "
    "sketch_noise comparison ranking formats token_budget result_rows origins coresets "
    "coreset_facts distances indexing listed_rows removal rules dedup request shared_scan "
    "approximate selection replay scores score targets measured readiness method_list compare "
    "explaining distributions closeness imported extra_columns export leaks maps atlas",
    "query/pool_statistics": "statistic background centring",
    "evaluation": "statistics answers items metrics learned_loss training study arm_rows harness "
    "results running matrix",
    "reports": "page charts rows study coreset pool report",
    "explorer": "condition histogram explorer map_view row_html page_parts server notebook",
}
"""Folder -> its files and folders, each of which may import only those before it."""

NOT_THE_PACKAGE = {"tests", "benchmarks", "proxies", "build", "docs"}


def modules(repository: Path) -> Iterator[Path]:
    """The files of the package; an environment such as .venv may stand beside them."""
    for path in repository.rglob("*.py"):
        first = path.relative_to(repository).parts[0]
        if first not in NOT_THE_PACKAGE and not first.startswith("."):
            yield path


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file; nobody changes it."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, root: Path, level: str = "all") -> tuple[tuple[str, ...], ...]:
    """The modules of the package that a file imports, as ("store", "sql", "names").

    With `level` "run", only those that are imported when the module is: not the imports within a
    function, nor those for type checkers.
    """
    parts = path.relative_to(root).with_suffix("").parts
    nodes: list[ast.AST] = [tree_of(path)]
    found: list[tuple[str, ...]] = []
    while nodes:
        node = nodes.pop()
        if level == "run" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if level == "run" and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level] + tuple(filter(None, [node.module or ""]))
            module = tuple(part for step in base for part in step.split("."))
            for name in (alias.name for alias in node.names):
                inner = root.joinpath(*module, name)
                found.append((*module, name) if inner.with_suffix(".py").exists() else module)
    return tuple(found)


def test_every_package_that_is_imported_is_declared(repository):
    declared = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = ("embed", "datasets", "evaluate", "ray", "report", "atlas", "explore")
    extras = (declared["optional-dependencies"][name] for name in optional)
    names = {
        re.split(r"[^\w-]", requirement)[0].replace("-", "_")
        for requirement in chain(declared["dependencies"], *extras)
    }
    modules_of_them = {
        "jscatter",
        "lance",
        "markupsafe",
        "sklearn",
        "vl_convert",
    }  # of packages with other names
    names = names | modules_of_them | {"coresetdb", *sys.stdlib_module_names}
    missing = {
        f"{path.relative_to(repository)}: {module}"
        for path in modules(repository)
        for node in ast.walk(tree_of(path))
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if module.split(".")[0] not in names
    }
    assert not missing


def test_imports_follow_the_arrows(repository):
    wrong = [
        f"{path.relative_to(repository)} imports {module[0]}"
        for room, allowed in MAY_IMPORT.items()
        for path in (repository / room).rglob("*.py")
        for module in imports(path, repository)
        if module and module[0] not in {room, *allowed}
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ORDER)
def test_no_import_runs_back_up_within_a_folder(repository, folder):
    order, here = ORDER[folder].split(), tuple(folder.split("/"))
    assert len(order) == len(set(order))
    wrong = []
    for path in (repository / folder).rglob("*.py"):
        own = path.relative_to(repository / folder).with_suffix("").parts[0]
        assert own in order, f"where in ORDER does {folder}/{own} stand?"
        for module in imports(path, repository):
            if module[: len(here)] == here and module != here:
                other = module[len(here)]
                if other != own and order.index(other) > order.index(own):
                    wrong.append(f"{path.relative_to(repository)} imports {folder}/{other}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others(repository):
    graph = {
        path.relative_to(repository).with_suffix("").parts: set(imports(path, repository, "run"))
        for path in modules(repository)
    }
    while leaves := {module for module, others in graph.items() if not others & graph.keys()}:
        graph = {module: others for module, others in graph.items() if module not in leaves}
    assert not graph, f"circles among {sorted(map('/'.join, graph))}"


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


def test_scripts_beside_the_package_import_what_is_there(repository):
    """They are run by hand, and none of them by the tests."""
    for path in chain.from_iterable(
        (repository / each).rglob("*.py") for each in ("benchmarks", "docs", "proxies")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "coresetdb"
            ):
                continue
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                found = hasattr(module, name) or find_spec(f"{node.module}.{name}")
                assert found, f"{path.relative_to(repository)}: {node.module}.{name}"


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
