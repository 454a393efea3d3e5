"""SQL over a store on an S3-compatible server, started on loopback by the test."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs as pafs

from coresetdb.store.sql.session import eligible_ids, run_query
from coresetdb.store.store import Store

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1"}


def test_a_store_on_s3_answers(endpoint: str) -> None:
    options = {**KEYS, "aws_endpoint": endpoint, "allow_http": "true"}
    files = pafs.S3FileSystem(
        access_key="test",
        secret_key="test",
        region="us-east-1",
        endpoint_override=endpoint,
        allow_bucket_creation=True,
    )
    files.create_dir("sql-bucket")
    store = Store.create("s3://sql-bucket/pool", {}, storage_options=options)
    ids = [f"{number:032x}" for number in range(5)]
    store.insert("pool", pa.table({"id": ids, "tokens": pa.array(range(5), pa.int32())}))
    answer = run_query(store.uri, "SELECT sum(tokens) AS tokens FROM pool", storage_options=options)
    assert answer.read_all().to_pylist() == [{"tokens": 10}]
    assert sorted(eligible_ids(store, "tokens > 2", store.version()).to_pylist()) == ids[3:]
