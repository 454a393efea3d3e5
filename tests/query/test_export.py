"""Exports: what each format writes, byte for byte, and that nothing is lost on the way."""

import errno
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest
import yaml

from coresetdb.query.export import EXTRAS, FORMATS, export
from coresetdb.query.formats import UnfitError
from coresetdb.query.selection import select
from coresetdb.schemas.errors import OutputError, UsageError
from coresetdb.schemas.instruction import Instruction, Message
from coresetdb.store import store as store_module

GOLDEN = Path(__file__).parent / "golden"

CALL = '[{"function":{"arguments":{"city":"Rome"},"name":"weather"},"type":"function"}]'
PLAIN = Instruction.from_turns(("user", "Name a prime."), ("assistant", "7 — “sept”"))
SYSTEM = Instruction.from_turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
LONG = Instruction.from_turns(
    ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")
)
TOOLS = Instruction(
    (
        Message("user", "Weather in Rome?"),
        Message("assistant", "", tool_calls=CALL),
        Message("tool", "sunny", name="weather", tool_call_id="c1"),
        Message("assistant", "Sunny."),
    ),
    tools='[{"name":"weather"}]',
)


def exported(
    tmp_path, toys, instructions, format="messages", name="out.jsonl", metadata=(), **options
):
    """A store of these rows, all of them selected and exported; rows, manifest and account."""
    store = toys.toy_store(tmp_path / "small")
    rows = toys.pool_rows(instructions, ["mixed"] * len(instructions), metadata)
    if "turn_marks" in rows.column_names:
        store.add_columns("pool", [rows.schema.field("turn_marks")])
    store.insert("pool", rows)
    coreset = select(store, method="random", budget=str(len(instructions)), seed=4, name="all")
    out = str(tmp_path / name)
    account = export(store, coreset, out, format, **options)
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in Path(out).read_text("utf-8").splitlines()]
    else:
        rows = pq.read_table(out).to_pylist()
    return rows, json.loads(Path(f"{out}.manifest.json").read_text("utf-8")), account


@pytest.mark.parametrize(
    ("format", "instructions"),
    [
        ("messages", (PLAIN, SYSTEM, LONG)),
        ("messages", (PLAIN, TOOLS)),
        ("prompt-completion", (PLAIN, SYSTEM)),
        ("alpaca", (PLAIN,)),
        ("alpaca", (PLAIN, SYSTEM, LONG)),
        ("sharegpt", (PLAIN, SYSTEM, LONG)),
        ("sharegpt", (PLAIN, TOOLS)),
    ],
)
def test_golden(tmp_path, toys, format, instructions):
    """Rows and snippets as committed in golden/; the manifest without what changes by itself."""
    exported(tmp_path, toys, instructions, format, "out.jsonl")
    kind = "tools" if TOOLS in instructions else "plain" if len(instructions) == 1 else "mixed"
    found = {
        path.name.replace("out.jsonl", f"{format}-{kind}.jsonl"): path.read_text("utf-8")
        for path in sorted(tmp_path.glob("out.jsonl*"))
        if not path.name.endswith("manifest.json")
    }
    found = {name: text.replace(str(tmp_path), "FOLDER") for name, text in found.items()}
    expected = {
        path.name: path.read_text("utf-8") for path in GOLDEN.glob(f"{format}-{kind}.jsonl*")
    }
    assert found == expected


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_both_files_hold_the_same(tmp_path, toys, format, suffix):
    rows, manifest, account = exported(tmp_path, toys, [PLAIN, SYSTEM], format, f"out.{suffix}")
    assert account.rows == len(rows) == 2 and manifest["ids"] == [row["id"] for row in rows]
    assert list(rows[0])[-len(EXTRAS) :] == list(EXTRAS)
    assert {row["rank"] for row in rows} == {1, 2}
    other, _, _ = exported(tmp_path / ".." / f"{tmp_path.name}-b", toys, [PLAIN, SYSTEM], format)
    assert other == rows


def test_messages_have_exactly_two_keys_without_tools(tmp_path, toys):
    rows, _, _ = exported(tmp_path, toys, [PLAIN, SYSTEM, LONG])
    assert all(set(turn) == {"role", "content"} for row in rows for turn in row["messages"])
    assert all(set(row) == {"messages", *EXTRAS} for row in rows)


