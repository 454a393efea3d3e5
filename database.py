"""The Python face: a store and everything one does with it.

The command line is a thin skin over this class; each method names the room that does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .exploring import Exploring
from .schemas.memory import memory_bytes
from .store.store import Store
from .upkeep import repair_store, verify_store

if TYPE_CHECKING:
    from .query.carry import CarriedTarget
    from .query.coresets import Coreset
    from .query.export.export import Exported
    from .query.indexing import Indexed
    from .query.replay import Replay
    from .query.targets import Target
    from .store.indices import VectorIndex
    from .store.maintenance import Compacted
    from .store.status import Status

__all__ = ["Database", "repair_store", "verify_store"]


class Database(Exploring):
    """An open store. Make one with `coresetdb.connect` or `coresetdb.create`."""

    def __repr__(self) -> str:
        return f"<coresetdb.Database {self.store.uri}>"

    @classmethod
    def create(
        cls,
        uri: str,
        *,
        backbone: str = "builtin",
        features: str = "rds,losses",
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> Database:
        """Create an empty store.

        Args:
            uri: a folder or an `s3://` address.
            backbone: `builtin`, a Hugging Face name, or the folder of a causal language model.
            features: comma-separated representations, such as `rds,losses`, or the presets
                `fast` and `paper`.
            device: auto, cpu, cuda or mps.
            dtype: auto, float32 or bfloat16; of the computation, not of what is stored.
            max_length: tokens of a row, at most the model's positions.

        Raises:
            UsageError: an unknown feature, or something already stands at `uri`.
            BackboneError: the backbone cannot be found or is no causal language model.
        """
        from .ingest.create import create_store
        from .ingest.models.describe import BackboneConfig

        config = BackboneConfig(backbone, device, dtype, max_length)
        return cls(*create_store(uri, config, features, storage_options))

    @classmethod
    def open(cls, uri: str, *, storage_options: dict[str, str] | None = None) -> Database:
        """Open an existing store; see `coresetdb.connect`."""
        return cls(Store.open(uri, storage_options))

    def targets(self) -> list[Target]:
        """The targets, by name."""
        from .query.targets import list_targets

        return list_targets(self.store)

    def copy_target(
        self, name: str, other: Database | str, new_name: str | None = None
    ) -> CarriedTarget:
        """Copy a target with its features and facts into another store; no model runs.

        Args:
            name: of the target.
            other: a store, or where it lies (with this store's storage options).
            new_name: of the copy; the same name otherwise.

        Raises:
            UsageError: there is no such target, or the other store has one of that name.
            FingerprintError: the stores make no feature the same way; names the differences.
        """
        from .query.carry import copy_target

        if isinstance(other, str):
            other = Database.open(other, storage_options=self.store.place.options or None)
        return copy_target(self.store, name, other.store, new_name)

    def remove_target(self, name: str) -> Target:
        """Remove a target, and return what it was; coresets chosen for it stay."""
        from .query.targets import remove_target

        return remove_target(self.store, name)

    def select(
        self,
        *targets: str | None,
        method: str = "rds:round_robin",
        budget: str | int = 1000,
        where: str | None = None,
        seed: int = 0,
        name: str | None = None,
        memory_limit: str | int = "4GiB",
        approximate: bool = False,
        **rules: Any,
    ) -> Coreset:
        """Choose rows for the targets (they share the budget in turns) and keep the choice.

        Args:
            targets: names of targets; none (or None) for methods that need none.
            method: `representation:selector(option=value,...)`, a representation's name, or
                `random`; options are the selector's or those of the comparison.
            budget: rows, `"5%"` of the eligible rows, or `"200k-tokens"` of responses.
            where: an SQL expression over the pool's columns, metadata fields included.
            seed: of methods that draw at random.
            name: of the coreset; made up otherwise.
            memory_limit: what the selection may plan for, such as `"8GiB"` or a number of bytes.
            approximate: whether the feature's index finds the rows (see `index`); every row is
                compared otherwise.
            rules: what shapes the selection beside its method, as `query.rules.asking.rules_for`
                takes it: leakage, evaluation, exclude, quota, cap, distinct, distinct_by.

        Raises:
            UsageError: an unknown target or method, a malformed budget, a name that is taken, too
                much memory planned.
            MissingFeatureError: the store lacks what the method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: `where` is no expression DuckDB accepts.
        """
        from .query.rules.asking import RULES, rules_for
        from .query.selection import select

        for unknown in rules.keys() - RULES:
            raise TypeError(f"select() got an unexpected keyword argument {unknown!r}")
        return select(
            self.store,
            [each for each in targets if each is not None],
            method=method,
            budget=str(budget),
            where=where,
            seed=seed,
            name=name,
            memory_limit=memory_bytes(memory_limit),
            approximate=approximate,
            rules=rules_for(self.store, **rules),
        )

    def coreset(self, name: str) -> Coreset:
        """A coreset chosen earlier."""
        from .query.coresets import load_coreset

        return load_coreset(self.store, name)

    def coresets(self) -> list[str]:
        """Names of all coresets."""
        from .query.coresets import coreset_names

        return coreset_names(self.store)

    def replay(self, name: str, *, memory_limit: str | int = "4GiB") -> Replay:
        """Select again exactly as a coreset was selected, and compare the ids."""
        from .query.replay import replay

        return replay(self.store, name, memory_bytes(memory_limit))

    def remove_coreset(self, name: str) -> None:
        """Forget a coreset; the pool keeps its rows."""
        from .query.coresets import remove_coreset

        remove_coreset(self.store, name)

    def export(
        self,
        coreset: str | Coreset,
        out: str,
        *,
        format: str = "messages",
        shuffle: bool = True,
        seed: int | None = None,
        skip_unfit: bool = False,
        overwrite: bool = False,
    ) -> Exported:
        """Write a coreset as JSON Lines or Parquet, with a manifest and trainer snippets beside it.

        Raises:
            UsageError: an unknown coreset or format, rows that the format cannot hold, or a file
                of that name that no export wrote (and not `overwrite`).
        """
        from .query.export.export import export

        return export(
            self.store,
            coreset,
            out,
            format,
            shuffle=shuffle,
            seed=seed,
            skip_unfit=skip_unfit,
            overwrite=overwrite,
        )

    def check_export(self, out: str, format: str = "messages", *, overwrite: bool = False) -> None:
        """Refuse an export that cannot be written, before rows are chosen for it.

        Raises:
            UsageError: unknown format or suffix, no such folder, or a file of that name that no
                export wrote (and not `overwrite`).
        """
        from .query.export.export import check_export

        check_export(out, format, overwrite)

    def index(self, feature: str) -> Indexed:
        """Index a feature for `select(approximate=True)`, or take in rows that came since.

        Raises:
            UsageError: the feature has no vectors.
            MissingFeatureError: there is no such feature, or no row has it.
        """
        from .query.indexing import index_feature

        return index_feature(self.store, feature)

    def indices(self) -> list[VectorIndex]:
        """The indices of the pool, by column."""
        from .store.indices import indices_of

        return list(indices_of(self.store.dataset("pool")).values())

    def drop_index(self, feature: str) -> VectorIndex:
        """Remove the index of a feature, and return what it was."""
        from .query.indexing import drop_index

        return drop_index(self.store, feature)

    def status(self) -> Status:
        """What the store holds, what it waits for, and whether what was learned still suits it."""
        from .ingest.fits.fitness import status

        return status(self.store)

    def compact(self, keep_hours: float = 24.0) -> Compacted:
        """Merge small fragments, then drop versions older than `keep_hours` and leftover files.

        Versions that coresets were chosen from stay.

        Raises:
            StoreBusyError: another process is writing.
        """
        from .store.maintenance import compact_and_clean

        return compact_and_clean(self.store, keep_hours)
