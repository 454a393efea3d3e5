"""The whole way on an object store: create, ingest, ask, export, verify."""

from __future__ import annotations

from pathlib import Path

from helpers.files import write_jsonl

import coresetdb


def test_a_session_on_s3(bucket: str, tmp_path: Path, tiny_llama: Path):
    uri = f"s3://{bucket}/pools/first"
    rows = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(40)]
    for name, part in (("pool", rows[:36]), ("target", rows[36:])):
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    database = coresetdb.create(uri, backbone=str(tiny_llama), dtype="float32")
    assert database.ingest(str(tmp_path / "pool.jsonl")).total("new") == 36
    database = coresetdb.connect(uri)
    assert database.ingest(str(tmp_path / "pool.jsonl")).total("duplicate") == 36
    database.add_target("sums", str(tmp_path / "target.jsonl"))
    coreset = database.select("sums", budget=8, where="id <> ''")
    assert len(coreset) == 8
    exported = database.export(coreset, str(tmp_path / "out.jsonl"))
    assert exported.rows == 8
    (count,) = database.sql("SELECT count(*) AS n FROM pool").read_all()["n"].to_pylist()
    assert count == 36
    assert database.replay(coreset.name).same
    assert database.table().count_rows() == 36
    assert coresetdb.verify(uri, full=True).ok
