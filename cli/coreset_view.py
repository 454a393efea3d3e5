"""A coreset's facts for a person, a line for each, and where its rows come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .frame import table

if TYPE_CHECKING:
    from ..query.coresets import Coreset


def lines(coreset: Coreset) -> list[str]:
    """Name and size, how it was made, its distances, its corpora, what its rules did."""
    asked = f" for {', '.join(coreset.targets)}" if coreset.targets else ""
    shown = [f"Coreset {coreset.name}: {len(coreset):,} rows by {coreset.method}{asked}", ""]
    named = list(_facts(coreset))
    room = max(len(name) for name, _ in named)
    shown += [f"  {name.ljust(room)}  {value}" for name, value in named]
    if coreset.mix and len(coreset):
        shown += ["", table(_corpora(coreset))]
    return [*shown, *([""] if coreset.notes else []), *coreset.notes]


def _facts(coreset: Coreset) -> Iterator[tuple[str, str]]:
    """What was asked, what it was asked of, and what came out, in words."""
    parameters = coreset.parameters
    yield "created", f"{coreset.created_at:%Y-%m-%d %H:%M} UTC, by {parameters['code_version']}"
    yield "pool", f"version {coreset.pool_version}, {coreset.eligible:,} rows eligible"
    if coreset.filter:
        yield "filter", coreset.filter
    yield from _rules(parameters.get("rules", {}).get("asked", {}))
    yield "budget", _budget(coreset)
    options = parameters["options"] | parameters["asked"]
    if options:
        yield "options", ", ".join(f"{name}={value}" for name, value in options.items())
    if found := parameters.get("approximate"):
        yield "found by", f"index {found['index']}, with a recall of {found['recall']:.1%}"
    yield "seed", str(coreset.seed)
    if coreset.fingerprint:
        yield "feature", f"{parameters['representation']}, recipe {coreset.fingerprint}"
    if parameters["missing"]:
        yield "left out", f"{parameters['missing']:,} eligible rows that lack the feature"
    if coreset.distance is not None:
        yield "distance", f"{coreset.distance:.4f}, mean over the examples of 1 - nearest cosine"
    if coreset.mmd is not None:
        yield "MMD", f"{coreset.mmd:.4f}, between the examples and the rows, by the cosine"


def _rules(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rules as they were asked for, those that ask for nothing left out."""
    for name, value in asked.items():
        named = [_named(each) for each in value] if isinstance(value, list) else [_named(value)]
        if value not in (None, []):
            yield name.replace("_", " "), ", ".join(named)


def _named(value: Any) -> str:
    """An evaluation by its name and a coreset by its own, with their sizes."""
    if not isinstance(value, dict):
        return str(value)
    name = value.get("name") or value.get("coreset")
    counted = [f"{value[what]:,} {what}" for what in ("examples", "rows") if what in value]
    return f"{name} ({', '.join(counted)})" if counted else str(name)


def _budget(coreset: Coreset) -> str:
    used = coreset.parameters["tokens"]
    said = coreset.budget if used is None else f"{coreset.budget}, of which {used:,} are used"
    if not coreset.short_by:
        return said
    unit = "tokens" if used is not None else "rows"
    return f"{said}; short by {coreset.short_by:,} {unit}, because the eligible rows ran out"


def _corpora(coreset: Coreset) -> list[dict[str, object]]:
    total = sum(share.pool for share in coreset.mix)
    return [
        {
            "corpus": share.corpus,
            "picked": share.picked,
            "of the picks": f"{share.picked / len(coreset):.1%}",
            "in the pool": share.pool,
            "of the pool": f"{share.pool / total:.1%}",
        }
        for share in coreset.mix
        if share.picked
    ]
