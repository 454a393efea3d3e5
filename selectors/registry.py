"""The selectors by name: the built-in ones and those of installed packages.

A package adds a selector by an entry point in the group `coresetdb.selectors` whose value is a
`Selector` (docs/selectors.md).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from ..schemas.errors import UsageError
from .selector import Selector

GROUP = "coresetdb.selectors"

_BUILT_IN = (
    "bm25",
    "coverage",
    "deita_filter",
    "dsir",
    "facility_location",
    "k_center",
    "knn_kde",
    "knn_uniform",
    "length_matched",
    "random_order",
    "round_robin",
    "source_balanced",
    "top",
    "uot",
)


@cache
def selectors() -> dict[str, Selector]:
    """Every selector by name.

    Raises:
        UsageError: an installed package uses a taken name, or its entry point is no Selector.
    """
    known: dict[str, Selector] = {}
    for module in _BUILT_IN:
        selector = import_module(f".{module}", __package__).SELECTOR
        known[selector.name] = selector
    for point in entry_points(group=GROUP):
        selector = point.load()
        if not isinstance(selector, Selector):
            raise UsageError(f"entry point {point.name} of {GROUP} is no Selector: {point.value}")
        if selector.name in known and known[selector.name] is not selector:
            raise UsageError(f"entry point {point.value}: a selector {selector.name!r} exists")
        known[selector.name] = selector
    return known
