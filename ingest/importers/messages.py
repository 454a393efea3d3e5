"""OpenAI and Tulu: `messages` [{role, content}], maybe `tools`; content as text or parts."""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.instruction import Message
from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, as_canonical, found, text_of
from .turns import are_turns, keep_extras, read_turns

_MESSAGES_LISTS = ("messages",)
BESIDE = ("system", "system_prompt", "tools", "functions")


def fits_list(record: Fields, lists: tuple[str, ...]) -> list[str] | None:
    """The first of `lists` that holds turns, as the one column used."""
    return next(([name] for name in lists if name in record and are_turns(record[name])), None)


def read_list(record: Fields, lists: tuple[str, ...]) -> Found:
    """The conversation in the first of `lists` that the record has, with system text and tools.

    Raises:
        Refused: there is no such list, or a turn in it cannot be read.
    """
    name = next((name for name in lists if name in record), None)
    if name is None:
        raise Refused(f"missing field: {lists[0]}")
    messages, extras = read_turns(record[name], name)
    used = {name}
    for key in ("system", "system_prompt"):
        if isinstance(record.get(key), str) or (key in record and record[key] is None):
            used.add(key)
            system = text_of(record[key], key)
            if system.strip() and not (messages and messages[0].role == "system"):
                messages.insert(0, Message("system", system))
                extras.insert(0, {})
    tools = None
    for key in ("tools", "functions"):
        if key in record and tools is None:
            used.add(key)
            tools = as_canonical(record[key], key)
    conversation = found(record, used, messages, tools)
    keep_extras(conversation.metadata, extras)
    return conversation


def _read_messages(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    return [read_list(record, _MESSAGES_LISTS)]


MESSAGES = Importer(
    name="messages",
    reads="messages [{role, content}], tools?",
    fits=lambda record: fits_list(record, _MESSAGES_LISTS),
    read=_read_messages,
    aliases=("openai", "tulu", "chatml"),
)
