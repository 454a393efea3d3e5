"""A user without a home is served as one whose home cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coresetdb.schemas.environment import expanded, home_folder


def test_a_home_that_is_there_and_one_that_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path and expanded("~/pool") == tmp_path / "pool"
    assert expanded("~nobody-at-all/pool") == Path("~nobody-at-all/pool")
    monkeypatch.setattr("os.path.expanduser", os.fspath)  # as without HOME and without an entry
    with pytest.raises(OSError):
        (home_folder() / ".cache").mkdir(parents=True, exist_ok=True)
