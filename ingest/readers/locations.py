"""Where files are: local paths, globs, folders, standard input, `s3://` and `hf://` addresses.

A folder stands for the readable files below it (by name, sorted); a `.lance` table and a Hugging
Face `datasets` folder are one source each. Object stores are reached through pyarrow's S3 client
(credentials, region and endpoint from the environment, or `?endpoint_override=...` in the address),
the Hugging Face Hub through huggingface_hub's fsspec file system.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from ...schemas.errors import InputError, NoSuchFileError

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
        InputError: a package is missing, or the address is malformed.
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


NAMES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".zst")


def find_files(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that `sources` stand for, each once and in order; folders and globs are sorted.

    Raises:
        NoSuchFileError: a source matches nothing.
        InputError: the name of a file cannot be written in UTF-8.
    """
    found: dict[str, None] = {}
    for source in [os.fspath(source) for source in sources]:
        files = list(_files_of(source))
        if not files:
            raise NoSuchFileError(
                source,
                "nothing to read was found",
                f"A folder is searched for {', '.join(NAMES)} (also .gz, .zst)",
            )
        for file in files:
            try:
                file.encode("utf-8")
            except UnicodeEncodeError as error:
                name = file.encode("utf-8", "backslashreplace").decode()
                raise InputError(name, "its name is not UTF-8", "Rename it") from error
        found.update(dict.fromkeys(files))
    return list(found)


def _files_of(source: str) -> Iterator[str]:
    if source == STDIN:
        yield STDIN
    elif is_remote(source):
        yield from _remote_files(source)
    elif is_local_glob(source):
        for match in sorted(glob.glob(source, recursive=True)):
            if not os.path.isdir(match):
                yield os.path.abspath(match)
            elif is_table_folder(match):
                yield os.path.abspath(match)
            elif "**" not in source:  # ** already lists what lies below
                yield from _below(match)
    elif os.path.isdir(source):
        yield from _below(source)
    elif os.path.exists(source):
        yield os.path.abspath(source)
    else:
        raise NoSuchFileError(source, "there is no such file or folder", "Check the path")


def is_table_folder(folder: str) -> bool:
    """Whether a folder is one source: a Lance table or what `Dataset.save_to_disk` wrote."""
    return folder.rstrip("/").endswith(".lance") or is_datasets_folder(folder)


def is_datasets_folder(folder: str) -> bool:
    """Whether a folder holds *.arrow files with state.json or dataset_info.json beside them."""
    path = Path(folder)
    described = (path / "state.json").is_file() or (path / "dataset_info.json").is_file()
    return described and any(path.glob("*.arrow"))


def _below(folder: str) -> Iterator[str]:
    if is_table_folder(folder):
        yield os.path.abspath(folder)
        return
    for entry in sorted(Path(folder).iterdir(), key=lambda path: path.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _below(str(entry))
        elif is_readable_name(entry.name):
            yield os.path.abspath(entry)


def is_readable_name(name: str) -> bool:
    """Whether a file in a folder is read, by its name; one that the user names always is."""
    name = name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.endswith(NAMES)


def _remote_files(address: str) -> Iterator[str]:
    system, inside = remote_file_system(address)
    scheme = address.partition("://")[0] + "://"
    query = "?" + address.partition("?")[2] if "?" in address and scheme == "s3://" else ""
    try:
        pattern = glob.has_magic(inside)
        root = _fixed_part(inside) if pattern else inside
        info = system.get_file_info(root)
        if info.type == pafs.FileType.File:
            yield address
            return
        if info.type == pafs.FileType.NotFound:
            return
        below = system.get_file_info(pafs.FileSelector(root, recursive=True))
    except REMOTE_ERRORS as error:
        raise unreachable(address, error) from error
    for entry in sorted(below, key=lambda entry: entry.path):
        if entry.type != pafs.FileType.File:
            continue
        if pattern and not fnmatch.fnmatchcase(entry.path, inside):
            continue
        if pattern or is_readable_name(entry.base_name):
            yield scheme + entry.path + query


def _fixed_part(pattern: str) -> str:
    parts: list[str] = []
    for part in pattern.split("/"):
        if glob.has_magic(part):
            break
        parts.append(part)
    return "/".join(parts)
