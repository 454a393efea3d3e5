"""What would harm a store, or lose a part of a value, is refused where it is attached."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_stores

from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.recipe import FINGERPRINT_KEY, Recipe
from coresetdb.schemas.tables import TARGETS
from coresetdb.store.features import declare, features_of
from coresetdb.store.integrity.verify import verify


def schemas(world) -> list[pa.Schema]:
    return [world.store.dataset(table).schema for table in ("pool", "targets")]


def csv_of(path: Path, world, column: str, values: list[str]) -> str:
    lines = [f"{row.id},{value}\n" for row, value in zip(world.rows, values, strict=False)]
    path.write_text("".join([f"id,{column}\n", *lines]), encoding="utf-8")
    return str(path)


def rows_with(world, column: str, values: list) -> list[dict]:
    return [{"id": row.id, column: value} for row, value in zip(world.rows, values, strict=False)]


def vectors_for(world) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(world.rows), 4)).astype(np.float32)


@pytest.mark.parametrize("name", [*TARGETS.names, "Position", "FILE", "turn_marks_x"])
def test_columns_of_the_targets_are_taken(world, name):
    toy_stores.add_target(world.store, "sums", world.rows[:2])
    before = schemas(world)
    ids = [row.id for row in world.rows]
    if name == "turn_marks_x":  # a free name
        world.database.add_vectors(name, vectors_for(world), rows=ids)
        return
    with pytest.raises(UsageError, match="has a column"):
        world.database.add_vectors(name, vectors_for(world), rows=ids)
    if name != "id":
        with pytest.raises(UsageError, match=r"has a column .*--prefix"):
            world.database.annotate(rows_with(world, name, [1, 2]), name="judge")
    assert schemas(world) == before
    assert world.store.dataset("targets").count_rows() == 2


@pytest.mark.parametrize("name", ["target", "corpus", "Corpus", "_rowid", "turn_marks", "rds_NORM"])
def test_no_recipe_takes_a_column_that_is_not_its_own(world, name):
    before = schemas(world)
    recipe = Recipe("plugged", 1, columns=(name, "plugged_reason"))
    marked = {FINGERPRINT_KEY: recipe.fingerprint.encode()}
    fields = [pa.field(column, pa.string(), metadata=marked) for column in recipe.columns]
    with pytest.raises(UsageError, match=rf"plugged needs a column '{name}'"):
        declare(world.store, recipe, fields)
    assert schemas(world) == before
    assert "plugged" not in features_of(world.store)


def test_a_column_that_no_recipe_marked_is_never_dropped(world):
    world.store.add_columns("targets", [pa.field("mine", pa.int64())])
    recipe = Recipe("plugged", 1, columns=("mine",))
    with pytest.raises(UsageError, match="the table targets has 'mine'"):
        declare(world.store, recipe, [pa.field("mine", pa.string())])
    assert "mine" in world.store.dataset("targets").schema.names


@pytest.mark.parametrize("table", ["pool", "targets"])
def test_what_a_killed_declaration_left_is_replaced(world, table):
    marked = {FINGERPRINT_KEY: b"of another recipe"}
    world.store.add_columns(table, [pa.field("MINE", pa.int64(), metadata=marked)])
    ids = [row.id for row in world.rows]
    world.database.add_vectors("mine", vectors_for(world), rows=ids)
    for schema in schemas(world):
        assert "MINE" not in schema.names and "mine" in schema.names


@pytest.mark.parametrize(
    "name",
    [
        "_rowid",
        "_ROWID",
        "_rowaddr",
        "_rowoffset",
        "_row_created_at_version",
        "_row_last_updated_at_version",
        "_distance",
        "_score",
        "_relevance_score",
        "_anything",
    ],
)
def test_names_that_lance_keeps_for_itself_are_refused(world, tmp_path, name):
    file = csv_of(tmp_path / "rid.csv", world, name, ["1", "2"])
    with pytest.raises(UsageError, match="begins with a letter: give a --prefix"):
        world.database.annotate(file)
    with pytest.raises(UsageError, match="a name begins with a letter"):
        world.database.annotate(file, name=name, prefix="judge_")
    with pytest.raises(UsageError, match="a name begins with a letter"):
        world.database.add_vectors(name, vectors_for(world), rows=[row.id for row in world.rows])
    world.database.annotate(file, prefix="judge_")
    assert world.column(f"judge_{name}")[world.rows[1].id] == 2
    assert verify(world.store.uri).ok


def test_a_file_may_have_odd_names(world):
    names = ["a.b", 'say "x"', "it's", "x" * 300, "select", "place", "0"]
    rows = [
        {"id": row.id, **{name: number * 10 + n for n, name in enumerate(names)}}
        for number, row in enumerate(world.rows)
    ]
    world.database.annotate(rows, prefix="j_", name="odd")
    stored = ["j_a_b", "j_say_x_", "j_it_s", f"j_{'x' * 300}", "j_select", "j_place", "j_0"]
    assert world.column(*stored)[world.rows[2].id] == tuple(range(20, 27))
    with pytest.raises(UsageError, match=r"name of column '\\ud800y' is not Unicode"):
        world.database.annotate([{"id": world.rows[0].id, "\ud800y": 1}], prefix="k_")
    with pytest.raises(UsageError, match=r"no name\. Name those to take with --columns \(score\)"):
        world.database.annotate([{"id": world.rows[0].id, "": 1, "score": 2}], prefix="k_")


def test_the_column_of_reasons_needs_its_name(world):
    with pytest.raises(UsageError, match=r"'judge_missing' says which rows have no value.*--name"):
        world.database.annotate(rows_with(world, "Missing", [1, 2]), prefix="judge_")


@pytest.mark.parametrize("kind", ["csv", "parquet", "table"])
def test_columns_of_the_same_name_are_kept_apart(world, tmp_path, kind):
    ids = [row.id for row in world.rows[:2]]
    table = pa.table([ids, [1, 2], [3, 4]], names=["id", "s", "s"])
    data: object = table
    if kind == "csv":
        (tmp_path / "a.csv").write_text(f"id,s,s\n{ids[0]},1,3\n{ids[1]},2,4\n")
        data = tmp_path / "a.csv"
    elif kind == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
        data = tmp_path / "a.parquet"
    world.database.annotate(data, name="judge")
    found = world.column("s", "s_2")
    assert [found[id] for id in ids] == [(1, 3), (2, 4)]


def test_a_source_id_that_nothing_has_is_an_error_in_words(world):
    with pytest.raises(UsageError, match=r"no row of .* \(1 key, the first in <list>:1\)"):
        world.database.annotate([{"id": "zz", "score": 1}], key="source_id")
    ids = [f"z{number}" for number in range(len(world.rows))]
    with pytest.raises(
        UsageError, match=r"no row of .* \(30 keys, the first in <numpy\.ndarray>:1"
    ):
        world.database.add_vectors("mine", vectors_for(world), rows=ids, key="source_id")
    with pytest.raises(UsageError, match=r"<list>:1: id is '\\ud800', which is not Unicode"):
        world.database.annotate([{"id": "\ud800", "score": 1}], key="source_id")


LARGE = [2**63, -(2**63) - 1, 18446744073709551615, 10**400]


@pytest.mark.parametrize("number", LARGE)
def test_numbers_beyond_64_bits_are_text_or_refused(world, tmp_path, number):
    rows = rows_with(world, "hash", [1, number])
    file = csv_of(tmp_path / "a.csv", world, "hash", ["1", str(number)])
    for data, place in ((rows, "<list>:2"), (file, r"a\.csv:3")):
        with pytest.raises(UsageError, match=rf"{place}: column 'hash' .* --text hash"):
            world.database.annotate(data, name="judge")
        name = f"judge{place[-1]}"
        world.database.annotate(data, name=name, prefix=f"{name}_", texts="hash")
        assert world.column(f"{name}_hash")[world.rows[1].id] == str(number)


def test_thousands_of_digits_in_a_file(world, tmp_path):
    digits = "7" * 5000
    file = csv_of(tmp_path / "a.csv", world, "digits", [digits])
    with pytest.raises(UsageError, match=r"a\.csv:2: column 'digits' .* --text digits"):
        world.database.annotate(file)
    world.database.annotate(file, texts="digits")
    assert world.column("digits")[world.rows[0].id] == digits


@pytest.mark.parametrize("values", [[9007199254740993, 0.5], [0.5, -9007199254740993]])
@pytest.mark.parametrize("part", [1, 100])
def test_whole_numbers_that_fractions_would_round_are_refused(
    world, tmp_path, monkeypatch, values, part
):
    from coresetdb.ingest.attachments import typed_values

    monkeypatch.setattr(typed_values, "PART_ROWS", part)
    with pytest.raises(UsageError, match=r"<list>:[12]: column 'n' .*9007199254740993.*--text n"):
        world.database.annotate(rows_with(world, "n", values))
    exact = [2**53, 0.5]
    world.database.annotate(rows_with(world, "n", exact))
    assert world.column("n")[world.rows[0].id] == float(2**53)


def test_a_later_file_is_not_rounded_either(world):
    world.database.annotate(rows_with(world, "n", [0.5]), name="judge")
    more = [{"id": world.rows[3].id, "n": 2**53 + 1}]
    with pytest.raises(UsageError, match=r"<list>:1: column 'n' .*9007199254740993"):
        world.database.annotate(more, name="judge")
    world.database.annotate([{"id": world.rows[3].id, "n": 2**53}], name="judge")
    assert world.column("n")[world.rows[3].id] == float(2**53)


def test_decimals_keep_what_a_number_can(world, tmp_path):
    ids = [row.id for row in world.rows[:2]]
    for digits, fits in (("12.50", True), ("12345678901234567890.12", False)):
        table = pa.table({"id": ids, "d": [Decimal(digits), None]})
        pq.write_table(table, tmp_path / "a.parquet")
        if fits:
            world.database.annotate(tmp_path / "a.parquet", name="fine")
            assert world.column("d")[ids[0]] == 12.5
        else:
            with pytest.raises(UsageError, match=r"a\.parquet:1: column 'd' .*--text d"):
                world.database.annotate(tmp_path / "a.parquet", name="wide", prefix="w_")
            world.database.annotate(tmp_path / "a.parquet", name="wide", prefix="w_", texts="d")
            assert world.column("w_d")[ids[0]] == digits


def test_half_a_surrogate_pair_is_named_with_its_place(world):
    rows = rows_with(world, "why", ["fine \U0001f600", "ab\ud800"])
    with pytest.raises(
        UsageError, match=r"<list>:2: column 'why' .*character 3, '\\ud800'"
    ) as raised:
        world.database.annotate(rows)
    str(raised.value).encode()
    with pytest.raises(UsageError, match=r"<list>:1: column 'why'"):
        world.database.annotate(rows_with(world, "why", [["\udfff"]]), texts="why")


def test_other_values_are_typed_counted_or_refused(world, tmp_path):
    with pytest.raises(UsageError, match=r"'n' mixes 1 truth value .* and 1 whole number"):
        world.database.annotate(rows_with(world, "n", [True, 1]))
    with pytest.raises(UsageError, match="'n' holds a list or object"):
        world.database.annotate(rows_with(world, "n", [{"a": {"b": 1}}]))
    with pytest.raises(UsageError, match="n: no row has a value there"):
        world.database.annotate(rows_with(world, "n", [None, float("nan")]))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UsageError, match="no row with a key"):
        world.database.annotate(tmp_path / "empty.csv")
    when = datetime(2026, 1, 2, tzinfo=UTC)
    account = world.database.annotate(rows_with(world, "when", [when, None]))
    assert world.column("when")[world.rows[0].id] == "2026-01-02T00:00:00+00:00"
    assert account.without == {"no value in the file": 1, "not in the file": 28}
