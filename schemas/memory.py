"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from .errors import UsageError

_MEMORY_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", re.IGNORECASE)


def memory_bytes(size: str | int) -> int:
    """The bytes of `2GB`, `512MiB`, `1.5g` or a plain number.

    Raises:
        UsageError: the text has another form.
    """
    match = _MEMORY_SIZE.fullmatch(str(size).strip())
    if not match:
        raise UsageError(f"memory limit {size!r}: write a size such as 2GB or 512MiB")
    number, scale, binary = match.groups()
    power = "KMGT".index(scale.upper()) + 1 if scale else 0
    return int(float(number) * (1024 if binary else 1000) ** power)
