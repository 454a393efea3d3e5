"""Names of annotations and of vectors made elsewhere: they stand in methods, SQL and shells."""

from __future__ import annotations

import re

from ...schemas.errors import UsageError
from ...store.features import features_of
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
