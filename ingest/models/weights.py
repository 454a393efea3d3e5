"""Hashes of model files, and a cache of them so that a large checkpoint is read only once.

The cache is one JSON file in the user's cache folder: path -> [bytes, mtime in ns, hash]. A file
that was touched is hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import xxhash

READ_BYTES = 8 << 20


def cache_file() -> Path:
    """Where hashes are kept: below $XDG_CACHE_HOME, or ~/.cache where that is unset."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "coresetdb" / "weight_hashes.json"


def hash_file(path: Path) -> str:
    """xxh3-128 of a file's bytes, as 32 hexadecimal digits."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            state.update(block)
    return state.hexdigest()


def hash_weights(paths: Sequence[Path]) -> dict[str, str]:
    """File name -> xxh3-128 for each file, from the cache where size and mtime still agree."""
    cache = _read_cache()
    hashes: dict[str, str] = {}
    fresh: dict[str, list[int | str]] = {}
    for path in paths:
        real = str(path.resolve())
        stat = path.stat()
        known = cache.get(real)
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            hashes[path.name] = str(known[2])
        else:
            hashes[path.name] = hash_file(path)
            fresh[real] = [stat.st_size, stat.st_mtime_ns, hashes[path.name]]
    if fresh:
        _write_cache(_read_cache() | fresh)
    return hashes


def _read_cache() -> dict[str, list[int | str]]:
    try:
        cache = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # absent, or cut off by a crash: the hashes are simply taken again
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: dict[str, list[int | str]]) -> None:
    target = cache_file()
    # A read-only home costs only the time of hashing again.
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".weight_hashes")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(cache, file, indent=0)
        os.replace(name, target)
