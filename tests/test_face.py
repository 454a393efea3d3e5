"""The Python face: paths of every kind, explicit keywords, names of one kind, results that show."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb import Database, UsageError
from coresetdb.cli.options import MAPPED
from coresetdb.ingest.readers import options

OLD = "targets coresets coreset coreset_list score_sets scores index indices drop_index methods"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama) -> Path:
    """Holds a store `pool` of 20 rows with a target and a coreset, made with paths alone."""
    folder = tmp_path_factory.mktemp("face")
    sums = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(24)]
    for name, some in (("sums", sums[:20]), ("examples", sums[20:])):
        write_jsonl(folder / f"{name}.jsonl", some)
    database = coresetdb.create(
        folder / "pool", backbone=tiny_llama, dtype="float32", features="rds"
    )
    database.ingest([folder / "sums.jsonl"], corpus="adding")
    database.add_target("sums", folder / "examples.jsonl")
    database.select("sums", budget=5, name="five", evaluation=folder / "examples.jsonl")
    return folder


@pytest.fixture(scope="module")
def database(folder) -> Database:
    return coresetdb.connect(folder / "pool")


def public_methods() -> dict[str, inspect.Signature]:
    members = inspect.getmembers(Database, inspect.isroutine)
    return {name: inspect.signature(value) for name, value in members if name[0] != "_"}


def test_every_keyword_is_written_out():
    signatures = public_methods() | {
        name: inspect.signature(getattr(coresetdb, name))
        for name in ("connect", "create", "verify", "repair")
    }
    for name, signature in signatures.items():
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name


class Seen(Exception):
    """The options that a method would read files by."""


READING = {
    "format": "map",
    "mapping": {"user": ["a", "b"]},
    "choices": "text",
    "first_choice": 1,
    "roles": {"bot": "assistant"},
    "strip_end": "</s>",
    "encoding": "latin-1",
    "explanation": True,
    "unescape": True,
}


@pytest.mark.parametrize(
    ("method", "words", "further"),
    [
        ("plan", ("f.jsonl",), {}),
        ("fit", ("f.jsonl",), {}),
        ("ingest", ("f.jsonl",), {"corpus": "c"}),
        ("annotate", ("f.jsonl",), {"corpus": "c"}),
        ("add_vectors", ("name", "f.jsonl"), {"corpus": "c"}),
        ("leaks", ("f.jsonl",), {}),
        ("add_target", ("name", "f.jsonl"), {"allow_empty_answer": True}),
        ("select", ("sums",), {"allow_empty_answer": True}),
    ],
)
def test_every_keyword_of_reading_arrives(database, monkeypatch, method, words, further):
    class Watched(options.ReadOptions):
        def __post_init__(self):
            raise Seen(self)

    monkeypatch.setattr(options, "ReadOptions", Watched)
    given = {**READING, **{name: value for name, value in further.items() if name == "corpus"}}
    if method == "select":
        given = {name: value for name, value in given.items() if name in MAPPED}
        given["eval_format"] = "map"
    with pytest.raises(Seen) as seen:
        getattr(database, method)(*words, **given)
    (found,) = seen.value.args
    wanted = {**READING, "mapping": {"user": "a+b"}, **further}
    for name, value in wanted.items():
        left_out = method == "select" and name in ("encoding", "explanation", "unescape")
        assert getattr(found, name) == (getattr(options.ReadOptions, name) if left_out else value)


def test_a_wrong_keyword_is_a_type_error(database, tmp_path):
    for call in (
        lambda: coresetdb.create(tmp_path / "new", back="builtin"),
        lambda: database.select("sums", quotas="a=1"),
        lambda: database.ingest("sums.jsonl", encodings="utf-8"),
        lambda: database.add_target("more", "examples.jsonl", corpus="x"),
        lambda: database.sql("SELECT 1", memory="1GB"),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            call()
    assert not (tmp_path / "new").exists()


def test_paths_of_every_kind(folder, database, tmp_path):
    assert database.store.uri == str(folder / "pool")
    out = tmp_path / "five.jsonl"
    assert database.export("five", out).rows == 5 and out.exists()
    assert coresetdb.verify(folder / "pool", full=True).ok
    assert coresetdb.repair(folder / "pool").ok
    assert database.plan(folder / "examples.jsonl").rows == 4
    other = coresetdb.create(
        tmp_path / "other", backbone=folder_of(database), dtype="float32", features="rds"
    )
    database.copy_target("sums", tmp_path / "other", "copied")
    assert [target.name for target in other.list_targets()] == ["copied"]


def folder_of(database: Database) -> Path:
    return Path(database.store.config["backbone"]["name"])


def test_names_are_of_one_kind(folder, tmp_path, database):
    assert not {*OLD.split(), "drop_feature", "check_export"} & public_methods().keys()
    assert not any("command" in each.parameters for each in public_methods().values())
    assert [target.name for target in database.list_targets()] == ["sums"]
    assert [row["coreset"] for row in database.list_coresets()] == ["five"]
    assert database.open_coreset("five").name == "five"
    assert [row["feature"] for row in database.list_features()] == ["rds"]
    assert any(method.method == "rds" and method.ready for method in database.list_methods())
    database.score("sums", "rds")
    assert [sets.key.method for sets in database.list_scores()] == ["rds"]
    assert database.open_scores("sums").methods == ["rds"]
    assert database.remove_scores("sums") == 20 and database.list_scores() == []
    assert database.create_index("rds").done == "built"
    assert [index.column for index in database.list_indices()] == ["rds"]
    assert database.remove_index("rds").column == "rds" and database.list_indices() == []


def test_features_are_listed_before_and_after_they_are_fitted(tmp_path, tiny_llama):
    database = coresetdb.create(tmp_path / "pool", backbone=tiny_llama, features="rds,trim")
    rds, trim = database.list_features()
    assert rds["columns"] == ["rds", "rds_norm"] and rds["not yet featurized"] == 0
    assert trim["feature"] == "trim" and trim["columns"] == [] and trim["fingerprint"] is None
    assert database.remove_feature("trim") is None
    assert database.remove_feature("rds").feature == "rds"
    assert database.list_features() == []


def test_what_runs_record(database):
    (command,) = database.sql("SELECT command FROM runs").read_all()["command"].to_pylist()
    assert command == "connect().ingest"


def test_a_table_is_lancedbs(database):
    table = database.table()
    assert table.count_rows() == 20
    rows = table.search().where("tokens > 0").select(["id", "corpus"]).limit(3).to_list()
    assert len(rows) == 3 and {row["corpus"] for row in rows} == {"adding"}
    vector = table.search().select(["rds"]).limit(1).to_list()[0]["rds"]
    near = table.search(vector, vector_column_name="rds").metric("cosine").limit(2).to_list()
    assert near[0]["_distance"] == pytest.approx(0, abs=1e-3)
    assert set(database.table("targets").to_arrow()["target"].to_pylist()) == {"sums"}
    with pytest.raises(UsageError, match="no table 'nosuch': choose from pool, "):
        database.table("nosuch")


def test_status_shows_itself(database):
    status = database.status()
    text = str(status)
    assert text == repr(status)
    assert "20 rows" in text and "Corpora\n" in text and "adding" in text
    assert status._repr_html_().startswith("<pre>") and "adding" in status._repr_html_()


def test_a_notebook_shows_results_as_print_does(database, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    coreset = database.open_coreset("five")
    shown = {
        "adding": database.status(),
        "duplicate": database.ingest(folder / "sums.jsonl", corpus="adding"),
        "#1 of 5": database.explain(coreset, 1),
        "Jaccard": database.compare(coreset, coreset),
        "in the same order": database.replay(coreset),
        "5 rows": database.export(coreset, tmp_path / "five.jsonl"),
        "sound": coresetdb.verify(folder / "pool"),
        "bytes per row": database.plan([{"question": "Is this new?", "answer": "It is."}]),
        "merged away": database.compact(),
    }
    for words, result in shown.items():
        assert words in str(result) and words in result._repr_html_(), words
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["list", "arrow", "polars", "datasets"])
def test_data_in_memory_is_read_as_files_are(kind, database, tmp_path):
    import datasets
    import polars as pl
    import pyarrow as pa

    convert = {
        "list": list,
        "arrow": pa.Table.from_pylist,
        "polars": pl.DataFrame,
        "datasets": datasets.Dataset.from_list,
    }[kind]
    rows = [
        {"question": f"Is {i} even?", "answer": "yes" if i % 2 == 0 else "no"} for i in range(9)
    ]
    store = coresetdb.create(
        tmp_path / "pool", backbone=folder_of(database), dtype="float32", features="rds"
    )
    assert store.plan(convert(rows[:6])).rows == 6
    assert store.fit(convert(rows[:6])) == []
    assert store.ingest(convert(rows[:6]), corpus="parity").total("new") == 6
    assert store.ingest(convert(rows[:6]), corpus="parity").total("duplicate") == 6
    assert store.add_target("odd", convert(rows[6:])).target.examples == 3
    assert len(store.select("odd", budget=2)) == 2
