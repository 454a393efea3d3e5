"""Marks of tests that need an optional library.

`pytest.importorskip` at the head of a file imports the library in every process that collects the
tests, run there or not; a mark imports nothing.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(module: str, installed_by: str) -> pytest.MarkDecorator:
    """Skip where a top-level module cannot be found; `installed_by` is what would install it."""
    return pytest.mark.skipif(
        find_spec(module) is None, reason=f"{module} is not installed ({installed_by})"
    )
