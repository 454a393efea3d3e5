"""What is broken is refused where it stands, with a reason; what stands around it is read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import SourceFile, open_source
from coresetdb.schemas.errors import InputError, UsageError
from coresetdb.schemas.instruction import Record, Reject


def bzip2_in_small_blocks(data: bytes) -> bytes:
    """bzip2 in blocks of 100 kB, so that what stands before a cut can be unpacked."""
    return bz2.compress(data, 1)


GOOD = '{"question": "q", "answer": "a"}'


def outcome(path: Path, content: str | bytes, **options) -> list[tuple[int, str]]:
    """Line and reason ("" for a record) of everything in a file with this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = open_source(str(path), ReadOptions(**options))
    return [(item.line, item.reason if isinstance(item, Reject) else "") for item in source]


def opened(path: Path, content: bytes) -> tuple[SourceFile, list[Record | Reject]]:
    path.write_bytes(content)
    source = open_source(str(path))
    return source, list(source)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q", "answer": NaN}', "empty response"),
        ('{"question": "q", "answer": -Infinity}', "empty response"),
        ('{"question": NaN, "answer": "a"}', "missing field: question"),
        ("[1, 2]", "not an object: a list"),
        ("null", "not an object: null"),
        (GOOD + " tail", "trailing text after the record"),
        (GOOD + "[1]", "trailing text after the record"),
        (
            '{"question": "q", "answer": "a",}',
            "invalid JSON: Expecting property name enclosed in double quotes (character 33)",
        ),
        (
            '{"question": "\x0b", "answer": "a"}',
            "invalid JSON: Invalid control character at (character 15)",
        ),
        ('{"question": "\\ud83d", "answer": "a"}', "lone surrogate: the text has no UTF-8 form"),
        (
            '{"question": "q", "answer": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}",
            "nested too deeply",
        ),
        ('{"question": "q", "answer": " \u3000"}', "empty response"),
        ('{"question": "q", "answer": null}', "empty response"),
        ('{"question": "q"}', "missing field: answer"),
        ('{"question": null, "answer": "a"}', "missing field: question"),
        ('{"question": "q", "answer": 1.5}', "answer is a number, not text"),
        ('{"question": "q", "answer": true}', "answer is a truth value, not text"),
    ],
)
def test_bad_line_between_good_ones(tmp_path: Path, line: str, reason: str) -> None:
    expected = [(1, ""), (2, reason), (3, "")]
    assert outcome(tmp_path / "a.jsonl", f"{GOOD}\n{line}\n{GOOD}\n") == expected


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ('{"question": NaN}', "missing field: question"),
        (
            '{"a": [1, {"b": "]}"}],}',
            "invalid JSON: Expecting property name enclosed in double quotes (character 24)",
        ),
        ("12", "not an object: a number"),
        ("nonsense", "invalid JSON: Expecting value (character 1)"),
        ('{"question": "q", "answer": "\udcff"}', None),
    ],
)
def test_bad_element_between_good_ones(tmp_path: Path, element: str, reason: str | None) -> None:
    content = f"[{GOOD}, {element}, {GOOD}]".encode("utf-8", "surrogateescape")
    reason = reason or "not UTF-8: --encoding latin-1 reads it if it is ISO-8859-1"
    assert outcome(tmp_path / "a.json", content) == [(1, ""), (2, reason), (3, "")]


def test_glued_objects_are_both_read(tmp_path: Path) -> None:
    assert outcome(tmp_path / "a.jsonl", f"{GOOD}\n{GOOD}{GOOD}\n") == [(1, ""), (2, ""), (2, "")]


def test_the_last_of_equal_keys_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "first", "answer": "second"}\n')
    (record,) = open_source(str(path))
    assert record.instruction.messages[1].content == "second"


def test_integers_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "2**80", "answer": 1208925819614629174706176}\n')
    (record,) = open_source(str(path))
    assert record.instruction.messages[1].content == "1208925819614629174706176"


def test_cut_last_record(tmp_path: Path) -> None:
    cut = "cut off: the file ends inside this record"
    assert outcome(tmp_path / "a.jsonl", f'{GOOD}\n{{"question": "q') == [(1, ""), (2, cut)]
    source, items = opened(tmp_path / "a.json", f'[{GOOD}, {{"question": "q'.encode())
    assert [item.line for item in items] == [1, 2]
    assert items[1].reason == cut
    assert source.fault is not None and "before its list is closed" in str(source.fault)


