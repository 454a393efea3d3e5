"""Sources on an object store, an S3 server on loopback."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from coresetdb.ingest.readers.locations import find_files
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import InputError

ROW = json.dumps({"question": "q", "answer": "a"}) + "\n"


def test_files_of_a_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    address = endpoint.removeprefix("http://")
    there = f"endpoint_override={address.replace(':', '%3A')}&scheme=http&region=us-east-1"
    system = pafs.S3FileSystem(
        endpoint_override=address,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    system.create_dir("found")
    sink = io.BytesIO()
    pq.write_table(pa.table({"question": ["q"], "answer": ["b"]}), sink)
    contents = {"found/d/a.jsonl": ROW.encode(), "found/d/sub/t.parquet": sink.getvalue()}
    for path, content in contents.items():
        with system.open_output_stream(path) as stream:
            stream.write(content)
    files = find_files([f"s3://found/d?{there}"])
    assert [file.partition("?")[0] for file in files] == [f"s3://{path}" for path in contents]
    assert find_files([f"s3://found/d/*.jsonl?{there}"]) == files[:1]
    answers = []
    for file in files:
        source = open_source(file)
        answers += [item.instruction.messages[1].content for item in source]
        assert source.bytes_read == source.size
    assert answers == ["a", "b"]
    assert [open_source(file).corpus for file in files] == ["a", "t"]
    with pytest.raises(InputError, match="nothing to read"):
        find_files([f"s3://found/none?{there}"])
