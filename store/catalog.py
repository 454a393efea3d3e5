"""Recipes and artifacts: how the features of a store are made, and what was fitted for them.

An artifact (a basis, an adapter, an ensemble, facts about a target) is arrays and JSON facts,
packed as safetensors (never pickle) and kept in the table `artifacts` under its bytes' digest. The
result of a fit is found by a small reference, from the digest of everything the fit depends on to
that of the content. The first reference wins, so two processes that fit the same thing at once end
up with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.canonical import DIGEST_BYTES, canonical_json, digest_of
from ..schemas.errors import DamagedStoreError
from ..schemas.recipe import Recipe
from ..schemas.tables import ARTIFACTS, RECIPES
from ..schemas.version import VERSION
from .layout import RECIPE_PREFIX
from .rows import key_of

if TYPE_CHECKING:
    import lance

    from .store import Store

_FACTS = "facts"


@dataclass(frozen=True, eq=False)
class Artifact:
    """Named arrays with JSON facts about them; never changed, so it can be a key of caches."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The same artifact always gives the same bytes."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        return save(arrays, {_FACTS: canonical_json(dict(self.facts))})

    @classmethod
    def unpack(cls, data: bytes) -> Artifact:
        """What `pack` made.

        Raises:
            DamagedStoreError: the bytes are something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays, facts = load(data), _facts(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise DamagedStoreError(
                f"an artifact of the store cannot be read ({error}). Run `coresetdb verify --full`"
            ) from error
        return cls(arrays, facts)


def keep_artifact(store: Store, fit_digest: str, name: str, artifact: Artifact) -> str:
    """Keep what a fit found.

    Args:
        fit_digest: digest of everything the fit depends on.
        name: of this part of it.

    Returns:
        The digest of the artifact that stands for the fit from now on: the first one committed.
    """
    data = artifact.pack()
    content = content_of(data)
    put_artifact(store, content, name, data)
    return put_artifact(store, fit_digest, name, content.encode()).decode()


def find_artifact(store: Store, fit_digest: str, name: str) -> str | None:
    """The digest of what such a fit found earlier, or None."""
    reference = artifact(store, fit_digest, name)
    return None if reference is None else reference.decode()


def load_artifact(store: Store, content: str, name: str) -> Artifact:
    """The artifact with that digest.

    Raises:
        DamagedStoreError: it is gone, or its bytes changed.
    """
    data = artifact(store, content, name)
    if data is None or content_of(data) != content:
        what = "is gone" if data is None else "is not what was kept"
        raise DamagedStoreError(
            f"{store.uri}: the artifact {name!r} ({content}) {what}. Run `coresetdb verify --full`"
        )
    return Artifact.unpack(data)


def facts_of(store: Store, content: str, name: str) -> Mapping[str, Any]:
    """The facts of an artifact, without its arrays; none where it is gone or damaged."""
    data = artifact(store, content, name)
    try:
        return _facts(data) if data else {}
    except (ValueError, KeyError):
        return {}  # status goes on; `verify --full` says what is wrong


def artifacts_of(store: Store, recipe: Recipe) -> dict[str, Artifact]:
    """Everything fitted that a recipe depends on, by name."""
    return {name: load_artifact(store, content, name) for name, content in recipe.artifacts.items()}


class LazyArtifacts(Mapping[str, Artifact]):
    """The same, each loaded when it is first looked at: a query may need few of them.

    Args:
        references: name -> digest.
        others: that need no loading, by name.
    """

    def __init__(
        self,
        store: Store,
        references: Mapping[str, str],
        others: Mapping[str, Artifact] | None = None,
    ) -> None:
        self._store, self._references = store, references
        self._loaded: dict[str, Artifact] = dict(others or {})
        self._names = tuple({**references, **self._loaded})

    def __getitem__(self, name: str) -> Artifact:
        if name not in self._loaded:
            self._loaded[name] = load_artifact(self._store, self._references[name], name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def target_artifact_name(ids: Sequence[str]) -> str:
    """The name under which what a target amounts to, with these examples in this order, is kept."""
    return f"target:{digest_of(list(ids))}"


def content_of(data: bytes) -> str:
    """The digest that a packed artifact is kept under."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _facts(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"][_FACTS])


def recipes(store: Store) -> dict[str, Recipe]:
    """Pool column -> the recipe that fills it."""
    kept = [as_recipe(row) for row in store.dataset("recipes").to_table().to_pylist()]
    return {column: recipe for recipe in kept for column in recipe.columns}


def recipe_of(store: Store, fingerprint: str) -> Recipe | None:
    """The recipe of that fingerprint, or None where the store has none."""
    rows = store.dataset("recipes").to_table().to_pylist()
    return next((as_recipe(row) for row in rows if row["fingerprint"] == fingerprint), None)


def put_recipe(store: Store, recipe: Recipe) -> None:
    """Keep a recipe in its table and, for repair, in the pool's schema metadata."""
    row = _row(recipe)
    store.upsert("recipes", pa.Table.from_pylist([row], schema=RECIPES))
    name = RECIPE_PREFIX + recipe.fingerprint
    row["created_at"] = row["created_at"].isoformat()
    text = canonical_json(row)

    def remember(pool: lance.LanceDataset) -> None:
        if (pool.schema.metadata or {}).get(name.encode()) is None:
            pool.update_schema_metadata({name: text})

    store.change("pool", "noting a recipe", remember)


def recipes_in(metadata: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """Rows of the table `recipes` as their copies in the pool's schema metadata have them."""
    found = []
    for key, value in metadata.items():
        if key.decode().startswith(RECIPE_PREFIX):
            row = json.loads(value)
            row["created_at"] = datetime.fromisoformat(row["created_at"])
            found.append(row)
    return found


def put_artifact(store: Store, fingerprint: str, name: str, data: bytes) -> bytes:
    """Keep a blob; whoever committed first wins, and everybody gets that one back."""
    row = {
        "key": key_of(fingerprint, name),
        "fingerprint": fingerprint,
        "name": name,
        "bytes": data,
    }
    store.insert("artifacts", pa.Table.from_pylist([row], schema=ARTIFACTS))
    kept = artifact(store, fingerprint, name)
    return data if kept is None else kept


def artifact(store: Store, fingerprint: str, name: str) -> bytes | None:
    """The blob kept under (fingerprint, name), or None."""
    rows = store.dataset("artifacts").to_table(
        columns=["bytes"], filter=f"key = '{key_of(fingerprint, name)}'"
    )
    return rows["bytes"][0].as_py() if rows.num_rows else None


def _row(recipe: Recipe) -> dict[str, Any]:
    return {
        "fingerprint": recipe.fingerprint,
        "representation": recipe.representation,
        "version": recipe.version,
        "options": canonical_json(recipe.options),
        "backbone": canonical_json(recipe.backbone),
        "columns": list(recipe.columns),
        "stored_dtype": recipe.stored_dtype,
        "artifacts": canonical_json(recipe.artifacts),
        "code_version": VERSION,
        "created_at": datetime.now(UTC),
    }


def as_recipe(row: dict[str, Any]) -> Recipe:
    """A row of the table `recipes` as what it stands for."""
    return Recipe(
        representation=row["representation"],
        version=row["version"],
        options=json.loads(row["options"]),
        backbone=json.loads(row["backbone"]),
        columns=tuple(row["columns"]),
        stored_dtype=row["stored_dtype"],
        artifacts=json.loads(row["artifacts"]),
    )