def test_text_after_an_array(tmp_path: Path) -> None:
    assert outcome(tmp_path / "a.json", f"[{GOOD}] junk") == [
        (1, ""),
        (2, "trailing text after the document"),
    ]
    assert outcome(tmp_path / "b.json", f"[{GOOD}]\n[{GOOD},]\n") == [(1, ""), (2, "")]


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, lzma.compress, bzip2_in_small_blocks]
)
def test_broken_archives_keep_what_came_before(tmp_path: Path, pack) -> None:
    import random

    draw = random.Random(0)
    rows = [{"question": str(draw.random()), "answer": str(i)} for i in range(20_000)]
    packed = pack("".join(json.dumps(row) + "\n" for row in rows).encode())
    source, items = opened(tmp_path / "cut", packed[: len(packed) // 2])
    good = [item for item in items if isinstance(item, Record)]
    assert 5_000 < len(good) < 15_000
    assert [item.instruction.messages[1].content for item in good] == [
        str(i) for i in range(len(good))
    ]
    assert len(items) - len(good) <= 1
    assert source.fault is not None and "cut off" in source.fault.problem
    damaged = bytearray(packed)
    damaged[-6] ^= 0xFF
    source, items = opened(tmp_path / "damaged", bytes(damaged))
    assert source.fault is not None
    assert len(source.xxh3) == 16


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
@pytest.mark.parametrize("around", [("", "\n", "\n"), ("[", ",", "]")])
def test_a_record_over_8_mb(tmp_path: Path, pack, around: tuple[str, str, str]) -> None:
    fat = '{"question": "' + "x" * 9_000_000 + '", "answer": "y"}'
    before, between, after = around
    content = between.join([before + GOOD, fat, GOOD]) + after
    name = "a.json" if before else "a.jsonl"
    path = tmp_path / name
    path.write_bytes(pack(content.encode()))
    first, second, third = open_source(str(path))
    assert isinstance(first, Record) and isinstance(third, Record)
    assert second.reason == f"record over 8 MB: {len(fat):,} bytes"
    assert second.excerpt.startswith('{"question": "xxx') and len(second.excerpt) <= 200


def test_a_cut_arrow_stream(tmp_path: Path) -> None:
    batch = pa.record_batch({"question": ["q"] * 1000, "answer": ["a"] * 1000})
    path = tmp_path / "s.arrow"
    with ipc.new_stream(str(path), batch.schema) as writer:
        for _ in range(4):
            writer.write_batch(batch)
    source, items = opened(path, path.read_bytes()[:-12_000])
    assert len(items) in (2000, 3000)
    assert source.fault is not None and "breaks off" in source.fault.problem


def test_delimited_rows(tmp_path: Path) -> None:
    content = (
        "question,answer\r\n"
        '"two\r\nlines","say ""hi"", ok"\r\n'
        "\r\n"
        "only one\r\n"
        "a,b,c\r\n"
        '"bad" quote,b\r\n'
        '5" disk,b\r\n'
        '"never closed,b\r\n'
        "c,d\r\n"
    )
    path = tmp_path / "a.csv"
    path.write_text(content, newline="")
    items = list(open_source(str(path)))
    assert [(item.line, getattr(item, "reason", "")) for item in items] == [
        (2, ""),
        (5, "wrong number of columns: 1 instead of 2"),
        (6, "wrong number of columns: 3 instead of 2"),
        (7, "malformed quotes: ',' expected after '\"'"),
        (8, ""),
        (9, "unterminated quote"),
        (10, ""),
    ]
    assert items[0].instruction.messages[0].content == "two\r\nlines"
    assert items[0].instruction.messages[1].content == 'say "hi", ok'


def test_a_stray_quote_spoils_one_row(tmp_path: Path) -> None:
    rows = "".join(f"q{i},a{i}\n" for i in range(30))
    content = f'question,answer\nq,"open\n{rows}x,"quoted"\ny,z\n'
    found = outcome(tmp_path / "a.csv", content)
    assert [line for line, reason in found if reason] == [2]
    assert len(found) == 33


def test_tab_separated_quotes(tmp_path: Path) -> None:
    plain = 'question\tanswer\n"He said" and left\t"yes"\n"open\tb\n'
    path = tmp_path / "plain.tsv"
    path.write_text(plain)
    first, second = open_source(str(path))
    assert first.instruction.messages[0].content == '"He said" and left'
    assert first.instruction.messages[1].content == '"yes"'
    assert second.instruction.messages[0].content == '"open'
    path = tmp_path / "quoted.tsv"
    path.write_text('question\tanswer\n"a\tb"\t"c\nd"\n"say ""x"""\ty\n')
    first, second = open_source(str(path))
    assert [m.content for m in first.instruction.messages] == ["a\tb", "c\nd"]
    assert second.instruction.messages[0].content == 'say "x"'


def test_backslashes_are_kept_or_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("input\ttarget\na\\nb\\\\n\tc\\td\n")
    (kept,) = open_source(str(path))
    assert kept.instruction.messages[0].content == "a\\nb\\\\n"
    (read,) = open_source(str(path), ReadOptions(unescape=True))
    assert [m.content for m in read.instruction.messages] == ["a\nb\\n", "c\td"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"BZh91AY", "bzip2"),
        (b"\x00\x00\x01\x02\x03" * 50, "binary data"),
        (b"just some words\nand more\n", "neither JSON nor a table"),
        (b"\n".join([b"{broken"] * 1200), "first 1,000 records"),
        (b"PAR1 not really", "Parquet file cannot be opened"),
        (b"ARROW1 not really", "Arrow file cannot be opened"),
    ],
)
def test_hopeless_files_are_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        list(open_source(str(path)))


