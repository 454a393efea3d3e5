"""The half of the Python face that puts features into a store: planning, fitting, making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .store.store import Store

if TYPE_CHECKING:
    from .ingest.featurizer import Featurizer
    from .ingest.jobs.account import Account
    from .ingest.jobs.late_account import LateAccount
    from .ingest.jobs.progress import FillProgress, FitProgress
    from .ingest.models.backbone import Backbone
    from .ingest.planning.planned import Plan
    from .ingest.reading.read_options import ReadOptions
    from .query.targets import AddedTarget
    from .schemas.recipe import Recipe


class Intake:
    """An open store with the backbone that makes its features, loaded when it is needed."""

    def __init__(self, store: Store, notices: Sequence[str] = ()) -> None:
        self.store = store
        self.notices = tuple(notices)

    @cached_property
    def _backbone(self) -> Backbone:
        from .ingest.create import load_backbone

        return load_backbone(self.store)

    @cached_property
    def _featurizer(self) -> Featurizer:
        from .ingest.create import featurizer_for, recipes_of

        return featurizer_for(self.store, self._backbone, recipes_of(self.store))

    def pending(self) -> list[str]:
        """Features that the first `ingest`, or `fit`, must fit first, as `create` takes them."""
        from .ingest.create import pending
        from .ingest.representations.registry import written

        return [written(each) for each in pending(self.store)]

    def fit(
        self,
        sources: str | Sequence[str],
        *,
        limit: int | None = None,
        progress: FitProgress | None = None,
        **reading: Any,
    ) -> list[Recipe]:
        """Learn from a sample of files what the store's features need; nothing is ingested.

        Args:
            sources, limit, reading: as `ingest` takes them.
            progress: is told what is learned, and how it goes.

        Returns:
            The recipes of the features that could not be made before.

        Raises:
            InputError, FingerprintError: as `ingest`.
            UsageError: there is no usable record, or there are too few to learn from.
        """
        from .ingest.fits.first_fit import fit_from, looked_at

        with looked_at(self.store, sources, _reading(**reading), progress) as looked:
            return fit_from(self.store, looked, lambda: self._backbone, limit, progress)

    def plan(
        self,
        sources: str | Sequence[str],
        *,
        features: str | None = None,
        progress: FitProgress | None = None,
        **reading: Any,
    ) -> Plan:
        """Tell what ingesting files would cost: bytes, passes, fits and time; nothing is changed.

        Args:
            sources, reading: as `ingest` takes them.
            features: others than the store's own, as `create` takes them.
            progress: is told what happens.

        Raises:
            InputError: as `ingest`.
            UsageError: an unknown feature, or nothing in the files is new.
        """
        from .ingest.planning.plan import plan
        from .ingest.reading.looking import look_at

        looked = look_at([sources] if isinstance(sources, str) else sources, _reading(**reading))
        return plan(self.store, looked, lambda: self._backbone, features, progress)

    def _current_featurizer(self) -> Featurizer:
        """The featurizer of the features the store has now; somebody may have added one."""
        made = {recipe.fingerprint for recipe in self._featurizer.recipes}
        if made != {recipe.fingerprint for recipe in self.store.recipes().values()}:
            del self._featurizer
        return self._featurizer

    def ingest(
        self,
        sources: str | Sequence[str],
        *,
        corpus: str | None = None,
        limit: int | None = None,
        progress: FitProgress | None = None,
        command: str = "connect().ingest",
        **reading: Any,
    ) -> Account:
        """Read files into the pool; what the pool already has is skipped.

        Features that must be fitted first are, from a sample of the same files, which are then
        read twice.

        Args:
            sources: files, folders, globs, `hf://` or `s3://` addresses, `-` for stdin.
            corpus: name of the corpus; each file's own name otherwise.
            limit: read no more than this many records.
            progress: is told what happens.
            reading: fields of `ReadOptions` (format, mapping, encoding, explanation, unescape).

        Returns:
            The account of every record; what it counts as new is on disk.

        Raises:
            InputError: nothing is found, or a file's shape is unknown or ambiguous.
            UsageError: a feature cannot be fitted from these files; nothing was ingested.
            FingerprintError: the backbone is no longer the one that made the store's features.
        """
        from .ingest.fits.first_fit import fit_from, looked_at
        from .ingest.jobs.job import ingest

        options = _reading(corpus=corpus, **reading)
        with looked_at(self.store, sources, options, progress) as looked:
            fit_from(self.store, looked, lambda: self._backbone, limit, progress)
            return ingest(
                self.store,
                looked.sources(),
                self._current_featurizer,
                limit=limit,
                bytes_total=looked.bytes,
                unreadable=looked.unreadable,
                progress=progress,
                command=command,
            )

    def add_target(self, name: str, file: str, **reading: Any) -> AddedTarget:
        """Featurize a target's examples and keep them; afterwards no model is needed for it.

        What a representation makes of the target as a whole is kept as well.

        Raises:
            UsageError: the name is taken or malformed.
            InputError: the file cannot be read.
        """
        from .query.targets import add_target

        options = _reading(allow_empty_answer=True, **reading)
        added = add_target(self.store, name, file, options, self._current_featurizer)
        waiting = tuple(
            f"{each} is not fitted yet; after the first ingestion run: "
            f"coresetdb featurize {self.store.typed} {each}"
            for each in self.pending()
        )
        return replace(added, notes=added.notes + waiting)

    def featurize(
        self,
        features: str = "",
        *,
        progress: FillProgress | None = None,
        command: str = "connect().featurize",
    ) -> LateAccount:
        """Add features to rows and target examples that are there already, or go on adding.

        Readers and ingestions go on meanwhile; what was interrupted resumes when called again.

        Args:
            features: as for `create`, or names of the store's own; all of these when empty.
            progress: is told what happens.
            command: kept in the table `runs`.

        Raises:
            UsageError: an unknown feature or option.
            StoreBusyError: another process is featurizing this store, or maintains it.
            FingerprintError: the backbone is no longer the one that made the store's features.
        """
        from .ingest.jobs.late import featurize

        return featurize(self.store, features, progress=progress, command=command)

    def drop_feature(self, name: str, *, force: bool = False) -> Recipe | None:
        """Remove a feature from pool and targets, and return what it was.

        A feature that waits to be fitted is no longer waited for; that gives None.

        Raises:
            UsageError: there is no such feature, or coresets were made with it (and not `force`).
            StoreBusyError: somebody is writing.
        """
        from .ingest.create import drop_feature

        return drop_feature(self.store, name, force)


def _reading(*, mapping: Mapping[str, str] | None = None, **options: Any) -> ReadOptions:
    from .ingest.reading.read_options import ReadOptions

    return ReadOptions(mapping=dict(mapping or {}), **options)
