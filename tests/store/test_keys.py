"""Keys made many at a time are those made one by one."""

from __future__ import annotations

import pytest

from coresetdb.store.rows import key_of, keys_under


@pytest.mark.parametrize("parts", [["a"], ['n"é', 3, "r\\"]])
def test_keys_under_are_the_keys_of(parts):
    last = ["0" * 32, "f0" * 16, 0, 7, 10_000]
    assert keys_under(parts, last) == [key_of(*parts, each) for each in last]
    assert keys_under(parts, []) == []