def test_a_name_that_promises_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no JSON object"):
        open_source(str(path))


TEXT = '{"question": "café", "answer": "über 翻译"}\n'


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("utf-8-sig", "UTF-8 with BOM"),
        ("utf-16", "UTF-16-LE with BOM"),
        ("utf-32", "UTF-32-LE with BOM"),
        ("utf-16-le", "UTF-16-LE without BOM"),
        ("utf-16-be", "UTF-16-BE without BOM"),
    ],
)
def test_unicode_encodings(tmp_path: Path, codec: str, words: str) -> None:
    source, items = opened(tmp_path / "a.jsonl", (TEXT * 3).encode(codec))
    assert [item.instruction.messages[0].content for item in items] == ["café"] * 3
    assert source.decision.endswith(words)


def test_a_named_encoding(tmp_path: Path) -> None:
    content = '{"question": "café", "answer": "über"}\n'.encode("latin-1")
    reason = "not UTF-8: --encoding latin-1 reads it if it is ISO-8859-1"
    assert outcome(tmp_path / "a.jsonl", GOOD.encode() + b"\n" + content) == [(1, ""), (2, reason)]
    assert outcome(tmp_path / "a.jsonl", content, encoding="latin-1") == [(1, "")]
    undefined = content.replace(b"\xfc", b"\x81")  # no character in cp1252
    mixed = content + undefined
    assert outcome(tmp_path / "b.jsonl", mixed, encoding="cp1252") == [(1, ""), (2, reason)]
    with pytest.raises(UsageError, match="no such text encoding"):
        outcome(tmp_path / "a.jsonl", content, encoding="latin-77")
    with pytest.raises(UsageError, match="no such text encoding"):
        outcome(tmp_path / "a.jsonl", content, encoding="base64")


def test_utf16_with_half_a_pair(tmp_path: Path) -> None:
    rows = GOOD + "\n" + GOOD.replace("q", "\ud83d", 2) + "\n"
    found = outcome(tmp_path / "a.jsonl", b"\xff\xfe" + rows.encode("utf-16-le", "surrogatepass"))
    assert [reason.partition(":")[0] for _, reason in found] == ["", "not UTF-8"]


CONTENTS = [
    (GOOD + "\n") * 5,
    "[" + ",".join([GOOD] * 5) + "]",
    json.dumps({"question": ["q"] * 5, "answer": ["a"] * 5}),
    json.dumps({"data": [json.loads(GOOD)] * 5}),
    'question,answer\n"q","a"\n' + "q,a\n" * 4,
    "question\tanswer\n" + "q\ta\n" * 5,
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([c.encode() for c in CONTENTS]),
    st.sampled_from([bytes, gzip.compress, zstandard.compress]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=4),
    st.floats(0, 1),
)
def test_damage_is_an_error_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, content, pack, changes, kept: float
) -> None:
    """Whatever happens to a file, reading it ends in records, rejects, a fault or an InputError."""
    data = bytearray(pack(content))
    for place, change in changes:
        at = int(place * len(data))
        data[at : at + len(change)] = change
    path = tmp_path_factory.mktemp("d") / "file"
    path.write_bytes(data[: int(kept * len(data)) + 1])
    try:
        source = open_source(str(path))
        items = list(source)
    except InputError:
        return
    assert all(isinstance(item, Record | Reject) for item in items)
    assert source.xxh3


def test_a_workbook_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "answers.xlsx"
    path.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(InputError, match=r"it is a workbook\. Save its sheet as CSV first"):
        list(open_source(str(path)))


def test_a_column_that_is_named_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,answer\nWhy?,So.,Thus.\n")
    with pytest.raises(InputError, match="names the column 'answer' twice"):
        list(open_source(str(path)))
