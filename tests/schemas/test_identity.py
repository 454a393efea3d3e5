"""Ids, canonical JSON and fingerprints: one text for one value, for ever."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.canonical import canonical_json, digest_of
from coresetdb.schemas.instruction import Instruction, Message, unusable
from coresetdb.schemas.recipe import Recipe, difference

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        TEXT,
        st.none() | TEXT,
        st.none() | TEXT,
        st.none() | TEXT,
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(JSON)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(TEXT, JSON, max_size=6))
def test_the_order_of_keys_changes_nothing(value):
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"x": float("nan")})


def test_an_id_is_the_digest_of_the_documented_text():
    row = Instruction.from_turns(("user", "Wie groß?"), ("assistant", "2 m\n"))
    text = (
        '{"messages":[{"content":"Wie groß?","role":"user"},'
        '{"content":"2 m\\n","role":"assistant"}]}'
    )
    assert row.id == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    # Stores hold this id: it must never change.
    assert row.id == "0181a7b47fcb089d8a88931e78a1a613"


@given(MESSAGES, MESSAGES, st.none() | TEXT)
def test_ids_differ_exactly_where_content_does(ours, theirs, tools):
    same = ours == theirs
    assert (Instruction(ours).id == Instruction(theirs).id) == same
    assert (Instruction(ours, tools).id == Instruction(ours).id) == (tools is None)


@given(MESSAGES, st.none() | TEXT)
def test_a_row_gives_its_instruction_back(messages, tools):
    row = [message.as_dict() for message in messages]
    assert Instruction.from_row(row, tools) == Instruction(messages, tools)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no messages"),
        ([("user", "hi")], "no assistant turn"),
        ([("user", "hi"), ("assistant", " \n")], "empty response"),
        ([("narrator", "hi"), ("assistant", "ho")], "unknown role 'narrator'"),
        ([("user", "\ud800"), ("assistant", "ho")], "lone surrogate: the text has no UTF-8 form"),
        ([("assistant", "ho")], None),
        ([("user", ""), ("assistant", ""), ("assistant", "ho")], None),
    ],
)
def test_what_cannot_be_a_row(turns, reason):
    assert unusable(Instruction.from_turns(*turns)) == reason


def test_targets_may_lack_an_answer():
    assert unusable(Instruction.from_turns(("user", "hi")), allow_empty_answer=True) is None


def test_a_fingerprint_holds_all_but_the_columns():
    recipe = Recipe("rds", 1, {"layer": -1}, {"weights": "a", "max_length": 512}, ("rds",))
    assert recipe.fingerprint == digest_of(recipe.identity())
    renamed = Recipe("rds", 1, {"layer": -1}, {"weights": "a", "max_length": 512}, ("rds__1",))
    assert renamed.fingerprint == recipe.fingerprint
    other = Recipe("rds", 1, {"layer": -1}, {"weights": "b", "max_length": 512}, ("rds",))
    assert other.fingerprint != recipe.fingerprint
    assert difference(recipe, other) == ["backbone.weights: 'a', not 'b'"]
    assert difference(recipe, renamed) == []
