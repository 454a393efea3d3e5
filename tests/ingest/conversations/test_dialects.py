"""Reasoning, tool calls and answers that are context, in templates of several habits.

The reference of what the model writes is a template's own `{% generation %}` block, rendered with
the real texts.
"""

from __future__ import annotations

import json
import re

import pytest
from helpers.templates import CHANNELS, CUTTING, ENDS_LAST, LAST_REASONING, PARTS, TOOLLESS
from helpers.tiny_models import BOS, END, PAD, TEMPLATE, save_tiny_tokenizer
from tokenizers import Tokenizer

from coresetdb.ingest.conversations.chat_template import ChatTemplate, RowRefusedError
from coresetdb.ingest.conversations.forms import Dialect, dialect_of
from coresetdb.ingest.conversations.limits import shows_all_reasoning, template_notices
from coresetdb.ingest.conversations.tokenization import Encoder
from coresetdb.schemas.instruction import Instruction, Message

SPECIAL = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture
def encode(tokenizer):
    """Encode a row; the texts of all its tokens, of its response and of its headers."""

    def run(row: Instruction, template: str, reasoning="template") -> tuple[str, str, str]:
        encoder = Encoder(tokenizer, chat_template(template), 2048, None, reasoning)
        encoded = encoder.encode(row)
        masks = (slice(None), encoded.response, encoded.header)
        whole, response, header = (
            tokenizer.decode(encoded.ids[mask].tolist(), skip_special_tokens=False)
            for mask in masks
        )
        return whole, response, header

    return run


def chat_template(text: str) -> ChatTemplate:
    return ChatTemplate({"default": text}, SPECIAL)


def written(messages: list[dict], template: str) -> tuple[str, str]:
    """A rendering, and what stands in its `{% generation %}` blocks."""
    begin, end = "{% generation %}", "{% endgeneration %}"
    marked = template.replace(begin, begin + "{{- '\ue100' -}}")
    marked = marked.replace(end, "{{- '\ue101' -}}" + end)
    rendered = chat_template(marked).render(messages)
    blocks = re.findall("\ue100(.*?)\ue101", rendered, re.DOTALL)
    return rendered.replace("\ue100", "").replace("\ue101", ""), "".join(blocks)


def turns(*messages: Message) -> Instruction:
    return Instruction(messages)


def calls(*names: str) -> str:
    return json.dumps(
        [
            {"type": "function", "function": {"name": name, "arguments": json.dumps({"a": 2})}}
            for name in names
        ]
    )


USER, AGAIN = Message("user", "two?"), Message("user", "and four?")
THOUGHT = turns(USER, Message("assistant", "five", reasoning="two and three"))
BLOCK = turns(USER, Message("assistant", "<think>\ntwo and three\n</think>\n\nfive"))
ROUNDS = turns(
    Message("system", "be brief"),
    USER,
    Message("assistant", "five", reasoning="two and three"),
    AGAIN,
    Message("assistant", "nine", reasoning="five and four"),
)
CALLING = turns(
    USER,
    Message("assistant", "", tool_calls=calls("add")),
    Message("tool", "5"),
    Message("assistant", "five"),
)


def test_what_templates_take():
    assert dialect_of(chat_template(TEMPLATE)) == Dialect()
    assert dialect_of(chat_template(LAST_REASONING)) == Dialect(reasoning="reasoning_content")
    assert dialect_of(chat_template(CHANNELS)) == Dialect(reasoning="thinking")
    assert dialect_of(chat_template(CUTTING)) == Dialect(blocks=False)
    assert dialect_of(chat_template(PARTS)) == Dialect(parts=True, reasoning="thinking part")
    whole = TEMPLATE.replace("message.content", "(message.content | tojson)")
    assert dialect_of(chat_template(whole)) == Dialect()  # a list is written out, not read


