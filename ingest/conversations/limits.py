"""What a chat template leaves out or rewrites, found by trying it, in sentences for its user."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ...schemas.instruction import ANSWER, THINK
from .chat_template import ChatTemplate, RowRefusedError
from .forms import CALL_FORMS, Dialect, Form, Thought, Turn, dialect_of
from .token_roles import HistoryRewrittenError, Rendered, find_answer, rendered_form

# What special tokens usually look like; the tokenizer itself is not read for a notice.
_SPECIAL = re.compile(
    r"<[|\uff5c][^<>]+>|<[^<>]+[|\uff5c]>|</?s>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]"
)
_CALL = json.dumps([{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}])


def template_notices(template: ChatTemplate, keeps_reasoning: bool = True) -> list[str]:
    """Sentences about what a template does with earlier rounds, reasoning and tool calls.

    Args:
        keeps_reasoning: whether reasoning is what the template makes of it.
    """
    dialect = dialect_of(template)
    sentences = [_about_history(template, dialect), _about_tools(template, dialect)]
    if keeps_reasoning:
        sentences.insert(1, _about_reasoning(template, dialect))
    return [sentence for sentence in sentences if sentence]


def shows_all_reasoning(template: ChatTemplate) -> bool:
    """Whether a template shows the reasoning of every answer, as it does any other text."""
    dialect = dialect_of(template)
    return dialect.reasoning is None and _reasoning_shown(template, dialect) == [True, True]


def _about_history(template: ChatTemplate, dialect: Dialect) -> str | None:
    form = _form("user", "assistant", "user", "assistant")
    try:
        rendered = _rendered(form, template, dialect)
        if rendered.full.startswith(rendered.render(2)):
            return None
        for index in (1, 3):
            find_answer(index, rendered)
    except HistoryRewrittenError:
        return (
            "its chat template rewrites history, so conversations of several rounds will get no "
            "features (docs/backbones.md says what to do)"
        )
    except RowRefusedError:
        return None  # it is not about history, and each row will say why
    return (
        "its chat template renders earlier answers differently from the last one; each is scored "
        "as it stands in the whole conversation (docs/backbones.md)"
    )


def _about_reasoning(template: ChatTemplate, dialect: Dialect) -> str | None:
    shown = _reasoning_shown(template, dialect)
    if shown is None or all(shown):
        return None
    whose = "earlier answers" if shown[1] else "answers"
    return (
        f"its chat template leaves the reasoning of {whose} out, and so do their features; "
        "--reasoning as-response keeps it"
    )


def _reasoning_shown(template: ChatTemplate, dialect: Dialect) -> list[bool] | None:
    """Whether the reasoning of an earlier answer and of the last one is shown; None if refused."""
    keyed = dialect.reasoning is not None or not dialect.blocks
    thought = Thought() if keyed else Thought(THINK, ANSWER)
    form = _form("user", "assistant", "user", "assistant", thought=thought)
    try:
        rendered = _rendered(form, template, dialect)
    except RowRefusedError:
        return None
    return [rendered.reasons[index] for index in (1, 3)]


def _about_tools(template: ChatTemplate, dialect: Dialect) -> str | None:
    form = _form("user", "assistant", calls=_CALL)
    refused: list[str] = []
    for calls in CALL_FORMS:
        try:
            rendered_form(form, template, dialect, calls, _SPECIAL)
        except RowRefusedError as error:
            refused.append(str(error))
        else:
            return None
    if any("refuses it" in reason for reason in refused):
        return None  # each row will say why
    return (
        "its chat template leaves tool calls out, so rows that make any will get no features "
        "(docs/backbones.md)"
    )


def _form(*roles: str, thought: Thought | None = None, calls: str | None = None) -> Form:
    turns: Sequence[Turn] = [
        Turn(role, "some", None, None, None)
        if role == "user"
        else Turn(role, "none" if calls else "some", None, calls, None, thought)
        for role in roles
    ]
    return tuple(turns), None


def _rendered(form: Form, template: ChatTemplate, dialect: Dialect) -> Rendered:
    return rendered_form(form, template, dialect, CALL_FORMS[0], _SPECIAL)[1]
