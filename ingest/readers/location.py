"""Where files live: local paths, standard input, `s3://` and `hf://` addresses.

Object stores are reached through pyarrow's own S3 client (credentials, region and endpoint from
the environment, or `?endpoint_override=...` in the address); the Hugging Face Hub through
huggingface_hub's fsspec file system.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from ...schemas.errors import InputError

STDIN = "-"
REMOTE = ("hf://", "s3://")
LOCAL_ERRORS = (OSError, pa.ArrowException)
REMOTE_ERRORS = (Exception,)
"""The Hub's client hands on whatever its HTTP library raises, which has no common base."""


def is_remote(path: str) -> bool:
    """Whether `path` is an address rather than a local path."""
    return path.startswith(REMOTE)


def open_binary(path: str) -> tuple[BinaryIO | Any, int | None]:
    """A binary stream from the start of `path`, and its size in bytes where that is known.

    Raises:
        InputError: it is not there, is not readable, or its store cannot be reached.
    """
    if path == STDIN:
        return sys.stdin.buffer, None
    if is_remote(path):
        system, inside = remote(path)
        try:
            return system.open_input_stream(inside), system.get_file_info(inside).size
        except REMOTE_ERRORS as error:
            raise unreachable(path, error) from error
    try:
        handle = open(path, "rb")
    except OSError as error:
        raise InputError(path, error.strerror or str(error), "Check the path") from error
    status = os.fstat(handle.fileno())
    return handle, status.st_size if stat.S_ISREG(status.st_mode) else None


def can_be_read_again(path: str) -> bool:
    """Whether a source gives the same bytes twice: not standard input, not a pipe."""
    if path == STDIN:
        return False
    return is_remote(path) or not stat.S_ISFIFO(os.stat(path).st_mode)


def copy_of(path: str, folder: str) -> str:
    """Copy all bytes of a source into `folder`, under its own ending; where the copy lies.

    Raises:
        InputError: it is not readable, or the disk is full.
    """
    handle, _ = open_binary(path)
    name = "stdin" if path == STDIN else os.path.basename(path)
    descriptor, copy = tempfile.mkstemp(dir=folder, suffix=f"-{name}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(handle, file, 1 << 20)
    except OSError as error:
        raise InputError(
            path,
            f"cannot be copied to {folder} ({error.strerror or error})",
            "Set TMPDIR to a folder with room, or write it to a file and name that",
        ) from error
    finally:
        if path != STDIN:
            handle.close()
    return copy


def open_random(path: str) -> Any:
    """A source for pyarrow's table readers, which read where they like.

    Raises:
        InputError: as `open_binary`.
    """
    if not is_remote(path):
        return pa.memory_map(path)
    system, inside = remote(path)
    try:
        return system.open_input_file(inside)
    except REMOTE_ERRORS as error:
        raise unreachable(path, error) from error


def remote(address: str) -> tuple[pafs.FileSystem, str]:
    """The file system of an address and the path in it.

    Raises:
        InputError: a package is missing, or the address makes no sense.
    """
    if address.startswith("hf://"):
        try:
            from huggingface_hub import HfFileSystem
        except ImportError as error:
            raise InputError(
                address, "reading hf:// needs huggingface_hub", "pip install huggingface_hub"
            ) from error
        handler = pafs.FSSpecHandler(HfFileSystem())
        return pafs.PyFileSystem(handler), address.removeprefix("hf://")
    if "@" in address.removeprefix("s3://").partition("/")[0]:
        raise InputError(
            address.partition("@")[2],
            "credentials in an address would be written into the store",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )
    try:
        system, inside = pafs.FileSystem.from_uri(address)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreachable(address, error) from error
    return system, inside


def unreachable(address: str, error: Exception) -> InputError:
    """The error for an address that gave no answer."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        address,
        f"cannot be read ({reason[0][:300]})",
        "Check the address, the network and the credentials, or copy the file here first",
    )


def is_local_glob(path: str) -> bool:
    """Whether `path` is a pattern (a file that bears such a name is not)."""
    return glob.has_magic(path) and not Path(path).exists()
