"""The faces of a coreset: frames, a dataset, its conversations by rank, a notebook's."""

import json

import pytest

from coresetdb.query.coresets import load_coreset
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction, Message

PLAIN = Instruction.from_turns(("user", "Name a prime."), ("assistant", "7 — “sept”"))
SYSTEM = Instruction.from_turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
LONG = Instruction.from_turns(
    ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")
)
TOOLS = Instruction(
    (
        Message("user", "Weather in Rome?"),
        Message(
            "assistant",
            "",
            tool_calls='[{"function":{"name":"weather","arguments":{"city":"Rome"}}}]',
        ),
        Message("tool", "sunny", name="weather", tool_call_id="c1"),
        Message("assistant", "Sunny."),
    ),
    tools='[{"name":"weather"}]',
)
ROWS = {each.id: each for each in (PLAIN, SYSTEM, LONG, TOOLS)}


@pytest.fixture
def mixed(tmp_path, toys):
    """A store of plain, system, long and tool-using rows, all of them chosen at random."""
    store = toys.toy_store(tmp_path / "mixed")
    store.insert("pool", toys.pool_rows(list(ROWS.values()), ["mixed"] * len(ROWS)))
    return select(store, method="random", budget="4", seed=3, name="all")


def test_conversations_come_by_rank_and_streamed_in_parts(store, monkeypatch):
    coreset = select(store, ["arithmetic"], budget="30", name="thirty")
    stored = store.take(coreset.ids, ["messages"])["messages"].to_pylist()
    expected = [[(turn["role"], turn["content"]) for turn in row] for row in stored]
    streamed = type(store).stream
    parts = []

    def in_sevens(self, ids, columns, version):
        for part in streamed(self, ids, columns, version, rows=7):
            parts.append(part.num_rows)
            yield part

    monkeypatch.setattr(type(store), "stream", in_sevens)
    found = [[(turn["role"], turn["content"]) for turn in messages] for messages in coreset]
    assert found == expected
    assert parts == [7, 7, 7, 7, 2]
    assert next(iter(load_coreset(store, "thirty"))) == next(iter(coreset))
    rows = list(coreset.rows("response_tokens", "rank", "messages"))
    assert [row["rank"] for row in rows] == list(range(1, 31))
    assert [row["id"] for row in rows] == coreset.ids
    assert [row["response_tokens"] for row in rows] == [len(row[-1][1].split()) for row in expected]
    assert [row["messages"][0]["content"] for row in rows] == [row[0][1] for row in expected]


def test_turns_have_only_the_fields_they_use(mixed):
    plain, tools = (mixed.ids.index(each.id) for each in (PLAIN, TOOLS))
    talks = list(mixed)
    assert talks[plain] == [
        {"role": "user", "content": "Name a prime."},
        {"role": "assistant", "content": "7 — “sept”"},
    ]
    call = talks[tools][1]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Rome"})
    assert "tools" in list(mixed.rows())[tools] and "tools" not in list(mixed.rows())[plain]


def test_frames(mixed, store):
    assert mixed.to_arrow() == mixed.table()
    table = mixed.to_arrow("response_tokens", text=True)
    assert table.column_names[-3:] == ["messages", "tools", "response_tokens"]
    assert table["id"].to_pylist() == mixed.ids
    for row in table.to_pylist():
        turns = [(turn["role"], turn["content"]) for turn in row["messages"]]
        assert turns == [(turn.role, turn.content) for turn in ROWS[row["id"]].messages]
        assert row["tools"] == ROWS[row["id"]].tools
    frame = mixed.to_polars("tokens", text=True)
    assert frame["rank"].to_list() == [1, 2, 3, 4]
    assert "messages" in frame.columns and frame["tokens"].null_count() == 0
    # Without tools there is no column for them, and turns have two fields.
    plain = select(store, ["python"], budget="5").to_arrow(text=True)
    assert "tools" not in plain.column_names
    assert [field.name for field in plain.schema.field("messages").type.value_type] == [
        "role",
        "content",
    ]
    with pytest.raises(UsageError, match=r"no column 'mood': id, corpus"):
        mixed.to_polars("mood")


def test_an_empty_coreset_has_faces_too(store):
    empty = select(store, method="random", budget="1-total-tokens", name="empty")
    assert list(empty) == [] and list(empty.rows()) == []
    assert empty.to_arrow("tokens", text=True).column_names[-2:] == ["messages", "tokens"]
    assert empty.to_polars(text=True).height == 0
    assert "0 rows" in empty._repr_html_()


def test_a_dataset(mixed):
    datasets = pytest.importorskip("datasets", reason="coresetdb[datasets] is not installed")
    made = mixed.to_dataset("tokens")
    assert isinstance(made, datasets.Dataset)
    assert made["id"][:] == mixed.ids and len(made) == 4
    assert [row["role"] for row in made[mixed.ids.index(LONG.id)]["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert made.column_names[-1] == "tokens"
    assert "messages" not in mixed.to_dataset(text=False).column_names


def test_a_dataset_without_the_package(mixed, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'coresetdb\[datasets\]'"):
        mixed.to_dataset()


def test_a_notebook_shows_no_markup_of_the_pool(tmp_path, toys):
    evil = "<script>alert('1')</script>" + "x" * 500
    rows = [Instruction.from_turns(("user", evil), ("assistant", "<b>done</b>"))]
    rows += [toys.question("sums", number) for number in range(20)]
    store = toys.toy_store(tmp_path / "evil")
    store.insert("pool", toys.pool_rows(rows, ["<i>odd</i>"] * len(rows)))
    html = select(store, method="random", budget="21")._repr_html_()
    assert "<script" not in html and "<b>" not in html and "<i>" not in html
    assert "&lt;i&gt;odd&lt;/i&gt;" in html
    assert "... and 11 more rows" in html
    assert html.count("<tr>") == 11
    alone = select(store, method="random", budget="21", where=f"id = '{rows[0].id}'")
    shown = alone._repr_html_()
    assert "&lt;script&gt;alert(&#x27;1&#x27;)" in shown and "x" * 300 not in shown


def test_a_notebook_shows_the_example_that_pulled_each_row(store):
    coreset = select(store, ["arithmetic"], method="rds", budget="12")
    html = coreset._repr_html_()
    assert ">pulled by<" in html
    for query in coreset.members["query"].to_pylist()[:10]:
        (row,) = store.dataset("targets").to_table(filter=f"id = '{query}'").to_pylist()
        assert f">{row['messages'][0]['content']}<" in html
    assert "Where the rows come from" in html
    share = coreset.mix[0].picked / len(coreset)
    assert f"{share:.1%} of the picks" in html
    assert ">pulled by<" not in select(store, method="random", budget="3")._repr_html_()


def test_a_call_that_has_no_name_is_named(tmp_path, toys):
    bad = Instruction((Message("user", "Hi"), Message("assistant", "", tool_calls='[{"x":1}]')))
    store = toys.toy_store(tmp_path / "bad")
    store.insert("pool", toys.pool_rows([bad], ["c"]))
    coreset = select(store, method="random", budget="1")
    with pytest.raises(UsageError, match=f"row {bad.id}: a tool call without a function name"):
        list(coreset)
