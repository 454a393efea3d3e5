"""The option `stored` of representations by cosine: in which numbers a unit vector is kept.

`float16` takes 2 bytes a number. `int8` takes 1, rounds cosines a little more, and has no index for
approximate selections, as Lance has none (see schemas/stored_vectors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...schemas.errors import UsageError

STORED: Mapping[str, Any] = {"stored": "float16"}
"""The option and its default, which a recipe leaves out, as those did that are older than it."""

_TYPES = {"float16": pa.float16(), "int8": pa.int8()}


def check_stored(name: str, options: Mapping[str, Any]) -> None:
    """Refuse another type than those known.

    Raises:
        UsageError: names the representation and the types.
    """
    if options["stored"] not in _TYPES:
        raise UsageError(f"{name}: stored={options['stored']}: choose from {', '.join(_TYPES)}")


def vector_type(options: Mapping[str, Any], width: int) -> pa.DataType:
    """Return the type of a column of unit vectors of `width` numbers."""
    return pa.list_(_TYPES[options["stored"]], width)
