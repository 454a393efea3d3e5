"""`remove`, `restore`, `purge` and `corpus` at the command line, and the same from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.bytes_of_store import decoded_bytes, files_holding
from helpers.files import write_jsonl

import coresetdb
from coresetdb.cli.main import main
from coresetdb.schemas.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama) -> Path:
    """Two files of rows, examples, and a store `pool` of both: the second came in by a slip."""
    folder = tmp_path_factory.mktemp("removal")
    sums = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(44)]
    slip = [
        {
            "question": f"What is {i} plus 1, Zebulon-{i}?",
            "answer": f"It is {i + 1}.",
            "who": f"Q{i}",
        }
        for i in range(6)
    ]
    for name, some in (("sums", sums[:40]), ("slip", slip), ("examples", sums[40:])):
        write_jsonl(folder / f"{name}.jsonl", some)
    made = coresetdb.create(folder / "pool", backbone=tiny_llama, dtype="float32", features="rds")
    made.ingest([folder / "sums.jsonl", folder / "slip.jsonl"])
    made.add_target("sums", folder / "examples.jsonl")
    made.select("sums", budget=44, name="most")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `coresetdb` beside that store."""
    monkeypatch.chdir(folder)

    def shell(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, (words, said)
        return said.out, said.err

    return shell


def test_a_slip_is_taken_back_and_then_forgotten(run, folder):
    """A corpus that should not be there: removed, looked at, restored, removed for good."""
    picked = {
        row["id"]
        for row in coresetdb.connect("pool").open_coreset("most").to_polars().rows(named=True)
    }
    out, err = run("remove", "pool", "--corpus", "slip", "--why", "a benchmark")
    assert (
        "6 rows removed: slip 6" in out and "To undo: coresetdb restore pool --corpus slip" in err
    )
    assert "slip  6" not in run("sql", "pool", "SELECT corpus, count(*) FROM pool GROUP BY ALL")[0]
    out, _ = run("sql", "pool", "SELECT why, state, who FROM removed ORDER BY who LIMIT 1", "--csv")
    assert out.splitlines()[1] == '"a benchmark","removed","Q0"'
    out, _ = run("ingest", "pool", "slip.jsonl")
    assert "0 new, 6 duplicate" in out
    assert "6 rows were removed earlier and were skipped (among the duplicates)" in out
    assert json.loads(run("ingest", "pool", "slip.jsonl", "--json")[0])["removed"] == 6
    assert "a benchmark" in run("remove", "pool", "--list")[0]
    assert "a benchmark" in run("status", "pool")[0]
    out, _ = run("coreset", "show", "pool", "most")
    gone = 44 - coresetdb.connect("pool").open_coreset("most").to_polars().height
    assert gone and f"{gone} rows were removed from the pool since (a benchmark)" in out
    out, err = run("coreset", "replay", "pool", "most")
    assert "the same 44 ids" in out and "removed from the pool since" in err
    out, _ = run("export", "pool", "most", "--out", "most.jsonl")
    assert f"left out, removed from the pool since: {gone} rows" in out
    out, _ = run("restore", "pool", "--where", "who = 'Q0' OR who = 'Q1'")
    assert "2 rows restored: slip 2" in out
    assert "4 rows restored" in run("restore", "pool", "--corpus", "slip")[0]
    again = coresetdb.connect("pool").open_coreset("most").to_polars()
    assert set(again["id"]) == picked
    out, _ = run("remove", "pool", "--corpus", "slip", "--purge", "--dry-run")
    assert "6 rows would be purged" in out
    out, _ = run("remove", "pool", "--corpus", "slip", "--purge", "--yes")
    assert "no file of the store holds them any more" in out and "most" in out
    needles = [f"Zebulon-{number}".encode() for number in range(6)] + [b'"Q3"']
    assert files_holding(str(folder / "pool"), needles) == {}
    assert not [needle for needle in needles if needle in decoded_bytes(str(folder / "pool"))]
    assert "sound" in run("verify", "pool", "--full")[0]
    out, _ = run("ingest", "pool", "slip.jsonl")
    assert "0 new, 6 duplicate" in out
    out, _ = run("coreset", "replay", "pool", "most", code=1)
    assert f"{gone} ids purged" in out
    assert files_holding(str(folder / "pool"), needles) == {}
    out, _ = run("restore", "pool", "--corpus", "slip")
    assert "purged, nothing is left of them; they can be ingested again" in out
    assert "6 new" in run("ingest", "pool", "slip.jsonl")[0]


def test_removed_rows_outlive_damage_to_the_table_that_names_them(run, folder, tmp_path):
    """All that is left of them are the copies: the sources are gone, and so are older versions."""
    pool = tmp_path / "copy"
    write_jsonl(tmp_path / "odd.jsonl", [{"question": "How odd is 3?", "answer": "Very."}] * 2)
    shutil.copytree(folder / "pool", pool)
    run("ingest", str(pool), str(tmp_path / "odd.jsonl"))
    run("remove", str(pool), "--corpus", "odd")
    run("compact", str(pool), "--keep-hours", "0")
    (tmp_path / "odd.jsonl").unlink()
    for manifest in (pool / "removed.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(manifest.read_bytes()[:-29] + b"x" * 29)
    out, _ = run("verify", str(pool), "--repair", code=1)
    assert "made it anew" in out and "tombstone" in out
    run("remove", str(pool), "--corpus", "sums")
    run("restore", str(pool), "--corpus", "sums")
    assert "1 row restored: odd 1" in run("restore", str(pool), "--corpus", "odd")[0]
    assert "sound" in run("verify", str(pool), "--full")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n,id\n1\n", "line 2 has 1 cell, and id is column 2"),
        ("[]\n", "it holds no ids"),
        ('{"id": "0"}\n[1]\n', "line 2 is no JSON object with a field id"),
    ],
)
def test_a_file_of_ids_that_cannot_be_read_is_named(run, folder, text, said):
    (folder / "odd.ids").write_text(text)
    err = run("remove", "pool", "--ids", "odd.ids", code=1)[1]
    assert "odd.ids" in err and said in err


