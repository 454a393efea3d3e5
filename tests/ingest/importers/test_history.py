"""Chat templates that render earlier turns otherwise once more turns follow."""

from __future__ import annotations

import json

import pytest
from helpers.files import write_jsonl
from helpers.tiny_models import BOS, END, PAD, TEMPLATE, save_tiny_model, save_tiny_tokenizer
from tokenizers import Tokenizer

import coresetdb
from coresetdb.ingest.conversations.chat_template import ChatTemplate, RowRefusedError
from coresetdb.ingest.conversations.limits import template_notices
from coresetdb.ingest.conversations.token_roles import HistoryRewrittenError
from coresetdb.ingest.conversations.tokenization import Encoder, response_alone
from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.schemas.instruction import Instruction, Message

# As Qwen3's: reasoning is cut out of earlier answers, the last one gets a block even when it has
# none; tool results are turns of the user's.
THINKING = """\
{%- set seen = namespace(query=-1) -%}
{%- for message in messages if message.role == 'user' -%}
{%- set seen.query = messages.index(message) -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set text, reason = message.content, '' -%}
{%- if message.role == 'assistant' and '</think>' in text -%}
{%- set reason = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if message.role == 'tool' -%}
{%- if loop.previtem.role != 'tool' -%}{{- '<|user|>' -}}{%- endif -%}
{{- '\\n<result>\\n' ~ text ~ '\\n</result>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|' ~ message.role ~ '|>\\n' -}}
{%- if message.role == 'assistant' and loop.index0 > seen.query and (loop.last or reason) -%}
{{- '<think>\\n' ~ reason ~ '\\n</think>\\n\\n' ~ text.lstrip('\\n') -}}
{%- else -%}{{- text -}}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- if text or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<call>' ~ (call.function | tojson) ~ '</call>' -}}
{%- endfor -%}
{{- '<|end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
EMPTY = "<think>\n\n</think>\n\n"

# An answer ends otherwise when it is the last turn.
UNENDED = TEMPLATE.replace(
    "'<|end|>'", "(' / ' if message.role == 'assistant' and not loop.last else '<|end|>')"
)
# And a question begins otherwise after an answer, so nothing says where the answer ends.
UNCLEAR = UNENDED.replace(
    "'<|' ~ message.role ~ '|>'",
    "('<|' ~ message.role ~ '|>' if loop.first or message.role != 'user' else 'again: ')",
)

SINGLE = Instruction.from_turns(("user", "two?"), ("assistant", "three"))
SEVERAL = Instruction.from_turns(
    ("system", "be brief"),
    ("user", "two?"),
    ("assistant", "five"),
    ("user", "and four?"),
    ("assistant", "nine"),
    ("user", "and one?"),
    ("assistant", "ten"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture
def made(tokenizer):
    """An encoder, and a function that decodes."""

    def make(template: str = THINKING) -> Encoder:
        return Encoder(tokenizer, chat_template(template), 2048, None)

    return make, lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def chat_template(text: str) -> ChatTemplate:
    return ChatTemplate({"default": text}, {"bos_token": BOS, "eos_token": END, "pad_token": PAD})


def rendered(instruction: Instruction, template: str = THINKING) -> str:
    messages = [each.as_dict() for each in instruction.messages]
    for message in messages:
        if message.get("tool_calls"):
            message["tool_calls"] = json.loads(message["tool_calls"])
    return chat_template(template).render(messages)


def test_the_imitation_rewrites_history():
    first = Instruction(SEVERAL.messages[:3])
    assert rendered(first).endswith(EMPTY + "five<|end|>\n")
    assert not rendered(SEVERAL).startswith(rendered(first))
    assert rendered(SEVERAL).count(EMPTY) == 1


def test_one_round(made):
    make, text = made
    row = make().encode(SINGLE)
    assert text(row.ids) == f"<|user|>\ntwo?<|end|>\n<|assistant|>\n{EMPTY}three<|end|>\n"
    assert text(row.ids[row.response]) == "three<|end|>"
    assert text(row.ids[row.header]) == f"<|assistant|>\n{EMPTY}"


def test_several_rounds(made):
    make, text = made
    row = make().encode(SEVERAL)
    assert text(row.ids) == rendered(SEVERAL)
    assert text(row.ids[row.response]) == "five<|end|>nine<|end|>ten<|end|>"
    assert text(row.ids[row.header]) == "<|assistant|>\n" * 3 + EMPTY
    assert text(row.ids[row.content]) == "be brieftwo?fiveand four?nineand one?ten"
    assert text(response_alone(row).ids) == (
        f"<|assistant|>\nfive<|end|><|assistant|>\nnine<|end|><|assistant|>\n{EMPTY}ten<|end|>"
    )


def test_equal_texts_and_a_question_at_the_end(made):
    make, text = made
    same = [("user", "one"), ("assistant", "one")] * 3
    row = make().encode(Instruction.from_turns(*same))
    assert text(row.ids[row.response]) == "one<|end|>" * 3
    asked = Instruction.from_turns(*same, ("user", "one"))
    row = make().encode(asked)
    assert text(row.ids) == rendered(asked)
    assert text(row.ids[row.response]) == "one<|end|>" * 3


@pytest.mark.parametrize("said", ["", "let me see"])
def test_tool_calls(made, said):
    make, text = made
    call = {"name": "add", "arguments": {"a": 2, "b": "<|end|>"}}
    calls = json.dumps([{"type": "function", "function": call}] * 2)
    calling = Instruction(
        (
            Message("user", "2+3?"),
            Message("assistant", said, tool_calls=calls),
            Message("tool", "5"),
            Message("tool", "6"),
            Message("assistant", "five"),
        )
    )
    row = make().encode(calling)
    assert text(row.ids) == rendered(calling)
    written = f"<call>{json.dumps(call)}</call>"
    before = said + "\n" if said else ""
    assert text(row.ids[row.response]) == f"{before}{written}\n{written}<|end|>five<|end|>"
    assert text(row.ids[row.header]) == f"<|assistant|>\n<|assistant|>\n{EMPTY}"
    assert row.ids.tolist().count(row.ids[row.response][-1]) == 4  # <|end|> inside is text


def test_reasoning_that_the_template_moves_or_drops_stands_where_the_template_puts_it(made):
    make, text = made
    thought = "<think>\nhm\n</think>\n\nthree"
    last = Instruction.from_turns(("user", "two?"), ("assistant", thought))
    earlier = Instruction(
        (*last.messages, *Instruction.from_turns(("user", "b"), ("assistant", "c")).messages)
    )
    one, other = make().encode_all([last, earlier])
    assert [text(one.ids), text(other.ids)] == [rendered(last), rendered(earlier)]
    assert text(one.ids[one.response]) == thought + "<|end|>"
    assert text(one.ids[one.header]) == "<|assistant|>\n"
    assert text(other.ids[other.response]) == "three<|end|>c<|end|>"


def test_line_breaks_the_template_strips_are_found(made):
    make, text = made
    row = make().encode(Instruction.from_turns(("user", "two?"), ("assistant", "\n\n  three\n")))
    assert text(row.ids[row.response]) == "  three\n<|end|>"


def test_where_the_end_of_an_answer_is_unclear_only_such_rows_are_refused(made):
    make, text = made
    row, refused, again = make(UNCLEAR).encode_all([SINGLE, SEVERAL, SINGLE])
    assert isinstance(refused, HistoryRewrittenError) and isinstance(refused, RowRefusedError)
    assert "rewrites history" in str(refused)
    assert text(row.ids[row.response]) == text(again.ids[again.response]) == "three<|end|>"


def test_the_notice_tells_the_cases_apart():
    assert template_notices(chat_template(TEMPLATE)) == []
    assert "whole conversation" in template_notices(chat_template(THINKING))[0]
    assert "whole conversation" in template_notices(chat_template(UNENDED))[0]
    assert "no features" in template_notices(chat_template(UNCLEAR))[0]
    refusing = (
        TEMPLATE + "{%- if messages | length > 2 -%}{{- raise_exception('no') -}}{%- endif -%}"
    )
    assert template_notices(chat_template(refusing)) == []


def test_special_tokens_of_the_folder_reach_the_template(tmp_path):
    folder = save_tiny_model(
        tmp_path / "model", template="{{- bos_token + eos_token -}}" + TEMPLATE
    )
    assert describe(BackboneConfig(str(folder))).notices == ()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["bos_token"] = {"content": config["bos_token"], "special": True}
    config["chat_template"] = "{{- bos_token + eos_token -}}" + UNCLEAR
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "rewrites history" in describe(BackboneConfig(str(folder))).notices[0]


def test_an_ingestion_goes_on_and_counts_the_refused(tmp_path):
    folder = save_tiny_model(tmp_path / "model", template=UNCLEAR)
    rows = [
        {"messages": [message.as_dict() for message in row.messages]} for row in (SINGLE, SEVERAL)
    ]
    for row in rows:
        row["messages"] = [{k: m[k] for k in ("role", "content")} for m in row["messages"]]
    file = write_jsonl(tmp_path / "mixed.jsonl", rows)
    database = coresetdb.create(str(tmp_path / "pool"), backbone=str(folder), device="cpu")
    assert "rewrites history" in database.notices[0]
    account = database.ingest(file)
    assert (account.total("new"), account.total("rejected")) == (2, 0)
    said = [line for line in account.lines() if "rewrites history" in line]
    assert len(said) == 2 and all(line.endswith(": 1") for line in said)  # rds and losses
    assert database.ingest(file).total("duplicate") == 2
