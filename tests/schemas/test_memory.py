"""Sizes of memory as people write them."""

import pytest

from coresetdb.schemas.amounts import memory_bytes
from coresetdb.schemas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2_000_000_000),
        ("512MiB", 512 << 20),
        ("1.5 g", 1_500_000_000),
        ("4gib", 4 << 30),
        ("1000", 1000),
        (1 << 33, 1 << 33),
        ("0", 0),
    ],
)
def test_sizes(text, size):
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1GB", "2 elephants", "GiB", "1e9", "1.GB", -5])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="such as 2GB or 512MiB"):
        memory_bytes(text)
