"""Where rows come from, by any field: counted as SQL sees it, against a naive count."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from coresetdb.cli.coreset_output import VALUES_SHOWN, first_rows, one_line, origin_lines
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.tables import RUNS


@pytest.fixture
def tagged(tmp_path, toys):
    """60 rows with metadata: a licence, a number, sometimes a language, a key named as a column."""
    store = toys.toy_store(tmp_path / "tagged")
    rows = [toys.question("sums", number) for number in range(60)]
    table = toys.pool_rows(rows, ["one"] * 30 + ["two"] * 30)
    facts = [
        {"licence": ("mit", "apache")[n % 2], "part": n, "Corpus": "inner"}
        | ({"lang": "en"} if n % 3 else {})
        for n in range(60)
    ]
    place = table.schema.get_field_index("metadata")
    texts = pa.array([json.dumps(fact) for fact in facts], pa.string())
    if place < 0:
        table = table.append_column("metadata", texts)
    else:
        table = table.set_column(place, "metadata", texts)
    store.insert("pool", table)
    run = {"run": "1", "metadata_keys": ["licence", "part", "Corpus", "lang"]}
    store.insert("runs", pa.Table.from_pylist([run], RUNS))
    return store, dict(zip((row.id for row in rows), facts, strict=True))


@pytest.mark.parametrize("field", ["licence", "lang", "part", "LICENCE"])
def test_counts_agree_with_the_metadata(tagged, field):
    store, facts = tagged
    coreset = select(store, method="random", budget="25", seed=3)
    key = field.lower()

    def naive(ids):
        values = (facts[id].get(key) for id in ids)
        return Counter(None if value is None else str(value) for value in values)

    picked, pool = naive(coreset.ids), naive(facts)
    found = coreset.origins(field)
    assert {each.value: each.pool for each in found} == dict(pool)
    assert {each.value: each.picked for each in found if each.picked} == dict(picked)
    assert [each.picked for each in found] == sorted((each.picked for each in found), reverse=True)


def test_columns_of_the_pool_and_unknown_fields(tagged):
    store, _ = tagged
    coreset = select(store, method="random", budget="25", seed=3)
    mix = {share.corpus: (share.picked, share.pool) for share in coreset.mix}
    assert {each.value: (each.picked, each.pool) for each in coreset.origins("corpus")} == mix
    assert [each.value for each in coreset.origins("meta_Corpus")] == ["inner"]
    with pytest.raises(UsageError, match=r"no field 'licnce'.*licence"):
        coreset.origins("licnce")
    with pytest.raises(UsageError, match="several values"):
        coreset.origins("messages")


def test_long_tables_say_what_they_leave_out(tagged):
    store, _ = tagged
    coreset = select(store, method="random", budget="50%", seed=3)
    lines = origin_lines(coreset, "part")
    rest = 30 - VALUES_SHOWN
    assert lines[-1] == f"and {rest} more values with {rest} rows picked"
    assert "(none)" in "\n".join(origin_lines(coreset, "lang"))


def test_first_rows(tagged, store):
    tagged, _ = tagged
    text = first_rows(select(tagged, method="random", budget="25", seed=3), 4)
    assert len(text.splitlines()) == 6 and "prompt" in text and "target" not in text
    both = select(store, ["arithmetic", "python"], budget="10")
    assert "target" in first_rows(both, 2).splitlines()[0]
    assert len(first_rows(both, 50).splitlines()) == 12
    assert one_line("a\n\n  b\x1b[31m", 20) == r"a b\x1b[31m"
    assert one_line("x" * 30, 10) == "x" * 9 + "…"
