"""Where files are: local paths, globs, folders, standard input, `s3://` and `hf://` addresses.

A folder stands for the data below it, sorted (folders.py says what that is). Object stores are
reached through pyarrow's S3 client (credentials, region and endpoint from the environment, or
`?endpoint_override=...` in the address), the Hugging Face Hub through huggingface_hub's fsspec file
system.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from ...schemas.errors import InputError, NoSuchFileError
from .folders import (
    DESCRIBES,
    HIDDEN,
    NAMES,
    NO_ENDING,
    PACKED,
    Found,
    describes_others,
    is_store_folder,
    is_table_folder,
    look_below,
    passed_over_sentences,
    why_passed_over,
)

STDIN = "-"
REMOTE = ("hf://", "s3://")
LOCAL_ERRORS = (OSError, pa.ArrowException)
REMOTE_ERRORS = (Exception,)
"""The Hub's client passes on what its HTTP library raises, which has no common base class."""


def is_remote(path: str) -> bool:
    """Whether `path` is an address rather than a local path."""
    return path.startswith(REMOTE)


def open_binary(path: str) -> tuple[BinaryIO | Any, int | None]:
    """A binary stream from the start of `path`, and its size in bytes where that is known.

    Raises:
        InputError: it does not exist, is not readable, or its store cannot be reached.
    """
    if path == STDIN:
        return sys.stdin.buffer, None
    if is_remote(path):
        system, inside = remote_file_system(path)
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
    """Copy all bytes of a source into `folder`, keep its ending, and return the path of the copy.

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
    system, inside = remote_file_system(path)
    try:
        return system.open_input_file(inside)
    except REMOTE_ERRORS as error:
        raise unreachable(path, error) from error


def remote_file_system(address: str) -> tuple[pafs.FileSystem, str]:
    """The file system of an address and the path in it.

    Raises:
        InputError: the address is malformed.
    """
    if address.startswith("hf://"):
        from huggingface_hub import HfFileSystem

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
    """The error for an address that cannot be read."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        address,
        f"cannot be read ({reason[0][:300]})",
        "Check the address, the network and the credentials, or copy the file here first",
    )


def is_local_glob(path: str) -> bool:
    """Whether `path` is a pattern, and not a file with such a name."""
    return glob.has_magic(path) and not Path(path).exists()


def find_files(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that `sources` stand for, each once and in order; folders and globs are sorted.

    Raises:
        NoSuchFileError: a source matches nothing.
        InputError: the name of a file cannot be written in UTF-8.
    """
    return list(look_up(sources).files)


def look_up(sources: Sequence[str | os.PathLike[str]], alone: bool | None = None) -> Found:
    """The files that `sources` stand for, and what was passed over in folders and globs.

    Args:
        alone: whether they are all that a user named; by default, whether there is one of them.
            Of several, a file that only describes others is passed over: a shell's * named it.

    Raises:
        NoSuchFileError, InputError: as `find_files`.
    """
    found = Found()
    alone = len(sources) == 1 if alone is None else alone
    for source in [os.fspath(source) for source in sources]:
        own = Found()
        if not alone and describes_others(os.path.basename(source)):
            found.passed_over[os.path.abspath(source)] = DESCRIBES
            continue
        _look_up(source, own)
        found.files.update(own.files)
        found.passed_over.update(own.passed_over)
        if not own.files:
            passed = passed_over_sentences(own.passed_over)
            raise NoSuchFileError(
                source,
                "; ".join(["nothing to read was found", *passed]),
                f"A folder is searched for {', '.join(NAMES)} (also {', '.join(PACKED)})",
            )
    for file in found.files:
        try:
            file.encode("utf-8")
        except UnicodeEncodeError as error:
            name = file.encode("utf-8", "backslashreplace").decode()
            raise InputError(name, "its name is not UTF-8", "Rename it") from error
    return found


def _look_up(source: str, found: Found) -> None:
    if source == STDIN:
        found.files[STDIN] = None
    elif is_remote(source):
        _look_up_remote(source, found)
    elif is_local_glob(source):
        for match in sorted(glob.glob(source, recursive=True)):
            if not os.path.isdir(match):
                path = os.path.abspath(match)
                _add(path, why_passed_over(os.path.basename(match), path), source, found)
            elif is_table_folder(match):
                found.files[os.path.abspath(match)] = None
            elif "**" not in source:  # ** already lists what lies below
                look_below(match, found)
    elif is_store_folder(source):
        raise NoSuchFileError(
            source,
            "this is a store, not data",
            "Name the store that is meant first, and files behind it; the rows of this one are in "
            f"{source.rstrip('/')}/pool.lance",
        )
    elif os.path.isdir(source):
        look_below(source, found)
    elif os.path.exists(source):
        found.files[os.path.abspath(source)] = None
    else:
        raise NoSuchFileError(source, "there is no such file or folder", "Check the path")


def _add(path: str, reason: str | None, pattern: str, found: Found) -> None:
    """Add a file that a pattern matches, unless there is a reason to pass over it."""
    last = pattern.rsplit("/", 1)[-1]
    if reason in (NO_ENDING, HIDDEN) and "." in last:  # the pattern asks for such names
        reason = None
    if reason is None or not glob.has_magic(last):
        found.files[path] = None
    else:
        found.passed_over[path] = reason


def _look_up_remote(address: str, found: Found) -> None:
    system, inside = remote_file_system(address)
    scheme = address.partition("://")[0] + "://"
    query = "?" + address.partition("?")[2] if "?" in address and scheme == "s3://" else ""
    try:
        pattern = glob.has_magic(inside)
        root = _fixed_part(inside) if pattern else inside
        info = system.get_file_info(root)
        if info.type == pafs.FileType.File:
            found.files[address] = None
            return
        if info.type == pafs.FileType.NotFound:
            return
        below = system.get_file_info(pafs.FileSelector(root, recursive=True))
    except REMOTE_ERRORS as error:
        raise unreachable(address, error) from error
    for entry in sorted(below, key=lambda entry: entry.path):
        if entry.type != pafs.FileType.File:
            continue
        path = scheme + entry.path + query
        if pattern:
            if fnmatch.fnmatchcase(entry.path, inside):
                _add(path, why_passed_over(entry.base_name), inside, found)
        elif (reason := why_passed_over(entry.base_name)) is None:
            found.files[path] = None
        else:
            found.passed_over[path] = reason


def _fixed_part(pattern: str) -> str:
    parts: list[str] = []
    for part in pattern.split("/"):
        if glob.has_magic(part):
            break
        parts.append(part)
    return "/".join(parts)
