"""What a file is not read as without a word: labels, images, markers at the end of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.reading import opened, read, reasons, turns

from coresetdb.ingest.importers.end_markers import marker_of, stripped_end
from coresetdb.schemas.errors import AmbiguousFormatError

UA = [("user", "u"), ("assistant", "a")]
CHAT = {"messages": [{"role": role, "content": text} for role, text in UA]}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "flan": {"prompt": "u", "completion": "a"},
    "prompt_response": {"prompt": "u", "response": "a"},
    "alpaca": {"instruction": "u", "input": "", "output": "a"},
    "messages": CHAT,
    "completion": {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
}
LABELS = [
    (True, False),
    (1, 0),
    (1.0, 0.0),
    ("True", "False"),
    ("true", "false"),
    ("1", "0"),
    ("desirable", "undesirable"),
]


@pytest.mark.parametrize("shape", CONVERSATIONS)
@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("column", ["label", "kto_tag"])
def test_labels_stop_whatever_their_type(
    tmp_path: Path, shape: str, labels: tuple[Any, Any], column: str
) -> None:
    rows = [{**CONVERSATIONS[shape], column: label} for label in labels]
    with pytest.raises(AmbiguousFormatError, match=f"--format {shape} or --format kto"):
        read(tmp_path, *rows)
    items = read(tmp_path, *rows, format="kto")
    assert turns(items[0]) == UA
    assert reasons(items) == ["", f"not preferred: {column} is false"]
    assert reasons(read(tmp_path, *rows, format=shape)) == ["", ""]


@pytest.mark.parametrize("labels", [(0, 1, 2), ("spam", "ham"), (0.2, 0.9), (None, None), ("", "")])
def test_labels_that_are_no_truth_values(tmp_path: Path, labels: tuple[Any, ...]) -> None:
    rows = [{**CONVERSATIONS["flan"], "label": label} for label in labels]
    assert opened(tmp_path, *rows).format == "flan"
    assert reasons(read(tmp_path, {**rows[-1], "label": 2}, format="kto")) == [
        "label is a number that is neither true nor false"
    ]


IMAGES: list[tuple[dict[str, Any], str]] = [
    ({"images": ["a.jpg"]}, "it has an image: images"),
    ({"image": {"bytes": "xx", "path": None}}, "it has an image: image"),
    ({"Image": "http://x/y.png"}, "it has an image: Image"),
    ({"audio": "a.wav"}, "it has audio: audio"),
    ({"videos": ["a.mp4"]}, "it has a video: videos"),
    ({"video_path": "a.mp4"}, "it has a video: video_path"),
    ({"pixel_values": [[0.5]]}, "it has an image: pixel_values"),
    ({"prompt": "<image>What?"}, "it has an image: <image> in the text"),
    ({"prompt": "What?\n<image>"}, "it has an image: <image> in the text"),
    ({"prompt": "Compare <image> and <image>."}, "it has an image: <image> in the text"),
    ({"prompt": "<image_1> What?"}, "it has an image: <image_1> in the text"),
    ({"prompt": "<video>\nWhat?"}, "it has a video: <video> in the text"),
    ({"prompt": "What is said? <audio>"}, "it has audio: <audio> in the text"),
    ({"prompt": "a <|image|> b"}, "it has an image: <|image|> in the text"),
    ({"completion": "<image>"}, "it has an image: <image> in the text"),
]


@pytest.mark.parametrize(("fields", "reason"), IMAGES, ids=str)
def test_images_reject_the_row(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    plain = {"prompt": "u", "completion": "a"}
    assert reasons(read(tmp_path, {**plain, **fields}, plain)) == [reason, ""]


@pytest.mark.parametrize(
    "fields",
    [
        {"images": []},
        {"image": None, "audio": "", "video": [None], "images": {"path": None}},
        {"prompt": "How do I use the <video> tag in HTML?"},
        {"prompt": "Explain `<image>` in SVG."},
        {"prompt": 'Add <img src="a.jpg"> and <video src="x"></video>.'},
        {"prompt": "Fix <audio>\n<source></audio>"},
        {"prompt": "What is the <image> element?"},
        {"completion": "Write <image> where it belongs."},
    ],
    ids=str,
)
def test_text_about_images_is_text(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert reasons(read(tmp_path, {"prompt": "u", "completion": "a", **fields})) == [""]


MARKERS = [
    "<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "[EOS]", "###", "<|eot_id|>", "<end_of_turn>",
    "### END", "[DONE]", "<\uff5cend\u2581of\u2581sentence\uff5c>", "END", "<STOP>", "<|end|>",
]  # fmt: skip


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("space", ["", "\n"])
def test_a_marker_that_ends_nearly_all_answers_is_said(
    tmp_path: Path, marker: str, space: str
) -> None:
    rows = [
        {"prompt": f"u{n}", "completion": f"answer {n} {space}{marker}{space}"} for n in range(57)
    ]
    rows += [{"prompt": "v", "completion": "no marker"}] * 3
    source = opened(tmp_path, *rows)
    assert [notice.split(",")[0] for notice in source.notices] == [
        f"50 of the first 50 answers (100.0%) end in {marker!r}"
    ]
    items = list(source)
    (remark,) = source.remarks
    assert remark.startswith(f"57 of the 60 answers (95.0%) end in {marker!r}")
    assert "--strip-end " in remark
    assert turns(items[0])[1][1].rstrip().endswith(marker)  # text is kept as it is

    source = opened(tmp_path, *rows, strip_end=marker)
    assert [turns(item)[1][1] for item in source][-4:] == ["answer 56", *["no marker"] * 3]
    assert source.remarks == [f"{marker!r} was taken off 57 of the 60 answers (95.0%)"]


def test_markers_that_say_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": "u", "completion": f"a{n}" + " </s>" * (n % 2)} for n in range(20)]
    source = opened(tmp_path, *rows)
    assert list(source) and source.notices == source.remarks == []
    source = opened(tmp_path, *rows, strip_end="<|im_end|>")
    assert list(source)
    assert source.remarks == ["--strip-end '<|im_end|>': none of the 20 answers ends in it"]


@pytest.mark.parametrize(
    "text", ["the end", "x = 1\nend", "```", "<b>bold</b>", "</html>", "a.", ""]
)
def test_ends_that_are_no_markers(text: str) -> None:
    assert marker_of(text) is None


def test_stripping() -> None:
    assert stripped_end("a </s></s>\n", "</s>") == "a"
    assert stripped_end("</s> a", "</s>") == "</s> a"


def test_an_answer_of_nothing_else_is_empty(tmp_path: Path) -> None:
    rows = [
        {"prompt": "u", "completion": text} for text in ("<|endoftext|>", " </s></s>", "a", "###")
    ]
    assert reasons(read(tmp_path, *rows)) == ["empty response", "empty response", "", ""]
    assert reasons(read(tmp_path, *rows, strip_end="###")) == [
        *["empty response"] * 2,
        "",
        "empty response",
    ]
    unanswered = read(tmp_path, *rows[:2], allow_empty_answer=True)
    assert [turns(item) for item in unanswered] == [[("user", "u")]] * 2


def test_every_answer_of_a_chat_is_stripped(tmp_path: Path) -> None:
    said = [("user", "u</s>"), ("assistant", "a</s>"), ("user", "v"), ("assistant", "b</s>")]
    row = {"messages": [{"role": role, "content": text} for role, text in said]}
    (item,) = read(tmp_path, row, strip_end="</s>")
    assert turns(item) == [("user", "u</s>"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"b": 1, "a": [None]}, '{"b": 1, "a": [null]}'),
        ([{"x": "ü"}], '[{"x": "ü"}]'),
    ],
)
def test_structured_output_is_json_text(tmp_path: Path, output: Any, text: str) -> None:
    for row in (
        {"instruction": "u", "output": output},
        {"prompt": "u", "completion": output},
        {"prompt": "u", "response": output},
        {"instruction": "u", "input": "", "output": output},
    ):
        (item,) = read(tmp_path, row)
        assert turns(item) == [("user", "u"), ("assistant", text)]
    (item,) = read(tmp_path, {"q": "u", "r": output}, mapping={"user": "q", "assistant": "r"})
    assert turns(item) == [("user", "u"), ("assistant", text)]


def test_objects_that_describe_an_answer_are_no_answer(tmp_path: Path) -> None:
    row = {"question": "u", "answer": {"value": "a", "aliases": ["A"]}}
    with pytest.raises(AmbiguousFormatError):
        read(tmp_path, row)
    mapping = {"user": "question", "assistant": "answer"}
    assert reasons(read(tmp_path, row, mapping=mapping)) == [
        "answer is an object, not text: --map assistant=answer.value reads it"
    ]
    (item,) = read(tmp_path, row, mapping={**mapping, "assistant": "answer.value"})
    assert turns(item) == UA
