"""The `key` column of tables whose rows are known by several values together."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..schemas.canonical import digest_of


def key_of(*parts: Any) -> str:
    """Digest of the parts in order, as 32 hexadecimal digits (parts are JSON values)."""
    return digest_of(list(parts))


def key_column(schema: pa.Schema) -> str:
    """The column that identifies a row: the first of every table's schema."""
    return schema.names[0]
