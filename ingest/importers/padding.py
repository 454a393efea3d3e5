"""What Arrow adds to objects so that all of a column look alike, which is no content.

All objects of an Arrow column have the same fields, and all numbers of a field the same type: where
one tool has the parameter `litres: 0.5`, every other tool of the file has `litres: null`, or `2.0`
for 2. JSON Lines that were written from such a table hold these as well. Objects inside of tools
and tool calls are therefore compared, and kept, without fields that are null and with whole numbers
as integers. JSON text is never padded: it stays as it is.
"""

from __future__ import annotations

from typing import Any

EXACT = 2**53
"""Up to here a float holds every integer."""


def without_padding(value: Any) -> Any:
    """The value without null fields and with whole numbers as integers, at any depth."""
    if isinstance(value, dict):
        return {name: without_padding(own) for name, own in value.items() if own is not None}
    if isinstance(value, list):
        return [without_padding(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value