def test_every_line_has_the_same_shape(tmp_path, toys):
    """`datasets` types a JSON file by its first block and refuses what other types follow."""
    many = [
        Instruction.from_turns(("user", f"sums {n}"), ("assistant", "x" * 50)) for n in range(40)
    ]
    exported(tmp_path, toys, [*many, TOOLS])
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    first, *later = (
        pyarrow.json.read_json(io.BytesIO(b"".join(lines[at : at + 10]))) for at in range(0, 41, 10)
    )
    declared = FORMATS["messages"].columns({"name", "tool_calls", "tool_call_id", "tools"})
    assert all(first.schema.field(name).type == kind for name, kind in declared.items())
    assert all(part.schema.names == first.schema.names for part in later)
    for line in lines:
        turn = json.loads(line)["messages"][0]
        assert list(turn) == ["role", "content", "name", "tool_calls", "tool_call_id"]


def test_a_round_trip_through_the_importers(tmp_path, toys):
    from coresetdb.ingest.readers.options import ReadOptions
    from coresetdb.ingest.sources import open_source

    for format in ("messages", "alpaca", "sharegpt"):
        folder = tmp_path / format
        folder.mkdir()
        exported(folder, toys, [PLAIN, SYSTEM, LONG], format)
        source = open_source(str(folder / "out.jsonl"), ReadOptions())
        assert {record.instruction.id for record in source} == {PLAIN.id, SYSTEM.id, LONG.id}


def test_order(tmp_path, toys):
    rows = [toys.question("sums", number) for number in range(60)]
    ranked, manifest, _ = exported(tmp_path, toys, rows, shuffle=False)
    assert [row["rank"] for row in ranked] == list(range(1, 61))
    assert manifest["export"]["order"] == "by rank" and manifest["export"]["shuffle_seed"] is None
    store_rows = {}
    for seed in (7, 7, 8):
        folder = tmp_path / f"s{len(store_rows)}-{seed}"
        folder.mkdir(exist_ok=True)
        mixed, manifest, _ = exported(folder, toys, rows, seed=seed)
        order = tuple(row["id"] for row in mixed)
        assert store_rows.setdefault(seed, order) == order
        assert manifest["export"]["shuffle_seed"] == seed
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert len(set(store_rows.values())) == 2 and set(store_rows[7]) == set(store_rows[8])


def test_what_a_format_cannot_hold_is_never_dropped_silently(tmp_path, toys):
    with pytest.raises(UsageError, match=r"cannot hold 2 of 3 rows: .*--skip-unfit"):
        exported(tmp_path, toys, [PLAIN, LONG, TOOLS], "prompt-completion")
    assert not list(tmp_path.glob("out.jsonl*"))
    rows, manifest, account = exported(
        tmp_path / ".." / f"{tmp_path.name}-b",
        toys,
        [PLAIN, LONG, TOOLS],
        "prompt-completion",
        skip_unfit=True,
    )
    assert len(rows) == 1
    assert manifest["export"]["left_out"] == {"several turns": 1, "tool calls": 1}
    assert account.left_out == manifest["export"]["left_out"]
    assert manifest["coreset"]["rows"] == 3 and len(manifest["ids"]) == 1


def test_the_manifest_says_where_it_all_came_from(store, tmp_path):
    coreset = select(store, ["arithmetic"], budget="10", where="corpus <> 'facts'", seed=9)
    export(store, coreset.name, str(tmp_path / "x.parquet"))
    manifest = json.loads((tmp_path / "x.parquet.manifest.json").read_text())
    facts = manifest["coreset"]
    assert manifest["store"] == store.uri and facts["pool_version"] == coreset.pool_version
    assert facts["method"] == "rds:round_robin" and facts["filter"] == "corpus <> 'facts'"
    assert facts["query_hash"] == coreset.query_hash and facts["seed"] == 9
    assert facts["parameters"] == coreset.parameters
    assert sorted(manifest["ids"]) == sorted(coreset.ids)
    assert manifest["mix"]["sums"] == {"picked": 10, "pool": 60}
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.schema.field("score").type == pa.float32()
    by_id = {row["id"]: row for row in table.to_pylist()}
    assert by_id[coreset.ids[0]]["rank"] == 1
    assert by_id[coreset.ids[0]]["query"] == coreset.table()["query"][0].as_py()


