"""Names of annotations and of vectors made elsewhere: they stand in methods, SQL and shells."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...schemas.errors import UsageError
from ...schemas.recipe import Recipe
from ...store.features import TABLES, features_of, left_over
from ...store.store import Store
from ..representations import registry

_FORM = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SECOND_RECIPE = re.compile(r".*__[0-9a-f]{8}")


def check_attached_name(store: Store, name: str, what: str) -> str:
    """The name, if it can be given to something new.

    Args:
        what: it is to name: "annotation" or "vectors".

    Raises:
        UsageError: it is malformed, or stands for something else.
    """
    if not _FORM.fullmatch(name) or _SECOND_RECIPE.fullmatch(name):
        raise UsageError(
            f"{what} {name!r}: a name begins with a letter and has letters, digits and "
            "underscores, at most 64"
        )
    of_methods = {*registry.names(), *registry.ALIASES, *registry.PRESETS}
    if name.lower() in of_methods:
        raise UsageError(f"{what} {name!r}: a method has this name. Choose another")
    for other, recipe in features_of(store).items():
        if other.lower() == name.lower():
            kind = "annotation" if recipe.representation == "annotation" else "feature"
            raise UsageError(
                f"{what} {name!r}: {store.uri} has the {kind} {other}. Choose another name"
            )
    return name


def check_free_columns(store: Store, columns: Sequence[str], advice: str) -> None:
    """Refuse columns that the pool or the targets have, whatever the case of their letters.

    Raises:
        UsageError: names one of them, and ends with the advice.
    """
    for table in reversed(TABLES):
        taken = {column.casefold(): column for column in store.dataset(table).schema.names}
        left = {column.casefold() for column in left_over(store, table)}
        for column in columns:
            if column.casefold() in taken.keys() - left:
                where = "the pool" if table == "pool" else f"the table {table}"
                raise UsageError(
                    f"{where} of {store.uri} has a column {taken[column.casefold()]!r}. {advice}"
                )


def notes_on_names(store: Store, recipe: Recipe) -> tuple[str, ...]:
    """What a user should know of the names of new columns."""
    runs = store.dataset("runs").to_table(columns=["metadata_keys"])["metadata_keys"]
    keys = {key for of_run in runs.to_pylist() for key in of_run or ()}
    return tuple(
        f"SQL reaches the metadata field {column} as meta_{column} from now on"
        for column in recipe.columns
        if column in keys
    )
