"""Corpora that went through `datasets` and polars come in again as no new rows.

Ids are compared, without features; the last test ingests one corpus in every form into one store.
As a script it prints the table of all corpora and forms:

    python tests/ingest/test_round_trip.py
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

import coresetdb
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_sources
from coresetdb.schemas.instruction import Record

POOLS = Path(__file__).parents[2].resolve().parent / "shared" / "data" / "pools"
CORPORA: dict[str, dict[str, str]] = {
    "alpaca_gpt4_zh_1k.json.gz": {},
    "dolly_3k.json.gz": {},
    "hh_rlhf_harmless_2312.jsonl.gz": {"format": "preference"},
    "mbpp_train.jsonl.gz": {},
    "messages_parts_500.jsonl.gz": {},
    "messages_reason_tool_50.jsonl.gz": {},
    "oasst_zh_history_766.json.gz": {},
    "pref_kto_en_300.json.gz": {"format": "kto"},
    "self_instruct_seed_175.jsonl.gz": {},
    "sharegpt_glaive_toolcall_en_300.json.gz": {},
}
"""File -> how it is read."""

pytestmark = pytest.mark.skipif(
    not POOLS.is_dir(), reason="the shared data (../shared/data) is not here"
)


def ids_of(data: Any, options: ReadOptions) -> set[str]:
    """The ids of all records of files or a dataset."""
    opened = open_sources(data, options)
    assert not opened.unreadable, opened.unreadable
    return {
        item.instruction.id
        for source in opened.sources()
        for item in source
        if isinstance(item, Record)
    }


def loaded(file: Path, cache: Path) -> datasets.Dataset:
    """A corpus as `load_dataset` reads it."""
    return datasets.load_dataset(  # pyright: ignore[reportReturnType]
        "json", data_files=str(file), split="train", cache_dir=str(cache)
    )


def framed(file: Path) -> pl.DataFrame:
    """A corpus as polars reads it."""
    raw = gzip.decompress(file.read_bytes())
    if ".jsonl" in file.name:
        return pl.read_ndjson(raw, infer_schema_length=None)
    return pl.read_json(raw, infer_schema_length=None)


def pushed(dataset: datasets.Dataset, folder: Path) -> None:
    """The layout of `push_to_hub`."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nconfigs: []\n---\n")
    for index in range(2):
        shard = dataset.shard(2, index, contiguous=True)
        shard.to_parquet(folder / "data" / f"train-{index:05}-of-00002.parquet")


FROM_DATASET: dict[str, Callable[[datasets.Dataset, Path], Any]] = {
    "save_to_disk": lambda dataset, path: dataset.save_to_disk(path),
    "to_parquet": lambda dataset, path: dataset.to_parquet(path.with_suffix(".parquet")),
    "to_json": lambda dataset, path: dataset.to_json(path.with_suffix(".jsonl")),
    "to_json array": lambda dataset, path: dataset.to_json(
        path.with_suffix(".json"), lines=False, batch_size=len(dataset)
    ),
    "DatasetDict": lambda dataset, path: dataset.train_test_split(0.1, seed=0).save_to_disk(path),
    "push layout": pushed,
}  # fmt: skip
FROM_FRAME: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "polars Parquet": lambda frame, path: frame.write_parquet(path.with_suffix(".parquet")),
    "polars NDJSON": lambda frame, path: frame.write_ndjson(path.with_suffix(".ndjson")),
    "polars IPC": lambda frame, path: frame.write_ipc(path.with_suffix(".arrow")),
}


def forms(file: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    """The name of every form of a corpus, and what to read it from."""
    cache = folder / "cache"
    dataset = loaded(file, cache)
    yield "cache of load_dataset", str(cache)
    yield "Dataset in memory", dataset
    frame = framed(file)
    for name, write, data in [
        *((name, write, dataset) for name, write in FROM_DATASET.items()),
        *((name, write, frame) for name, write in FROM_FRAME.items()),
    ]:
        place = folder / name
        place.mkdir()
        write(data, place / "corpus")
        yield name, str(place)


@pytest.mark.parametrize("name", CORPORA)
def test_no_new_rows(name: str, tmp_path: Path) -> None:
    options = ReadOptions(**CORPORA[name])
    expected = ids_of(str(POOLS / name), options)
    assert expected
    for form, data in forms(POOLS / name, tmp_path):
        found = ids_of(data, options)
        assert (len(found - expected), len(expected - found)) == (0, 0), form


def test_ingested_again_in_every_form(tmp_path: Path, tiny_llama: Path) -> None:
    name = "messages_reason_tool_50.jsonl.gz"
    database = coresetdb.create(str(tmp_path / "pool"), backbone=str(tiny_llama), features="rds")
    first = database.ingest(str(POOLS / name))
    assert first.total("new") == 50
    for form, data in forms(POOLS / name, tmp_path):
        again = database.ingest(data)
        assert (again.total("new"), again.total("duplicate"), again.faults) == (0, 50, []), form


def _print_table() -> None:
    for name, reading in CORPORA.items():
        options = ReadOptions(**reading)
        expected = ids_of(str(POOLS / name), options)
        print(f"{name}: {len(expected):,} distinct rows")
        with tempfile.TemporaryDirectory() as folder:
            for form, data in forms(POOLS / name, Path(folder)):
                found = ids_of(data, options)
                lost = len(expected - found)
                print(f"  {form:24} {len(found):6,} read, {len(found - expected)} new, {lost} lost")


if __name__ == "__main__":
    datasets.disable_progress_bars()
    sys.exit(_print_table())