def test_errors_are_sentences(run):
    assert "exactly one of --where" in run("remove", "pool", code=2)[1]
    assert "no row of corpus 'slips'" in run("remove", "pool", "--corpus", "slips", code=2)[1]
    assert "nothing to restore" in run("restore", "pool", "--corpus", "slip", code=2)[1]
    assert "no removed rows to purge" in run("purge", "pool", code=2)[1]
    assert "there is no such file" in run("remove", "pool", "--ids", "none", code=2)[1]
    assert "The columns of pool are" in run("remove", "pool", "--where", "x = 1", code=2)[1]


def test_corpora_are_listed_and_renamed(run):
    out, _ = run("corpus", "list", "pool")
    assert "sums" in out and "slip" in out
    _, err = run("corpus", "rename", "pool", "slip", "slips of ours")
    assert "slip: renamed to slips of ours (6 rows)" in err
    assert "--merge" in run("corpus", "rename", "pool", "slips of ours", "sums", code=2)[1]
    assert "6 new" not in run("ingest", "pool", "slip.jsonl")[0]
    run("corpus", "rename", "pool", "slips of ours", "slip")
    rows = json.loads(run("corpus", "list", "pool", "--json")[0])
    assert {row["corpus"]: row["rows"] for row in rows} == {"sums": 40, "slip": 6}


def test_the_same_from_python(folder):
    database = coresetdb.connect(folder / "pool")
    done = database.remove(where="who = 'Q5'", why="x")
    assert done.rows == 1 and done.as_dict()["corpora"] == {"slip": 1}
    assert database.list_removed()[0]["why"] == "x"
    assert database.restore(where="why = 'x'").rows == 1
    (row,) = database.sql("SELECT id FROM pool WHERE who = 'Q5'").to_polars()["id"]
    (folder / "ids.txt").write_text(row)
    assert database.remove(ids=folder / "ids.txt").rows == 1
    assert database.purge(ids=[row]).rows == 1
    assert database.list_removed()[0]["purged"] == 1
    with pytest.raises(UsageError):
        database.remove(corpus="slip", where="true")
