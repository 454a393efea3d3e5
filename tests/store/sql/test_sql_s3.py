"""SQL over a store on an S3-compatible server, started on loopback by the test."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from coresetdb.store.sql.session import eligible_ids, run_query
from coresetdb.store.store import Store

server = pytest.importorskip("moto.server", reason="moto or flask is not installed")

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1"}


@pytest.fixture(scope="module")
def options():
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield {**KEYS, "aws_endpoint": f"http://{host}:{port}", "allow_http": "true"}
    running.stop()


def test_a_store_on_s3_answers(options: dict[str, str]) -> None:
    files = pafs.S3FileSystem(
        access_key="test",
        secret_key="test",
        region="us-east-1",
        endpoint_override=options["aws_endpoint"],
        allow_bucket_creation=True,
    )
    files.create_dir("sql-bucket")
    store = Store.create("s3://sql-bucket/pool", {}, storage_options=options)
    ids = [f"{number:032x}" for number in range(5)]
    store.insert("pool", pa.table({"id": ids, "tokens": pa.array(range(5), pa.int32())}))
    answer = run_query(store.uri, "SELECT sum(tokens) AS tokens FROM pool", storage_options=options)
    assert answer.read_all().to_pylist() == [{"tokens": 10}]
    assert sorted(eligible_ids(store, "tokens > 2", store.version()).to_pylist()) == ids[3:]