def test_remarks_and_snippets_that_do_not_fit(tmp_path, toys):
    ends_open = Instruction.from_turns(("user", "a"), ("assistant", "b"), ("user", "c"))
    _, manifest, account = exported(tmp_path, toys, [PLAIN, ends_open])
    assert list(account.remarks.values()) == [1] and "LLaMA-Factory" in next(iter(account.remarks))
    other = tmp_path / "tools"
    other.mkdir()
    _, manifest, account = exported(other, toys, [PLAIN, TOOLS])
    assert set(manifest["export"]["no_snippet"]) == {"axolotl", "llama_factory"}
    assert len(account.files) == 2 and not account.remarks
    said = account.lines()[-2:]
    assert said[0].startswith("  no snippet for axolotl: axolotl wants `tools` as a list")
    assert said[1].startswith("  no snippet for LLaMA-Factory: ") and "sharegpt" in said[1]


def test_snippets_name_columns_that_exist(tmp_path, toys):
    for format in FORMATS:
        folder = tmp_path / format
        folder.mkdir()
        rows, _, _ = exported(folder, toys, [PLAIN, SYSTEM], format)
        (entry,) = json.loads((folder / "out.jsonl.dataset_info.json").read_text()).values()
        assert entry["file_name"] == "out.jsonl"
        assert set(entry["columns"].values()) <= set(rows[0])
        if format == "alpaca":  # a system text, which axolotl's alpaca type does not read
            assert not (folder / "out.jsonl.axolotl.yaml").exists()
            continue
        (dataset,) = yaml.safe_load((folder / "out.jsonl.axolotl.yaml").read_text())["datasets"]
        assert dataset["path"] == str(folder / "out.jsonl") and dataset["ds_type"] == "json"
        if "field_messages" in dataset:
            turn = rows[0][dataset["field_messages"]][0]
            assert set(dataset["message_property_mappings"].values()) == set(turn)


def test_wrong_calls(store, tmp_path):
    coreset = select(store, method="random", budget="2")
    with pytest.raises(UsageError, match="choose from messages, prompt-completion"):
        export(store, coreset, str(tmp_path / "x.jsonl"), "chatml")
    with pytest.raises(UsageError, match="suffix"):
        export(store, coreset, str(tmp_path / "x.csv"))
    with pytest.raises(UsageError, match="no folder"):
        export(store, coreset, str(tmp_path / "absent" / "x.jsonl"))
    with pytest.raises(UsageError, match="no coreset"):
        export(store, "absent", str(tmp_path / "x.jsonl"))


