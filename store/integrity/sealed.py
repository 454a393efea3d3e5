"""Small JSON files of a store that carry a digest of themselves, so that damage to them shows."""

from __future__ import annotations

import json
from typing import Any

from ...schemas.canonical import digest_of
from ..place import Place

_FACTS = "owed"


def read_sealed(place: Place, path: str) -> Any:
    """The facts in a file; None where there is no such file.

    Raises:
        ValueError: it is not what was written.
    """
    try:
        content = json.loads(place.read(path))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or content.get("digest") != digest_of(content.get(_FACTS)):
        raise ValueError(f"{path}: its digest is another one")
    return content[_FACTS]


def write_sealed(place: Place, path: str, facts: Any) -> None:
    """Write facts to disk, as JSON; the file goes where there are none (empty or None)."""
    if not facts:
        place.delete(path)
        return
    text = json.dumps({_FACTS: facts, "digest": digest_of(facts)}, ensure_ascii=False)
    place.write(path, text.encode())
    place.sync([path])
