"""An S3 that delays, breaks off and lies: a commit is right or an error in a sentence."""

from __future__ import annotations

import pytest
from helpers.faulty_s3 import KINDS, FaultyS3

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import CoresetDBError
from coresetdb.store.integrity.verify import verify
from coresetdb.store.store import Store


@pytest.fixture
def faulty(bucket, endpoint, monkeypatch):
    with FaultyS3(endpoint) as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        yield s3


BREAKING = ("reset", "reset after", "half a body", "500", "503", "SlowDown")
LYING = ("truncated", "wrong ETag", "stale listing", "412", "409")


@pytest.mark.parametrize("kinds", [BREAKING, LYING], ids=["breaking", "lying"])
def test_a_commit_is_right_or_says_why(kinds, faulty, bucket, features, pool_rows, capfd):
    assert set(kinds) < set(KINDS)
    store = Store.create(f"s3://{bucket}/pool", {}, features)
    store.insert("pool", pool_rows(0, 10))
    store.sync()
    faulty.set_faults(kinds, 0.05, seed=3)
    said = ""
    try:
        again = Store.open(store.uri)
        again.insert("pool", pool_rows(5, 20))
        again.sync()
    except CoresetDBError as error:
        said = str(error)
    faulty.set_faults(())
    noise = capfd.readouterr()
    assert "object_store" not in noise.err and "WARN" not in noise.err
    assert "\n" not in said.strip() and len(said) < 600, said
    fresh = Store.open(store.uri)
    if not said:
        assert fresh.dataset("pool").count_rows() == 20
    fresh.insert("pool", pool_rows(5, 20))
    fresh.sync()
    ids = fresh.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(digest(str(n)) for n in range(20))
    report = verify(store.uri, full=True)
    assert report.ok, report.lines()


def test_the_proxy_makes_the_faults_it_is_asked_for(faulty, bucket):
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=faulty.endpoint,
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1}, response_checksum_validation="when_required"
        ),
    )
    client.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"0123456789"
    for kind in ("reset", "reset after", "half a body", "500", "503", "SlowDown"):
        faulty.set_faults((kind,), 1.0)
        with pytest.raises(Exception, match=r"."):
            client.get_object(Bucket=bucket, Key="a")["Body"].read()
        assert faulty.made[kind]
    faulty.set_faults(("truncated",), 1.0)
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"01234"
    faulty.set_faults(("wrong ETag",), 1.0)
    assert client.head_object(Bucket=bucket, Key="a")["ETag"] == '"0123"'
    faulty.set_faults(("stale listing",), 1.0)
    names = [
        [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]]
        for _ in range(2)
        if client.put_object(Bucket=bucket, Key="b", Body=b"") or True
    ]
    client.put_object(Bucket=bucket, Key="c", Body=b"")
    assert names == [["a", "b"]] * 2
    assert [e["Key"] for e in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a", "b"]
    faulty.set_faults(())
    assert len(client.list_objects_v2(Bucket=bucket)["Contents"]) == 3
