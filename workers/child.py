"""The process of a worker: it plays its role until its owner is gone, and then ends at once.

The owner sends SETTINGS, then for each task, where it needs it, EQUIP and BLOBs, then TASK, BODY,
and GIVEN and BLOB for each part. The process answers READY, and each task with any number of SEEN,
and of GIVEN and BLOB, then DONE and BODY, or FAILED.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..schemas.child_process import (
    claim_standard_streams,
    receive,
    search_less_for_garbage,
    send,
    send_json,
)
from .task import Given, Role, described, is_lack_of_memory

SETTINGS, READY, EQUIP, BLOB, TASK, SEEN, GIVEN, DONE, BODY, FAILED = (
    bytes([letter]) for letter in b"OREBTSGDYF"
)

OUT_OF_MEMORY = 9
"""Exit status."""


def main() -> None:
    """Serve the owner; never returns."""
    search_less_for_garbage()
    requests, channel = claim_standard_streams()
    waiting: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    try:
        role = _start(channel, json.loads(waiting.get()[1]))
        while True:
            kind, payload = waiting.get()
            facts = json.loads(payload)
            if kind == EQUIP:
                blobs = [waiting.get()[1] for _ in range(facts["blobs"])]
                _attempt(channel, lambda: role.equip(facts["facts"], blobs))  # noqa: B023
            else:
                body = waiting.get()[1]
                parts = [
                    (json.loads(waiting.get()[1]), waiting.get()[1]) for _ in range(facts["parts"])
                ]
                _do(channel, role, facts["facts"], body, parts)
    except BaseException as error:  # a bug, or an owner that is gone: the thread would stay
        if not isinstance(error, BrokenPipeError):
            traceback.print_exc()
        os._exit(1)


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[tuple[bytes, bytes]]) -> None:
    """Pass requests on while the main thread works; an owner that is gone ends the process."""
    while frame := receive(requests):
        waiting.put(frame)
    os._exit(0)


def _start(channel: BinaryIO, settings: dict[str, Any]) -> Role:
    roles: list[Role] = []
    _attempt(channel, lambda: roles.append(role_of(settings["role"])(settings["settings"])))
    if not roles:
        threading.Event().wait()  # until the owner, who knows why, ends this process
    send(channel, READY)
    return roles[0]


def role_of(name: str) -> type[Role]:
    """The class with a dotted name."""
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def _do(
    channel: BinaryIO, role: Role, facts: dict[str, Any], body: bytes, parts: list[Given]
) -> None:
    def do() -> None:
        answer, rows = role.do(facts, body, parts, _Owner(channel))
        send_json(channel, DONE, answer)
        send(channel, BODY, rows)

    _attempt(channel, do)


@dataclass(frozen=True)
class _Owner:
    """The owner, as the role sees it."""

    channel: BinaryIO

    def seen(self, rows: int, tokens: int) -> None:
        send_json(self.channel, SEEN, {"rows": rows, "tokens": tokens})

    def give(self, facts: dict[str, Any], body: bytes = b"") -> None:
        send_json(self.channel, GIVEN, facts)
        send(self.channel, BLOB, body)


def _attempt(channel: BinaryIO, act: Any) -> None:
    """Act; tell the owner what went wrong. Without memory the process had better end."""
    try:
        act()
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_lack_of_memory(error):
            print(f"out of memory: {error}", file=sys.stderr, flush=True)
            os._exit(OUT_OF_MEMORY)
        send_json(channel, FAILED, described(error, traceback.format_exc()))
