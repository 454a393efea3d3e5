"""A look at every file before the first is ingested, so that a question comes before the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...schemas.errors import AmbiguousFormatError, InputError
from ..jobs.progress import Progress, Silence
from ..readers.location import STDIN, can_be_read_again, copy_of
from .records import ReadOptions, SourceFile, find_files, open_source


@dataclass(frozen=True)
class Looked:
    """Files that can be read, and why others cannot.

    Attributes:
        paths: readable files, in order.
        bytes: of all of them; None where a size is not known.
        unreadable: what is wrong with the others.
        held: sources that cannot be opened twice (standard input, pipes), by path.
        copies: where the bytes of such sources lie instead, if they were copied.
    """

    paths: list[str]
    options: ReadOptions
    bytes: int | None
    unreadable: list[InputError]
    held: dict[str, SourceFile]
    copies: dict[str, str] = field(default_factory=dict)

    def sources(self) -> Iterator[SourceFile]:
        """The files, each opened when its turn comes; twice, if copies were asked for."""
        for path in self.paths:
            yield self.held.get(path) or open_source(path, self.options, self.copies.get(path))


def look_at(
    named: Sequence[str],
    options: ReadOptions,
    copies: str | None = None,
    progress: Progress | None = None,
) -> Looked:
    """Find the files and open each once.

    Args:
        copies: a folder to copy sources into that can be read only once.
        progress: is told of every copy.

    Raises:
        InputError: nothing is found, or the only file cannot be read.
        AmbiguousFormatError: a file's shape is not plain; nothing has been ingested yet.
        UsageError: the options name a format, column or encoding that does not exist.
    """
    found = find_files(named)
    paths: list[str] = []
    unreadable: list[InputError] = []
    sizes: list[int | None] = []
    held: dict[str, SourceFile] = {}
    copied: dict[str, str] = {}
    for path in found:
        if copies and not can_be_read_again(path):
            what = "standard input" if path == STDIN else path
            (progress or Silence()).say(f"{what}: copied to {copies} first, to be read twice")
            copied[path] = copy_of(path, copies)
        try:
            source = open_source(path, options, copied.get(path))
        except AmbiguousFormatError:
            raise
        except InputError as error:
            if len(found) == 1:
                raise
            unreadable.append(error)
            continue
        paths.append(path)
        sizes.append(source.size)
        if source.size is None:
            held[path] = source
        else:
            source.finish()
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return Looked(paths, options, total, unreadable, held, copied)
