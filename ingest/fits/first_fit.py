"""What a store's features need is learned before its first row: from the files about to be read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...schemas.errors import UsageError
from ...schemas.recipe import Recipe
from ...store.store import Store
from ..create import pending
from ..jobs.progress import FitProgress, Silence
from ..reading.looking import Looked, look_at
from ..reading.read_options import ReadOptions
from ..representations.registry import written
from .fit import Sample
from .fitting import settle
from .sampling import Rows, sample_of_pool, sample_of_sources

if TYPE_CHECKING:
    from ..models.backbone import Backbone


@contextmanager
def looked_at(
    store: Store,
    named: str | Sequence[str],
    options: ReadOptions,
    progress: FitProgress | None = None,
) -> Iterator[Looked]:
    """The files named, which can be read twice inside the block if something is to be fitted.

    Raises:
        InputError, AmbiguousFormatError, UsageError: as `look_at`.
    """
    files = [named] if isinstance(named, str) else list(named)
    if not pending(store):
        yield look_at(files, options)
        return
    with tempfile.TemporaryDirectory(prefix="coresetdb-") as folder:
        yield look_at(files, options, folder, progress)


def fit_from(
    store: Store,
    looked: Looked,
    backbone: Callable[[], Backbone],
    limit: int | None = None,
    progress: FitProgress | None = None,
) -> list[Recipe]:
    """Settle the features that wait for it: the sample comes from the pool, if it has rows.

    Returns:
        Their recipes; empty when nothing was waiting.

    Raises:
        UsageError: there are too few rows to learn from.
    """
    wanted = pending(store)
    if not wanted:
        return []
    said = progress or Silence()

    def draw(seed: int, rows: Rows) -> Sample:
        if store.dataset("pool").count_rows():
            said.say("the sample is drawn from the pool")
            return sample_of_pool(store, seed, rows)
        said.say("the files are read once for the sample, and again to be ingested")
        return sample_of_sources(looked.sources(), seed, rows, limit, looked.bytes, said)

    try:
        return settle(store, wanted, draw, backbone, progress)
    except UsageError as error:
        names = ", ".join(map(written, wanted))
        raise UsageError(f"{error} (needed for {names}; nothing was ingested)") from error
