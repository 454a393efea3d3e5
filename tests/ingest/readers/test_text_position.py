"""How far a text is read: what was read ahead counts when its rows come."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from coresetdb.ingest.readers.opening import PIECE_BYTES
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source

DICE = random.Random(1)
ROWS = [
    {"prompt": f"{number}?", "response": f"{DICE.getrandbits(4000):x}"} for number in range(1500)
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_small_files_are_not_read_at_once(tmp_path, encoding, packed):
    text = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    data = text.encode(encoding)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(gzip.compress(data) if packed else data)
    size = file.stat().st_size
    source = open_source(str(file), ReadOptions())
    ahead = [source.bytes_read / size - number / len(ROWS) for number, _ in enumerate(source, 1)]
    assert len(ahead) == len(ROWS)
    # Python unpacks gzip from a buffer of up to 128 KB.
    assert max(map(abs, ahead)) < 3 * PIECE_BYTES / len(text) + packed * (1 << 17) / size
    source.finish()
    assert source.bytes_read == size
