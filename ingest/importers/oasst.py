"""OpenAssistant trees: `prompt` {text, replies [...]}; every path from root to leaf is a row."""

from __future__ import annotations

from collections.abc import Iterator

from ...schemas.instruction import Instruction, Message
from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, kind_of, text_of
from .turns import ROLES, Extras, keep_extras

TREE = "prompt"
NODE_FIELDS = frozenset({"text", "role", "replies"})


def _fits_oasst(record: Fields) -> list[str] | None:
    root = record.get(TREE)
    return [TREE] if isinstance(root, dict) and "text" in root and "replies" in root else None


def _read_oasst(record: Fields, options: ReadOptions) -> Iterator[Found | Refused]:
    if TREE not in record:
        raise Refused(f"missing field: {TREE}")
    outside = {name: value for name, value in record.items() if name != TREE}
    waiting: list[tuple[object, tuple[Message, ...], Extras]] = [(record[TREE], (), [])]
    while waiting:
        node, before, extras_before = waiting.pop()
        try:
            message, extra = _node(node)
        except Refused as refusal:
            yield refusal
            continue
        path, extras = (*before, message), [*extras_before, extra]
        replies = node.get("replies") if isinstance(node, dict) else None
        if replies:
            waiting.extend((reply, path, extras) for reply in reversed(replies))
            continue
        metadata = dict(outside)
        keep_extras(metadata, extras)
        leaf = extra.get("message_id")
        yield Found(Instruction(path), metadata, leaf if isinstance(leaf, str) else None)


def _node(node: object) -> tuple[Message, Fields]:
    if not isinstance(node, dict):
        raise Refused(f"a reply is {kind_of(node)}, not an object")
    role = node.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Refused(f"unknown role {str(role)[:40]!r}")
    replies = node.get("replies")
    if replies is not None and not isinstance(replies, list):
        raise Refused(f"replies is {kind_of(replies)}, not a list")
    extra = {k: v for k, v in node.items() if k not in NODE_FIELDS and v is not None}
    return Message(ROLES[role.lower()], text_of(node.get("text"), "text")), extra


OASST = Importer(
    name="oasst",
    reads="prompt {text, role, replies [...]}",
    fits=_fits_oasst,
    read=_read_oasst,
)
