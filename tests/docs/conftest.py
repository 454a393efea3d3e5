"""The folder in which the docs are followed, made once for all processes of a run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from helpers.docs_world import make_world

from coresetdb import connect


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it was made; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of this run's processes
    folder, made = base / "docs-world", base / "docs-world-is-made"
    with open(base / "docs-world-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder.mkdir()
            make_world(folder)
            made.touch()
    return folder


@pytest.fixture
def first_id(world: Path) -> str:
    """The best row of the coreset `math`."""
    return connect(str(world / "pool")).open_coreset("math").ids[0]