def test_a_coreset_without_rows_is_refused_and_has_every_face(store, tmp_path):
    empty = select(store, method="random", budget="1-total-tokens", name="empty")
    with pytest.raises(UsageError, match="empty has no rows to export; coresetdb coreset show"):
        export(store, "empty", str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
    assert list(empty) == [] and list(empty.rows("response_tokens")) == []
    assert empty.to_arrow("response_tokens", text=True).num_rows == 0
    assert "0 rows" in empty._repr_html_()


def test_ids_are_looked_for_once_for_each_pass_however_many_parts(store, tmp_path, monkeypatch):
    coreset = select(store, method="random", budget="20")
    looked = []
    monkeypatch.setattr("coresetdb.query.export._ROWS_PER_PART", 3)
    find = store_module.offsets_of
    monkeypatch.setattr(
        store_module, "offsets_of", lambda *given: looked.append(given[-1]) or find(*given)
    )
    out = tmp_path / "parts.jsonl"
    assert export(store, coreset, str(out)).rows == 20
    assert len(looked) == 2, "the survey and the writing"
    assert len({json.loads(line)["id"] for line in out.read_text().splitlines()}) == 20


def test_an_interrupted_export_leaves_the_old_file(store, tmp_path, monkeypatch):
    coreset = select(store, method="random", budget="20")
    out = tmp_path / "x.jsonl"
    export(store, coreset, str(out))
    before, calls = out.read_text(), []
    stream = store.stream

    def failing(*arguments, **keywords):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return stream(*arguments, **keywords)

    monkeypatch.setattr(store, "stream", failing)
    with pytest.raises(KeyboardInterrupt):
        export(store, coreset, str(out), shuffle=False)
    assert out.read_text() == before
    assert not list(tmp_path.glob("*.part-*"))


def test_an_earlier_export_is_replaced_and_nothing_else(store, tmp_path):
    few, many = (select(store, ["python"], budget=str(budget)) for budget in (2, 5))
    out = tmp_path / "out.jsonl"
    for coreset in (few, many):
        export(store, coreset, str(out))
    assert len(out.read_text().splitlines()) == 5

    corpus = tmp_path / "corpus.jsonl"
    manifests = (None, "no JSON", "[]", '{"export": {"file": "out.jsonl"}}')
    for manifest in manifests:
        corpus.write_text("mine")
        if manifest is not None:
            Path(f"{corpus}.manifest.json").write_text(manifest)
        with pytest.raises(UsageError, match=r"corpus.jsonl: this file exists .*--overwrite"):
            export(store, few, str(corpus))
        assert corpus.read_text() == "mine"
    export(store, few, str(corpus), overwrite=True)
    assert len(corpus.read_text().splitlines()) == 2

    for name in ("manifest.json", "axolotl.yaml", "dataset_info.json"):
        mine = tmp_path / f"{name}.jsonl.{name}"
        mine.write_text("mine")
        with pytest.raises(UsageError, match=rf"{name}: this file exists .*--overwrite"):
            export(store, few, str(tmp_path / f"{name}.jsonl"))
        assert mine.read_text() == "mine" and not (tmp_path / f"{name}.jsonl").exists()

    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match="a folder is in the way"):
        export(store, few, str(tmp_path / "folder.jsonl"), overwrite=True)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_full_disk_is_told_and_the_same_command_mends_it(store, tmp_path, monkeypatch, name):
    coreset, out = select(store, ["python"], budget="5"), tmp_path / name
    replace = os.replace

    def full(part, to):
        if str(to).endswith(failing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(part, to)

    monkeypatch.setattr("coresetdb.query.export.os.replace", full)
    for failing in (".dataset_info.json", name, ".manifest.json"):  # noqa: B007 (read by `full`)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left") as told:
            export(store, coreset, str(out))
        assert told.value.exit_code == 1 and not out.exists()
        assert not list(tmp_path.glob("*.part-*"))
    monkeypatch.undo()
    assert export(store, coreset, str(out)).rows == 5


def test_a_name_the_system_refuses_is_told(store, tmp_path):
    coreset = select(store, ["python"], budget="5")
    with pytest.raises(OutputError, match=r"File name too long\)\. Make room, or choose another"):
        export(store, coreset, str(tmp_path / ("x" * 250 + ".jsonl")))


@pytest.mark.parametrize(
    "calls", ['[{"function":{"arguments":{}},"type":"function"}]', '["weather"]', "3"]
)
def test_a_call_without_a_name_fits_nowhere(calls):
    broken = Instruction((Message("user", "?"), Message("assistant", "", tool_calls=calls)))
    for format in FORMATS.values():
        with pytest.raises(UnfitError):
            format.convert(broken)


def test_calls_in_other_forms():
    forms = [
        '{"arguments":"{\\"a\\":1}","name":"f"}',
        '[{"name":"f","parameters":{"a":1}}]',
        '[{"id":"x","function":{"name":"f","arguments":{"a":1}},"type":"function"}]',
    ]
    for text in forms:
        row = Instruction((Message("user", "?"), Message("assistant", "", tool_calls=text)))
        (call,) = FORMATS["messages"].convert(row).fields["messages"][1]["tool_calls"]
        assert call["function"] == {"name": "f", "arguments": '{"a":1}'}
        value = FORMATS["sharegpt"].convert(row).fields["conversations"][1]["value"]
        assert json.loads(value) == {"name": "f", "arguments": {"a": 1}}


THOUGHT = Instruction(
    (Message("user", "2+3?"), Message("assistant", "5", reasoning="two and three"))
)
BLOCK = Instruction.from_turns(("user", "2+4?"), ("assistant", "<think>\nhm\n</think>\n\n6"))
CONTEXT = Instruction(
    (
        Message("user", "2+5?"),
        Message("assistant", "8", train=False),
        Message("user", "No."),
        Message("assistant", "7"),
    )
)


def answers_of(rows, format):
    """The question of each row -> its last answer."""
    if format == "messages":
        turns = {row["messages"][0]["content"]: row["messages"][-1] for row in rows}
        drop = ("role", "train")
        return {
            question: {key: value for key, value in turn.items() if value and key not in drop}
            for question, turn in turns.items()
        }
    if format == "sharegpt":
        return {row["conversations"][0]["value"]: row["conversations"][-1]["value"] for row in rows}
    question, answer = ("instruction", "output") if format == "alpaca" else ("prompt", "completion")
    return {row[question]: row[answer] for row in rows}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("reasoning", "thought", "block"),
    [
        (
            "stored",
            {"content": "5", "reasoning_content": "two and three"},
            {"content": "<think>\nhm\n</think>\n\n6"},
        ),
        (
            "reasoning_content",
            {"content": "5", "reasoning_content": "two and three"},
            {"content": "6", "reasoning_content": "hm"},
        ),
        (
            "thinking",
            {"content": "5", "thinking": "two and three"},
            {"content": "6", "thinking": "hm"},
        ),
        (
            "inline",
            {"content": "<think>\ntwo and three\n</think>\n\n5"},
            {"content": "<think>\nhm\n</think>\n\n6"},
        ),
        ("drop", {"content": "5"}, {"content": "6"}),
    ],
)
def test_reasoning_goes_where_it_is_wanted(tmp_path, toys, suffix, reasoning, thought, block):
    rows, manifest, account = exported(
        tmp_path, toys, [PLAIN, THOUGHT, BLOCK], name=f"out.{suffix}", reasoning=reasoning
    )
    answers = answers_of(rows, "messages")
    assert answers == {"Name a prime.": {"content": "7 — “sept”"}, "2+3?": thought, "2+4?": block}
    assert manifest["export"]["reasoning"] == reasoning
    assert account.remarks == ({"reasoning is left out": 2} if reasoning == "drop" else {})
    keys = {key for row in rows for turn in row["messages"] for key in turn}
    assert keys == {"role", "content", *thought}  # no column that no row fills


