"""The folder in which the docs are followed, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.docs_world import make_world

from coresetdb import connect


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it was made; nobody changes it."""
    folder = tmp_path_factory.mktemp("docs")
    make_world(folder)
    return folder


@pytest.fixture
def first_id(world: Path) -> str:
    """The best row of the coreset `math`."""
    return connect(str(world / "pool")).open_coreset("math").ids[0]
