"""The option `stored` of representations by cosine: in which numbers a unit vector is kept.

`float16` takes 2 bytes a number, `int8` 1, `int2` a quarter. Codes round cosines more, and have no
index for approximate selections, as Lance has none (see schemas/stored_vectors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.stored_vectors import PER_BYTE

STORED: Mapping[str, Any] = {"stored": "float16"}
"""The option and its default, which a recipe leaves out, as those did that are older than it."""

VECTORS = ("float16", "int8", "int2")
"""What unit vectors can be stored as."""


def check_stored(name: str, options: Mapping[str, Any], known: tuple[str, ...] = VECTORS) -> None:
    """Refuse another type than those known.

    Raises:
        UsageError: names the representation and the types.
    """
    stored = _stored(options)
    if stored not in known:
        raise UsageError(f"{name}: stored={stored}: choose from {', '.join(known)}")


def vector_type(options: Mapping[str, Any], width: int) -> pa.DataType:
    """Return the type of a column of unit vectors of `width` numbers.

    Raises:
        UsageError: so many numbers do not fit into whole bytes.
    """
    stored = _stored(options)
    if stored == "float16":
        return pa.list_(pa.float16(), width)
    if stored == "int8":
        return pa.list_(pa.int8(), width)
    if width % PER_BYTE:
        raise UsageError(
            f"stored=int2 keeps {PER_BYTE} numbers a byte, and a vector has {width:,}: give "
            f"another stored=, or a multiple of {PER_BYTE} numbers"
        )
    return pa.list_(pa.uint8(), width // PER_BYTE)


def _stored(options: Mapping[str, Any]) -> str:
    """Return the option; a representation derived from one of ours may have left it out."""
    return options.get("stored", STORED["stored"])
