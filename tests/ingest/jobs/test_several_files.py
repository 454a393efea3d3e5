"""A folder of good and bad files: the good ones are read, and what is not read is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb.cli.main import main
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_sources
from coresetdb.schemas.errors import AmbiguousFormatError

ROWS = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good files, four bad ones, and two that hold no data."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_jsonl(folder / "a_good.jsonl", ROWS[:5])
    (folder / "b_broken.parquet").write_bytes(b"PAR1 and no more")
    write_jsonl(folder / "c_preference.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS[5:]).encode())
    (folder / "d_cut.jsonl.gz").write_bytes(packed[:-10])
    (folder / "e_empty.jsonl.xz").write_bytes(b"\xfd7zXZ\x00 cut")
    write_jsonl(folder / "f_good.jsonl", ROWS[:3])
    (folder / "dataset_info.json").write_text('{"a": {"file_name": "a_good.jsonl"}}')
    (folder / "README.md").write_text("Notes.")
    return folder


def test_a_fault_costs_its_own_file(folder: Path, tmp_path: Path, tiny_llama: Path, capsys) -> None:
    store = str(tmp_path / "pool")
    coresetdb.create(store, backbone=str(tiny_llama), features="rds")
    with pytest.raises(SystemExit) as ended:
        main(["ingest", store, str(folder)])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert "a_good: read 5: 5 new, 0 duplicate, 0 rejected" in out
    assert "f_good: read 3: 0 new, 3 duplicate, 0 rejected" in out
    for file, problem in {
        "b_broken.parquet": "cannot be opened",
        "c_preference.jsonl": "--format preference",
        "d_cut.jsonl.gz": "cut off",
        "e_empty.jsonl.xz": "cut off",
    }.items():
        assert any(
            "NOT read: " in line and file in line and problem in line for line in out.splitlines()
        ), file
    assert "passed over 1 file, describes other files: dataset_info.json" in err
    assert "README.md" in err
    rows = coresetdb.connect(store).sql("SELECT count(*) AS n FROM pool").to_polars()
    assert rows["n"][0] >= 5


def test_the_account_names_everything(folder: Path, tmp_path: Path, tiny_llama: Path) -> None:
    database = coresetdb.create(str(tmp_path / "pool"), backbone=str(tiny_llama), features="rds")
    account = database.ingest(str(folder))
    assert len(account.unreadable) == 3 and len(account.faults) == 4
    assert len(account.passed_over) == 2
    assert account.as_dict()["passed_over"] == account.passed_over
    assert {Path(file.file).name for file in account.files} == {
        "a_good.jsonl",
        "d_cut.jsonl.gz",
        "f_good.jsonl",
    }


def test_nothing_but_faults_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(AmbiguousFormatError, match=r"a\.jsonl"):
        open_sources(str(tmp_path), ReadOptions())


def test_a_file_that_changes_while_others_are_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, ROWS[:2])
    opened = open_sources(str(tmp_path), ReadOptions())
    (tmp_path / "a.jsonl").unlink()
    assert [source.corpus for source in opened.sources()] == ["b"]
    assert [error.file for error in opened.unreadable] == [str(tmp_path / "a.jsonl")]


def test_vectors_are_offered_and_lost_values_said(tmp_path: Path, tiny_llama: Path) -> None:
    table = pa.table(
        {
            "question": [row["question"] for row in ROWS[:2]],
            "answer": [row["answer"] for row in ROWS[:2]],
            "sentence embedding": [[0.5] * 32, [0.25] * 32],
            "score": [float("nan"), 1.0],
        }
    )
    file = tmp_path / "with vectors.parquet"
    pq.write_table(table, file)
    store = str(tmp_path / "pool")
    database = coresetdb.create(store, backbone=str(tiny_llama), features="rds")
    (read,) = database.ingest(str(file)).files
    assert read.remarks == [
        "its column 'sentence embedding' holds vectors, which are left out; to select with them: "
        f"coresetdb vectors add {store} sentence_embedding '{file}' "
        "--column 'sentence embedding' --key messages",
        "1 value of column 'score' read as null: NaN or infinite",
    ]
    mapping = {"user": "answer", "assistant": "question"}
    (again,) = database.ingest(str(file), mapping=mapping).files
    assert again.remarks[0].endswith("--key messages --map user=answer,assistant=question")
    metadata = database.sql("SELECT DISTINCT metadata FROM pool ORDER BY metadata").to_polars()[
        "metadata"
    ]
    assert [json.loads(text) for text in metadata] == [{"score": 1.0}, {"score": None}]
