"""A look at every file before the first is ingested, so that a question comes before the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..schemas.errors import AmbiguousFormatError, InputError
from .reading import ReadOptions, SourceFile, find_files, open_source


@dataclass(frozen=True)
class Looked:
    """Files that can be read, and why others cannot.

    Attributes:
        paths: readable files, in order.
        bytes: of all of them; None where a size is not known.
        unreadable: what is wrong with the others.
        held: sources that cannot be opened twice (standard input, pipes), by path.
    """

    paths: list[str]
    options: ReadOptions
    bytes: int | None
    unreadable: list[InputError]
    held: dict[str, SourceFile]

    def sources(self) -> Iterator[SourceFile]:
        """The files, each opened when its turn comes."""
        for path in self.paths:
            yield self.held.get(path) or open_source(path, self.options)


def look_at(named: Sequence[str], options: ReadOptions) -> Looked:
    """Find the files and open each once.

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
    for path in found:
        try:
            source = open_source(path, options)
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
    return Looked(paths, options, total, unreadable, held)
