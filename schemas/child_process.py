"""A process of ours beside this one: a fresh interpreter, and the frames that both sides exchange.

A frame is a kind (one byte), a length, and bytes. Requests go to the child's standard input, its
answers come from its standard output; a child whose owner is gone reads the end of its input.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    import pyarrow as pa

_HEADER = struct.Struct("<cQ")

# A program handed to a fresh interpreter rather than a fork (Lance is not fork-safe) or a spawn of
# multiprocessing, which would import the caller's main module again.
_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"


def interpreter_of(module: str, pandas: bool = True) -> list[str]:
    """The command line of an interpreter that calls `main` of a module, found as it is here.

    Args:
        module: its full name.
        pandas: whether the interpreter may import pandas; see `hide_pandas`.
    """
    hidden = [] if pandas else [f"from {__name__} import hide_pandas", "hide_pandas()"]
    program = "; ".join([_PATH, *hidden, f"from {module} import main", "main()"])
    return [sys.executable, "-P", "-c", program, json.dumps(sys.path)]


def hide_pandas() -> None:
    """Let nothing in this process find pandas, for one that makes no frame.

    Arrow's datasets, and with them Lance, import it where it is installed, before they are asked
    for a frame: as much time as all else that such a process imports.
    """
    sys.meta_path.insert(0, _HiddenPandas())


class _HiddenPandas:
    """The first to be asked for a module: there is no pandas; others may find the rest."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is hidden from this process", name=fullname)
        return None


def search_less_for_garbage() -> None:
    """Let this process, which is ours alone and not kept for hours, collect cyclic garbage rarely.

    What it imports makes hundreds of thousands of objects that stay: by Python's own threshold of
    700 an eighth of a selection, or of the start of a worker, went into looking through them.
    """
    gc.set_threshold(50_000, 10, 10)


def claim_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return requests and channel of the child: whatever a library prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, channel


def send(channel: BinaryIO, kind: bytes, payload: bytes | pa.Buffer = b"") -> None:
    """Write one frame.

    Raises:
        BrokenPipeError: the other side is gone.
    """
    channel.write(_HEADER.pack(kind, len(payload)))
    channel.write(payload)
    channel.flush()


def receive(channel: BinaryIO) -> tuple[bytes, bytes] | None:
    """Read one frame; None when the other side is gone."""
    header = channel.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    kind, length = _HEADER.unpack(header)
    payload = channel.read(length)
    return (kind, payload) if len(payload) == length else None


def send_json(channel: BinaryIO, kind: bytes, value: dict[str, Any]) -> None:
    """Write one frame that holds JSON."""
    send(channel, kind, json.dumps(value).encode())