@pytest.mark.parametrize("template", [LAST_REASONING, CHANNELS, CUTTING, ENDS_LAST, TOOLLESS])
@pytest.mark.parametrize("rounds", [1, 3])
def test_plain_rows_in_every_template(encode, template, rounds):
    messages = [
        Message(role, f"{role} {number}")
        for number in range(rounds)
        for role in ("user", "assistant")
    ]
    whole, response, _ = encode(turns(*messages), template)
    rendered, expected = written([message.as_dict() for message in messages], template)
    assert whole == rendered
    # What a template always writes before an answer opens it.
    fixed = expected.replace("<think>\n\n</think>\n\n", "").replace("final ", "")
    assert response == fixed


# Reasoning


def test_reasoning_as_the_template_has_it(encode):
    block = "<think>\ntwo and three\n</think>\n\n"
    for row in (THOUGHT, BLOCK):  # under the key, and in a block that the template reads
        whole, response, header = encode(row, LAST_REASONING)
        assert whole == f"<|user|>two?<|end|>\n<|assistant|>{block}five<|end|>\n"
        assert (response, header) == (f"{block}five<|end|>", "<|assistant|>")
    _, response, header = encode(THOUGHT, CHANNELS)
    expected = "analysis two and three<|end|><|assistant|>final five<|endoftext|>"
    assert (response, header) == (expected, "<|assistant|>")
    assert encode(THOUGHT, PARTS)[1] == "[THINK]two and three[/THINK]five<|end|>"
    # A template without a key shows a block as it shows any text.
    assert encode(THOUGHT, TOOLLESS) == encode(BLOCK, TOOLLESS)
    assert encode(THOUGHT, TOOLLESS)[1] == f"{block}five<|end|>"
    assert encode(THOUGHT, CUTTING)[1] == encode(BLOCK, CUTTING)[1] == "five<|end|>"


@pytest.mark.parametrize("template", [LAST_REASONING, CHANNELS])
def test_reasoning_of_several_rounds_is_what_the_template_lets_the_model_write(encode, template):
    key = str(dialect_of(chat_template(template)).reasoning)
    messages = [{key: turn.reasoning, **turn.as_dict()} for turn in ROUNDS.messages]
    rendered, expected = written(messages, template)
    whole, response, _ = encode(ROUNDS, template)
    assert whole == rendered
    assert response == (expected if template == LAST_REASONING else expected.removeprefix("final "))


def test_reasoning_as_response_stands_where_a_template_would_leave_it_out(encode):
    one, two = (f"<think>\n{text}\n</think>\n\n" for text in ("two and three", "five and four"))
    for template in (LAST_REASONING, CUTTING, TOOLLESS):
        _, response, header = encode(ROUNDS, template, "as-response")
        assert response == f"{one}five<|end|>{two}nine<|end|>"
        assert header == "<|assistant|>" * 2
    assert encode(BLOCK, CUTTING, "as-response")[1] == f"{one}five<|end|>"
    alone = turns(USER, Message("assistant", "", reasoning="two and three"))
    assert encode(alone, CUTTING, "as-response")[1] == f"{one}<|end|>"


@pytest.mark.parametrize("template", [LAST_REASONING, CHANNELS, CUTTING, PARTS, TOOLLESS])
def test_dropped_reasoning_leaves_what_the_row_would_be_without(encode, template):
    bare = turns(*(Message(turn.role, turn.content) for turn in ROUNDS.messages))
    assert encode(ROUNDS, template, "drop") == encode(bare, template)
    plain = Instruction.from_turns(("user", "two?"), ("assistant", "five"))
    assert encode(BLOCK, template, "drop") == encode(plain, template)


def test_an_answer_of_reasoning_alone(encode):
    alone = turns(USER, Message("assistant", "", reasoning="two and three"))
    response = "<think>\ntwo and three\n</think>\n\n<|end|>"
    assert encode(alone, LAST_REASONING)[1] == response
    with pytest.raises(RowRefusedError, match="leaves the reasoning of an answer out"):
        encode(alone, CUTTING)
    with pytest.raises(RowRefusedError, match="reasoning alone"):
        encode(alone, LAST_REASONING, "drop")


def test_a_text_that_only_mentions_the_tag_is_text(encode):
    said = "Close it with </b> and <think>, not before"
    row = Instruction.from_turns(("user", "<think>hm</think>?"), ("assistant", said))
    for template in (TOOLLESS, LAST_REASONING):
        assert encode(row, template)[1] == f"{said}<|end|>"


