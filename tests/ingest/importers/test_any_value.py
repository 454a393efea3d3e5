"""Whatever stands in the columns of known names, a file is read, rejected or refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.reading import opened
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.schemas.errors import InputError

WORDS = st.sampled_from(
    "user assistant tool role content from value text type image tool_use function_call parts "
    "name arguments reasoning weight true 0 A <image> [] {} </s> choices label".split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.floats(0, 1) | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    "messages conversations data dialogue prompt completion question answer context choices label "
    "chosen rejected images system tools history instruction input output".split()
)
ROWS = st.lists(st.dictionaries(COLUMNS, VALUES, min_size=1, max_size=4), min_size=1, max_size=3)
MAPPINGS: list[dict[str, Any]] = [
    {},
    {"mapping": {"user": "question+choices", "assistant": "answer"}, "choices": "letters"},
    {
        "mapping": {"user": "question", "choices": "choices", "assistant": "label"},
        "choices": "text",
    },
    {"mapping": {"messages": "prompt+completion", "system": "system"}, "strip_end": "</s>"},
    {"format": "kto"},
    {"format": "preference"},
    {"format": "messages", "roles": {"A": "user"}},
    {"format": "completion"},
]


@pytest.mark.parametrize("options", MAPPINGS, ids=str)
@pytest.mark.parametrize("as_target", [False, True])
@settings(max_examples=25)
@given(rows=ROWS)
def test_no_value_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory,
    options: dict[str, Any],
    as_target: bool,
    rows: list[dict[str, Any]],
) -> None:
    try:
        source = opened(
            tmp_path_factory.mktemp("v"), *rows, **options, allow_empty_answer=as_target
        )
    except InputError:
        return
    for item in source:
        assert "unreadable value" not in getattr(item, "reason", "")
    assert all(isinstance(remark, str) for remark in (*source.notices, *source.remarks))
