"""Every importer by name: the built-in ones, and those that other packages bring.

A package adds one with an entry point of group `coresetdb.importers` that loads an `Importer`.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import entry_points

from ...schemas.errors import UsageError
from .alpaca import ALPACA
from .dolly import DOLLY
from .flan import FLAN
from .kto import KTO
from .messages import MESSAGES
from .natural_instructions import NATURAL_INSTRUCTIONS
from .oasst import OASST
from .preference import PREFERENCE
from .self_instruct import SELF_INSTRUCT
from .sgd import SGD
from .sharegpt import SHAREGPT
from .squad import SQUAD
from .text import TEXT
from .pairs import PAIR_IMPORTERS
from .shape import Importer

GROUP = "coresetdb.importers"

BUILT_IN = (
    MESSAGES,
    SHAREGPT,
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    SELF_INSTRUCT,
    OASST,
    SGD,
    *PAIR_IMPORTERS,
    PREFERENCE,
    KTO,
    SQUAD,
    TEXT,
)


@cache
def importers() -> dict[str, Importer]:
    """Every importer by its name, built-in ones first.

    Raises:
        UsageError: an entry point loads something else, or takes a name that is taken.
    """
    found = {importer.name: importer for importer in BUILT_IN}
    for entry in entry_points(group=GROUP):
        importer = entry.load()
        if not isinstance(importer, Importer):
            raise UsageError(f"entry point {entry.name} of {GROUP} is no Importer: {entry.value}")
        if importer.name in found:
            raise UsageError(f"two importers are called {importer.name!r}; see {entry.value}")
        found[importer.name] = importer
    return found


def importer_named(name: str) -> Importer:
    """The importer that `--format` calls `name` (or one of its aliases).

    Raises:
        UsageError: there is none; the message names those there are.
    """
    every = importers()
    names = {alias: each for each in every.values() for alias in (each.name, *each.aliases)}
    asked = name.lower()
    if asked not in names:
        close = difflib.get_close_matches(asked, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"--format {name}: unknown{hint}; formats are {', '.join(every)}")
    return names[asked]
