"""The nulls that Arrow puts into objects, which are no content.

All objects of an Arrow column have the same fields: where one tool has the parameter `litres`,
every other tool of the file has `litres: null`. JSON Lines that were written from such a table hold
these nulls as well. Objects inside of tools and tool calls are therefore compared, and kept,
without fields that are null. JSON text is never padded: it stays as it is.
"""

from __future__ import annotations

from typing import Any


def without_padding(value: Any) -> Any:
    """The value without fields that are null, at any depth; nulls in lists stay."""
    if isinstance(value, dict):
        return {name: without_padding(own) for name, own in value.items() if own is not None}
    if isinstance(value, list):
        return [without_padding(item) for item in value]
    return value
