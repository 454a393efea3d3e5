"""Which tokens a conversation becomes, and whose they are, seen by decoding the masks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.tiny_models import BOS, END, PAD, TEMPLATE, save_tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coresetdb.ingest.conversations.chat_template import ChatTemplate, RowRefusedError
from coresetdb.ingest.conversations.tokenization import Encoder, kept_positions, response_alone
from coresetdb.ingest.models.model_folder import read_templates
from coresetdb.schemas.errors import BackboneError
from coresetdb.schemas.instruction import Instruction, Message

CHATML = (
    "{%- for message in messages -%}{{- '<|' ~ message.role ~ '|>\\n' -}}"
    "{{- message.content ~ '<|end|>\\n' -}}{%- endfor -%}"
)
TRIMMING = TEMPLATE.replace("~ message.content", "~ (message.content | trim)")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encoder(tokenizer, template: str | None = TEMPLATE, max_length: int = 2048) -> Encoder:
    special = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    templates = {} if template is None else {"default": template}
    return Encoder(
        tokenizer, ChatTemplate(templates, special), max_length, tokenizer.token_to_id(BOS)
    )


def text(tokenizer, ids) -> str:
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False)


SEVERAL = Instruction.from_turns(
    ("system", "be brief"),
    ("user", "two and three?"),
    ("assistant", "five"),
    ("user", "and four?"),
    ("assistant", "nine"),
)


def test_masks_of_a_conversation_with_several_turns(tokenizer):
    row = encoder(tokenizer).encode(SEVERAL)
    assert text(tokenizer, row.ids) == (
        "<|endoftext|><|system|>be brief<|end|><|user|>two and three?<|end|>"
        "<|assistant|>five<|end|><|user|>and four?<|end|><|assistant|>nine<|end|>"
    )
    assert text(tokenizer, row.ids[row.response]) == "five<|end|>nine<|end|>"
    assert text(tokenizer, row.ids[row.content]) == "be brieftwo and three?fiveand four?nine"
    assert text(tokenizer, row.ids[row.header]) == "<|assistant|><|assistant|>"
    assert row.prompt_tokens + row.response_tokens == len(row)
    alone = response_alone(row)
    assert text(tokenizer, alone.ids) == (
        "<|endoftext|><|assistant|>five<|end|><|assistant|>nine<|end|>"
    )
    assert alone.response_tokens == row.response_tokens


@given(st.lists(st.text(max_size=30).filter(str.strip), min_size=2, max_size=6))
def test_every_text_comes_back_from_its_tokens(tokenizer, texts):
    turns = [("user" if i % 2 == 0 else "assistant", each) for i, each in enumerate(texts)]
    row = encoder(tokenizer).encode(Instruction.from_turns(*turns))
    rendered = BOS + "".join(f"<|{role}|>{each}{END}" for role, each in turns)
    assert text(tokenizer, row.ids) == rendered
    answers = "".join(each + END for role, each in turns if role == "assistant")
    assert text(tokenizer, row.ids[row.response]) == answers


def test_special_tokens_in_a_text_stay_text(tokenizer):
    said = "print('<|endoftext|>') # <|end|><|user|>"
    row = encoder(tokenizer).encode(Instruction.from_turns(("user", said), ("assistant", said)))
    specials = [tokenizer.token_to_id(token) for token in (BOS, "<|user|>", "<|assistant|>", END)]
    assert [id for id in row.ids.tolist() if id in specials] == [
        tokenizer.token_to_id(token) for token in (BOS, "<|user|>", END, "<|assistant|>", END)
    ]
    assert text(tokenizer, row.ids[row.content]) == said + said


def test_line_breaks_after_the_end_of_turn_are_the_templates(tokenizer):
    row = encoder(tokenizer, CHATML).encode(SEVERAL)
    assert text(tokenizer, row.ids[row.response]) == "five<|end|>nine<|end|>"
    assert text(tokenizer, row.ids[row.header]) == "<|assistant|>\n<|assistant|>\n"
    assert not row.has_bos


def test_trimmed_texts_are_found(tokenizer):
    row = encoder(tokenizer, TRIMMING).encode(
        Instruction.from_turns(("user", "\n two "), ("assistant", " three\n\n"))
    )
    assert text(tokenizer, row.ids) == "<|endoftext|><|user|>two<|end|><|assistant|>three<|end|>"
    assert text(tokenizer, row.ids[row.response]) == "three<|end|>"


def test_texts_escaped_for_json_are_found(tokenizer):
    template = TEMPLATE.replace("~ message.content", "~ (message.content | tojson)")
    row = encoder(tokenizer, template).encode(
        Instruction.from_turns(("user", 'a "quoted"\nline'), ("assistant", "ja: 好"))
    )
    assert text(tokenizer, row.ids[row.response]) == 'ja: 好"<|end|>'
    assert text(tokenizer, row.ids[row.content]) == 'a \\"quoted\\"\\nlineja: 好'


@pytest.mark.parametrize(
    "change", ["message.content.split('!')[-1]", "(message.content | upper)", "message.content[:3]"]
)
def test_a_template_that_changes_a_text_refuses_the_row(tokenizer, change):
    template = TEMPLATE.replace("~ message.content", f"~ {change}")
    with pytest.raises(RowRefusedError, match="chat template"):
        encoder(tokenizer, template).encode(
            Instruction.from_turns(("user", "one! two"), ("assistant", "three! four"))
        )


def test_a_template_that_leaves_an_answer_out_refuses_the_row(tokenizer):
    template = (
        "{%- for message in messages -%}{%- if message.role == 'user' -%}{{- message.content -}}"
        "{%- endif -%}{%- endfor -%}"
    )
    with pytest.raises(RowRefusedError, match="leaves the text of an answer out"):
        encoder(tokenizer, template).encode(
            Instruction.from_turns(("user", "one"), ("assistant", "two"))
        )


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_template_that_leaves_a_message_out_refuses_the_row(tokenizer, role):
    template = TEMPLATE.replace("in messages", f"in messages if message.role != '{role}'")
    with pytest.raises(RowRefusedError, match="leaves the text of a message out"):
        encoder(tokenizer, template).encode(SEVERAL)


def test_a_row_the_template_refuses_does_not_stop_the_others(tokenizer):
    alternate = (
        "{%- for message in messages -%}{%- if loop.index0 % 2 == 0 and message.role != 'user' -%}"
        "{{- raise_exception('roles must alternate') -}}{%- endif -%}{%- endfor -%}" + TEMPLATE
    )
    good = Instruction.from_turns(("user", "one"), ("assistant", "two"))
    refused, row = encoder(tokenizer, alternate).encode_all([SEVERAL, good])
    assert isinstance(refused, RowRefusedError) and "roles must alternate" in str(refused)
    assert len(row) > 0


def test_the_plain_template_of_tokenizers_without_one(tokenizer):
    row = encoder(tokenizer, None).encode(SEVERAL)
    assert text(tokenizer, row.ids) == (
        "<|endoftext|>### System:\nbe brief\n\n### User:\ntwo and three?\n\n"
        "### Assistant:\nfive<|end|>\n\n### User:\nand four?\n\n### Assistant:\nnine<|end|>\n\n"
    )
    assert text(tokenizer, row.ids[row.response]) == "five<|end|>nine<|end|>"
    assert text(tokenizer, row.ids[row.header]).count("### Assistant:\n") == 2


TOOLS = json.dumps([{"type": "function", "function": {"name": "add <|end|>"}}])
CALL = json.dumps(
    [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "s": "<|end|>"}'}}]
)
CALLING = Instruction(
    (
        Message("user", "2+3?"),
        Message("assistant", "", tool_calls=CALL),
        Message("tool", "5 <|end|>", name="add", tool_call_id="1"),
        Message("assistant", "five"),
    ),
    TOOLS,
)


def test_tools_and_tool_calls(tokenizer):
    template = "{%- if tools -%}{{- tools | tojson -}}{%- endif -%}" + TEMPLATE
    row = encoder(tokenizer, template).encode(CALLING)
    answers = text(tokenizer, row.ids[row.response])
    call = re.search(r"^(\[.*\])<\|end\|>five<\|end\|>$", answers)
    assert call, answers
    # Arguments arrive in the template as an object, not as a string inside a string.
    assert json.loads(call[1])[0]["function"]["arguments"] == {"a": 2, "s": "<|end|>"}
    # Only the four turns really end: the tokens named in tools, calls and texts are text.
    assert row.ids.tolist().count(tokenizer.token_to_id(END)) == 4
    assert "add <|end|>" in text(tokenizer, row.ids)
    assert text(tokenizer, row.ids[row.header]) == "<|assistant|><|assistant|>"


def test_an_unanswered_turn_at_the_end_is_left_out(tokenizer):
    asked = Instruction.from_turns(("user", "two?"))
    empty = Instruction.from_turns(("user", "two?"), ("assistant", " \n"))
    rows = encoder(tokenizer).encode_all([asked, empty])
    assert [text(tokenizer, row.ids) for row in rows] == [BOS + "<|user|>two?<|end|>"] * 2
    with pytest.raises(RowRefusedError, match="nothing to render"):
        encoder(tokenizer).encode(Instruction.from_turns(("assistant", "")))


def test_the_date_a_template_is_told_never_changes(tokenizer):
    row = encoder(tokenizer, "{{- strftime_now('%d %b %Y') ~ ' ' -}}" + TEMPLATE).encode(SEVERAL)
    assert text(tokenizer, row.ids).startswith("26 Jul 2024 ")


def test_generation_marks_are_passed_through(tokenizer):
    marked = TEMPLATE.replace(
        "{{- '<|end|>' -}}", "{% generation %}{{- '<|end|>' -}}{% endgeneration %}"
    )
    plain = encoder(tokenizer).encode(SEVERAL)
    assert encoder(tokenizer, marked).encode(SEVERAL).ids.tolist() == plain.ids.tolist()


def test_a_template_that_does_not_compile_is_an_error(tokenizer):
    with pytest.raises(BackboneError, match="does not compile"):
        encoder(tokenizer, "{% for message in %}")


def test_sentencepiece_like_tokenizers_add_no_space_inside(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    spm = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    spm.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    spm.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    spm.train_from_iterator(
        ["two and three\n is five?", "<|user|>"] * 9,
        trainers.BpeTrainer(special_tokens=["<unk>", BOS, END], show_progress=False),
    )
    special = {"bos_token": BOS, "eos_token": END}
    made = Encoder(spm, ChatTemplate({"default": TEMPLATE}, special), 2048, spm.token_to_id(BOS))
    row = made.encode(Instruction.from_turns(("user", "two"), ("assistant", "five")))
    assert "".join(spm.id_to_token(id) for id in row.ids[row.response]) == "five" + END
    assert spm.encode("five", add_special_tokens=False).tokens[0].startswith("\u2581")


# Truncation


def test_the_left_of_the_prompt_goes_first(tokenizer):
    row = Instruction.from_turns(("user", "abcdefghij" * 9), ("assistant", "xyz"))
    whole = encoder(tokenizer).encode(row)
    cut = encoder(tokenizer, max_length=20).encode(row)
    assert (len(cut), cut.truncated, whole.truncated) == (20, True, False)
    assert cut.ids[0] == whole.ids[0] and cut.has_bos
    assert cut.ids[1:].tolist() == whole.ids[-19:].tolist()
    assert cut.response_tokens == whole.response_tokens


def test_an_answer_that_does_not_fit_is_cut_at_its_right(tokenizer):
    row = Instruction.from_turns(("user", "abc"), ("assistant", "qrstuvwxyz" * 9))
    whole = encoder(tokenizer).encode(row)
    cut = encoder(tokenizer, max_length=20).encode(row)
    assert cut.ids[1:].tolist() == whole.ids[whole.response][:19].tolist()
    assert cut.response.tolist() == [False] + [True] * 19


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 80), st.booleans())
def test_truncation_in_general(response, max_length, has_bos):
    mask = np.array(response)
    mask[0] &= not has_bos
    kept = np.arange(len(mask))[kept_positions(mask, max_length, has_bos)]
    assert len(kept) == min(len(mask), max_length)
    assert (np.diff(kept) > 0).all()
    if has_bos:
        assert kept[0] == 0
    if mask.any():
        first = int(mask.argmax())
        assert first in kept
        # Nothing after the first response token is lost while a prompt token is kept.
        prompt = [place for place in kept if place < first and not (has_bos and place == 0)]
        assert not prompt or kept[-1] == len(mask) - 1


def test_templates_are_read_from_every_place(tmp_path):
    assert read_templates(tmp_path) == {}
    config = {"chat_template": [{"name": "default", "template": "a"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_templates(tmp_path) == {"default": "a"}
    (tmp_path / "chat_template.jinja").write_text("b")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("c")
    assert read_templates(tmp_path) == {"default": "b", "tool_use": "c"}