# Tool calls


def test_arguments_are_tried_as_objects_and_as_text(encode):
    assert 'add {"a": 2}; <|end|>' in encode(CALLING, CUTTING)[1]
    assert encode(CALLING, CHANNELS)[1] == 'call add{"a": 2}<|tool|>five<|endoftext|>'
    bare = json.dumps([{"name": "add", "arguments": {"a": 2}}])  # without type and function
    row = turns(USER, Message("assistant", "", tool_calls=bare))
    assert encode(row, CUTTING)[1] == 'function add {"a": 2}; <|end|>'


def test_calls_before_the_text_are_part_of_the_answer(encode):
    row = turns(USER, Message("assistant", "let me see", tool_calls=calls("add", "sub")))
    _, response, header = encode(row, CUTTING)
    assert response == 'function add {"a": 2}; function sub {"a": 2}; let me see<|end|>'
    assert header == "<|assistant|>"


@pytest.mark.parametrize("template", [TOOLLESS, ENDS_LAST, PARTS])
def test_a_call_that_the_template_leaves_out_refuses_the_row(encode, template):
    for row in (CALLING, turns(USER, Message("assistant", "so", tool_calls=calls("add")))):
        with pytest.raises(RowRefusedError, match="leaves a tool call out"):
            encode(row, template)


def test_a_second_call_or_arguments_that_are_left_out_refuse_the_row(encode):
    row = turns(USER, Message("assistant", "", tool_calls=calls("add", "sub")))
    with pytest.raises(RowRefusedError, match="leaves a tool call out"):
        encode(row, CHANNELS)
    nameless = TEMPLATE.replace(
        "message.tool_calls | tojson", "message.tool_calls[0].function.name"
    )
    with pytest.raises(RowRefusedError, match="leaves a tool call out"):
        encode(CALLING, nameless)
    none = turns(USER, Message("assistant", "", tool_calls='[{"name": "now", "arguments": {}}]'))
    assert encode(none, TEMPLATE)[1].endswith("<|end|>")


def test_a_call_with_reasoning(encode):
    row = turns(USER, Message("assistant", "", tool_calls=calls("add"), reasoning="hm"))
    block, call = "<think>\nhm\n</think>\n\n", '{"name": "add", "arguments": {"a": 2}}'
    assert encode(row, LAST_REASONING)[1] == f"{block}<call>{call}</call><|end|>"
    further = turns(*row.messages, Message("tool", "5"), Message("assistant", "5", reasoning="so"))
    response = 'call add{"a": 2}<|tool|>analysis so<|end|><|assistant|>final 5<|endoftext|>'
    assert encode(further, CHANNELS)[1] == response


# Answers that are context


@pytest.mark.parametrize("template", [TEMPLATE, LAST_REASONING, CHANNELS, ENDS_LAST, CUTTING])
def test_an_answer_that_is_not_trained_on_is_context(encode, template):
    trained = turns(USER, Message("assistant", "four"), AGAIN, Message("assistant", "nine"))
    row = turns(USER, Message("assistant", "four", train=False), *trained.messages[2:])
    whole, response, header = encode(row, template)
    assert whole == encode(trained, template)[0]
    assert response in ("nine<|end|>", "nine<|endoftext|>")
    assert header.count("<|assistant|>") == 1


# What `init` says


def test_notices_name_what_a_template_leaves_out():
    said = {
        name: " ".join(template_notices(chat_template(template)))
        for name, template in {
            "plain": TEMPLATE,
            "last": LAST_REASONING,
            "cutting": CUTTING,
            "toolless": TOOLLESS,
        }.items()
    }
    assert said["plain"] == ""
    assert "leaves the reasoning of earlier answers out" in said["last"]
    assert "leaves the reasoning of answers out" in said["cutting"]
    assert "tool calls" not in said["cutting"] and "reasoning" not in said["toolless"]
    assert "leaves tool calls out" in said["toolless"]
    assert template_notices(chat_template(CUTTING), keeps_reasoning=False) == []
    assert shows_all_reasoning(chat_template(TEMPLATE))
    assert not shows_all_reasoning(chat_template(CUTTING))
