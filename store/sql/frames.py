"""What a query's process and its owner say to each other, as frames of `schemas.child_process`.

The owner sends SETTINGS once and then one QUERY at a time; the process answers READY once, then for
each query SCHEMA, any number of BATCH and DONE, or ERROR at any point. Rows travel as Arrow IPC,
the rest as JSON; DONE and ERROR say in `replace` whether the process wants to be replaced.
"""

from __future__ import annotations

import pyarrow as pa

SETTINGS, READY, QUERY, SCHEMA, BATCH, DONE, ERROR = b"O", b"R", b"Q", b"S", b"B", b"D", b"E"


def batch_to_bytes(batch: pa.RecordBatch) -> pa.Buffer:
    """One batch as a whole IPC stream: it brings the dictionaries of its ENUM columns along."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def batch_from_bytes(payload: bytes) -> pa.RecordBatch:
    """The batch that `batch_to_bytes` wrote, without a copy."""
    with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
        return reader.read_next_batch()