@pytest.mark.parametrize("format", ["sharegpt", "alpaca", "prompt-completion"])
def test_formats_without_a_place_for_reasoning_have_it_in_the_answer(tmp_path, toys, format):
    rows, _, account = exported(tmp_path, toys, [PLAIN, THOUGHT, BLOCK], format)
    answers = answers_of(rows, format)
    assert answers["2+3?"] == "<think>\ntwo and three\n</think>\n\n5"
    assert answers["2+4?"] == "<think>\nhm\n</think>\n\n6"
    assert account.remarks == {"reasoning stands in the answer as a <think> block": 1}
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"has no field for reasoning: export --format messages"):
        exported(folder, toys, [THOUGHT], format, reasoning="thinking")


def test_an_answer_of_reasoning_alone_is_not_exported_without_it(tmp_path, toys):
    alone = Instruction((Message("user", "2?"), Message("assistant", "", reasoning="hm")))
    with pytest.raises(UsageError, match="1 with an answer of reasoning alone"):
        exported(tmp_path, toys, [PLAIN, alone], reasoning="drop")


def test_answers_that_are_context_say_so(tmp_path, toys):
    for format, turns in (("messages", "messages"), ("sharegpt", "conversations")):
        folder = tmp_path / format
        folder.mkdir()
        rows, manifest, account = exported(folder, toys, [PLAIN, CONTEXT], format)
        (row,) = (row for row in rows if len(row[turns]) == 4)
        assert [turn["train"] for turn in row[turns]] == [None, False, None, None]
        assert list(account.remarks.values()) == [1] and "`train`" in next(iter(account.remarks))
        assert "trains on every answer" in manifest["export"]["no_snippet"]["llama_factory"]
        (dataset,) = yaml.safe_load((folder / "out.jsonl.axolotl.yaml").read_text())["datasets"]
        assert dataset["message_field_training"] == "train"
    folder = tmp_path / "alpaca"
    folder.mkdir()
    _, _, account = exported(folder, toys, [CONTEXT], "alpaca")
    assert list(account.remarks.values()) == [1] and "history" in next(iter(account.remarks))
    ends = Instruction(
        (*LONG.messages, Message("user", "Three?"), Message("assistant", "4", train=False))
    )
    with pytest.raises(UsageError, match="1 with a last answer that is context only"):
        exported(folder / "..", toys, [ends], "alpaca")


def test_every_face_of_a_result_shows_the_reasoning(tmp_path, toys):
    store = toys.toy_store(tmp_path / "small")
    rows = toys.pool_rows([THOUGHT, CONTEXT], ["mixed"] * 2)
    store.add_columns("pool", [rows.schema.field("turn_marks")])
    store.insert("pool", rows)
    coreset = select(store, method="random", budget="2", seed=4, name="all")
    spoken = {turns[0]["content"]: turns for turns in coreset}
    assert spoken["2+3?"][1]["reasoning_content"] == "two and three"
    assert spoken["2+5?"][1]["train"] is False
    text = coreset.to_arrow(text=True)["messages"].to_pylist()
    assert {turn["reasoning_content"] for turns in text for turn in turns} == {
        None,
        "two and three",
    }
