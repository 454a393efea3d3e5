"""Canonical JSON and the content hashes built on it.

One value has one canonical text: keys sorted, no spaces, UTF-8 as it is, no NaN. Row ids, recipe
fingerprints and table keys are BLAKE2b digests of that text, so they agree across machines,
versions and the order in which fields happened to arrive.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST_BYTES = 16

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
)


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON cannot say.
        TypeError: the value holds something JSON has no form for.
    """
    return _ENCODER.encode(value)


def digest(text: str) -> str:
    """128-bit BLAKE2b of `text` in UTF-8, as 32 lower-case hexadecimal digits.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate and so has no UTF-8 form.
    """
    return hashlib.blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).hexdigest()


def digest_of(value: Any) -> str:
    """128-bit BLAKE2b of the canonical JSON of `value`, as 32 hexadecimal digits."""
    return digest(canonical_json(value))
