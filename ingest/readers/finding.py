"""From what a user names to the files to read: paths, globs, folders, addresses, standard input.

A folder stands for the readable files below it (by name, sorted); a `.lance` table and a
Hugging Face `datasets` folder are one source each.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.fs as pafs

from ...schemas.errors import InputError, NoSuchFileError
from .location import REMOTE_ERRORS, STDIN, is_local_glob, is_remote, remote, unreachable

NAMES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".zst")


def find_files(sources: Sequence[str]) -> list[str]:
    """The files that `sources` stand for, each once, in the order named (folders and globs sorted).

    Raises:
        NoSuchFileError: a source matches nothing.
        InputError: the name of a file cannot be written in UTF-8.
    """
    found: dict[str, None] = {}
    for source in sources:
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
    """Whether a folder's file is taken by its name (one named outright is taken in any case)."""
    name = name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.endswith(NAMES)


def _remote_files(address: str) -> Iterator[str]:
    system, inside = remote(address)
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
