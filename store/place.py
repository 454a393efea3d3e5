"""Where a store lives: a local folder or an `s3://` prefix, and the raw bytes under it.

Lance reads and writes the tables; everything else the store does to files (checksums, notes,
locks, looking for damage) goes through a Place, the same way on a disk and on an object store.
Paths are relative to the store, with forward slashes.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.fs as pafs
import xxhash

from ..schemas.errors import DamagedStoreError, ReadOnlyStoreError, StoreError
from ..schemas.plain_text import first_line
from . import underway

CHUNK_BYTES = 4 << 20

_ENVIRONMENT = {
    "aws_access_key_id": ("AWS_ACCESS_KEY_ID",),
    "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "aws_session_token": ("AWS_SESSION_TOKEN",),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "aws_endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "allow_http": ("AWS_ALLOW_HTTP",),
}


# Characters that object_store, which Lance finds files with, leaves as they are in a path.
_PLAIN = re.compile(r"[A-Za-z0-9 !$&'()+,./:;=@_-]*")

_OPENED = "/proc/self/fd"

# What a system or a server says to somebody who may not do a thing.
_REFUSED = (
    "permission denied",
    "operation not permitted",
    "read-only file system",
    "accessdenied",
    "access denied",
    "access_denied",
    "forbidden",
)

# What a system says where there is no more room.
_FULL = ("no space left", "disk quota exceeded", "file too large")

# What Lance says when a table could not be looked at, whatever its bytes are.
_OUT_OF_REACH = (
    *_REFUSED,
    "too many open files",
    "error sending request",
    "error reading a body",
    "timed out",
    "connection",
    "unreachable",
    "no route to host",
    "dns error",
    "unauthorized",
    "invalidaccesskeyid",
    "signaturedoesnotmatch",
    "expiredtoken",
    "slowdown",
    "service unavailable",
    "internal server error",
)


@dataclass(frozen=True)
class Place:
    """A store's root: `uri` as Lance takes it, and the same root as a pyarrow file system."""

    uri: str
    options: dict[str, str]
    files: Any  # pyarrow.fs.FileSystem; its stubs are incomplete
    root: str
    local: bool

    @property
    def typed(self) -> str:
        """The root as a person types it into a shell."""
        return quote(self.uri)

    def table_uri(self, table: str) -> str:
        """Where Lance finds one table."""
        return f"{self.uri}/{table}.lance"

    @contextmanager
    def plain_uri(self) -> Iterator[str]:
        """The root as Lance takes it, by a path whose characters Lance does not encode.

        Making a tag, Lance makes the folder of a second, percent-encoded path as well, which for
        `пул` is a folder `%D0%BF%D1%83%D0%BB` beside the store (and may not be allowed there). The
        kernel's name for the opened folder stands for such a root meanwhile, which needs no place
        of its own; where there is none (no Linux), a symbolic link does.
        """
        if not self.local or _PLAIN.fullmatch(self.uri):
            yield self.uri
        elif os.path.isdir(_OPENED):
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield f"{_OPENED}/{folder}"
            finally:
                os.close(folder)
        else:
            with tempfile.TemporaryDirectory(prefix="coresetdb-") as folder:
                link = f"{folder}/store"
                os.symlink(self.root, link)
                yield link

    def absolute(self, path: str) -> str:
        """The path of a file of the store, as the file system under it takes it."""
        return f"{self.root}/{path}"

    def sizes(self, folder: str) -> dict[str, int]:
        """Every file below `folder`, as path -> size in bytes; empty where there is no folder."""
        selector = pafs.FileSelector(self.absolute(folder), recursive=True, allow_not_found=True)
        start = len(self.root) + 1
        with self.reached("read"):
            found = self.files.get_file_info(selector)
        return {info.path[start:]: info.size for info in found if info.type == pafs.FileType.File}

    def names(self) -> list[str]:
        """Names of the files and folders right under the root, sorted; empty where it is absent."""
        with self.reached("read"):
            selector = pafs.FileSelector(self.root, recursive=False, allow_not_found=True)
            return sorted(info.base_name for info in self.files.get_file_info(selector))

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at `path`."""
        with self.reached("read"):
            return self.files.get_file_info(self.absolute(path)).type != pafs.FileType.NotFound

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        with self.reached("read"), self.files.open_input_stream(self.absolute(path)) as stream:
            return stream.read()

    def write(self, path: str, data: bytes) -> None:
        """Put a file there whole or not at all: a reader never sees half of it."""
        target = self.absolute(path)
        with self.reached("written"):
            if not self.local:
                with self.files.open_output_stream(target) as stream:
                    stream.write(data)
                return
            os.makedirs(os.path.dirname(target), exist_ok=True)
            part = f"{target}.{uuid.uuid4().hex}.part"
            Path(part).write_bytes(data)
            try:
                os.replace(part, target)
            except FileNotFoundError:  # a cleaning took it for one that a killed process left
                Path(part).write_bytes(data)
                os.replace(part, target)

    def make_folder(self, path: str) -> None:
        """Make a folder if there is none; an object store needs none."""
        if self.local:
            with self.reached("written"):
                os.makedirs(self.absolute(path), exist_ok=True)

    def delete(self, path: str) -> None:
        """Remove a file; one that is gone already is no error."""
        if self.exists(path):
            try:
                with self.reached("written"):
                    self.files.delete_file(self.absolute(path))
            except FileNotFoundError:  # another process was quicker
                return

    def remove_empty(self, folder: str) -> None:
        """Remove a folder that nothing is in; an object store has none."""
        if self.local:
            with suppress(OSError):  # something is in it, or it is gone
                os.rmdir(self.absolute(folder))

    def checksum(self, path: str) -> tuple[int, str]:
        """Size in bytes and xxh3 (64 bits, 16 hexadecimal digits) of a file, streamed."""
        size, hasher = 0, xxhash.xxh3_64()
        with self.reached("read"), self.files.open_input_stream(self.absolute(path)) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                hasher.update(chunk)
        return size, hasher.hexdigest()

    def require_writable(self) -> None:
        """Make sure, before long work, that a result can be kept; an object store is not asked.

        Raises:
            ReadOnlyStoreError: it may be read only.
        """
        if self.local and os.path.isdir(self.root):
            with self.reached("written"):
                if not os.access(self.root, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.root)

    @contextmanager
    def reached(self, done: str) -> Iterator[None]:
        """Turn what the system says of a disk or a server into a sentence.

        Raises:
            StoreError: the store cannot be `done` ("read", "written"...); a file that is not there
                stays a FileNotFoundError.
            ReadOnlyStoreError: it can be read and not written.
        """
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except OSError as error:
            kind = StoreError
            if done == "written" and disk_full(str(error)):
                raise StoreError(
                    f"{self.uri}: the disk is full ({first_line(error)}). Make room and run it "
                    "again; what was committed is kept"
                ) from error
            if done == "written" and writing_refused(str(error)):
                kind = ReadOnlyStoreError
            reason = f"{error.strerror}: {error.filename}" if error.filename else first_line(error)
            raise kind(
                f"{self.uri}: cannot be {done}: {reason}. "
                "Check that it can be reached and that you may use it"
            ) from error

    def sync(self, paths: Iterable[str]) -> None:
        """Force files and the directories that name them onto the disk (local stores only).

        Files that are gone again (compacted away meanwhile) are passed over.
        """
        if not self.local:
            return
        folders = {self.root, os.path.dirname(self.root)}
        for path in paths:
            target = self.absolute(path)
            folder = os.path.dirname(target)
            while len(folder) > len(self.root):
                folders.add(folder)
                folder = os.path.dirname(folder)
            if os.path.exists(target):
                _fsync(target)
        for folder in folders:
            if os.path.isdir(folder):
                _fsync(folder)


def place_at(
    uri: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None
) -> Place:
    """The place a path or an `s3://` address names.

    Options go to Lance as they are; what they leave open is taken from the AWS environment
    variables (keys, region, AWS_ENDPOINT_URL; an `http://` endpoint allows plain HTTP).

    Raises:
        StoreError: the address has a scheme the store cannot live on, or S3 cannot be set up, or
            the machine's clock stands before 1970.
    """
    if time.time() < 0:  # Lance and the tables count from there
        raise StoreError(
            "the clock of this machine stands before 1970, which no store can record. Set it, and "
            "run this again"
        )
    uri = os.fspath(uri)
    place = _place_at(uri, dict(storage_options or {}))
    underway.look(place)
    return place


def _place_at(uri: str, options: dict[str, str]) -> Place:
    address = urlparse(uri)
    if address.scheme == "s3":
        return _s3(uri.rstrip("/"), options)
    if address.scheme not in ("", "file") and len(address.scheme) > 1:
        raise StoreError(f"{uri}: a store lives in a local folder or under s3://")
    path = unquote(address.path) if address.scheme == "file" else os.path.expanduser(uri)
    root = os.path.abspath(path)
    return Place(root, options, pafs.LocalFileSystem(), root, local=True)


def _s3(uri: str, given: dict[str, str]) -> Place:
    if special := sorted(set(uri) & set("%?#")):
        raise StoreError(
            f"{uri}: the address of a store on S3 may not have {' or '.join(special)} in it, which "
            "Lance and others read differently. Choose another name"
        )
    options = {
        key: value
        for key, names in _ENVIRONMENT.items()
        if (value := next((os.environ[name] for name in names if os.environ.get(name)), None))
    } | {key.lower(): value for key, value in given.items()}
    endpoint = options.get("aws_endpoint")
    if endpoint:  # anything but AWS itself: path-style addresses
        options.setdefault("aws_virtual_hosted_style_request", "false")
        if endpoint.startswith("http://"):
            options.setdefault("allow_http", "true")
        options.setdefault("aws_region", "us-east-1")
    arguments: dict[str, Any] = {
        "access_key": options.get("aws_access_key_id"),
        "secret_key": options.get("aws_secret_access_key"),
        "session_token": options.get("aws_session_token"),
        "region": options.get("aws_region"),
        "endpoint_override": endpoint,
    }
    try:
        files = pafs.S3FileSystem(**{key: value for key, value in arguments.items() if value})
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{uri}: S3 cannot be used: {first_line(error)}. "
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        ) from error
    return Place(uri, options, files, uri.removeprefix("s3://"), local=False)


def put_tag(place: Place, table: str, name: str, version: int) -> None:
    """Let a name stand for a version of a table, whether it was given before or not.

    Raises:
        ValueError: there is no such version.
        StoreError: the disk is full, or the place cannot be written.
    """
    import lance

    with place.reached("written"), place.plain_uri() as root:
        tags = lance.dataset(
            f"{root}/{table}.lance", version=version, storage_options=place.options
        ).tags
        if name in tags.list():
            tags.update(name, version)
        else:
            tags.create(name, version)


def unopened(
    place: Place, table: str, error: BaseException, failed: str = "does not open"
) -> StoreError:
    """What it means that Lance could not open or read a table: it is out of reach, or damaged."""
    reason = first_line(error)
    if out_of_reach(str(error)):
        return StoreError(
            f"{place.uri}: the table {table} cannot be reached: {reason}. "
            "Check that it can be reached and that you may use it"
        )
    return DamagedStoreError(
        f"{place.uri}: the table {table} {failed} ({reason}). "
        f"Run `coresetdb verify {place.typed} --repair`"
    )


def out_of_reach(said: str) -> bool:
    """Whether what Lance said is about the way to a table, not about its bytes."""
    return any(words in said.lower() for words in _OUT_OF_REACH)


def writing_refused(said: str) -> bool:
    """Whether what was said on writing means that one may not write there at all."""
    return any(words in said.lower() for words in _REFUSED)


def disk_full(said: str) -> bool:
    """Whether what was said on writing means that there is no more room."""
    return any(words in said.lower() for words in _FULL)


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
