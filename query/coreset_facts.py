"""What was asked for a coreset and what came of it, as named facts; the command to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import join
from typing import TYPE_CHECKING, Any

from ..schemas.plain_text import count_of

if TYPE_CHECKING:
    from .coresets import Coreset


def facts_of(coreset: Coreset) -> Iterator[tuple[str, str]]:
    """Request, pool and outcome, as a name and a text each."""
    parameters = coreset.parameters
    yield "created", f"{coreset.created_at:%Y-%m-%d %H:%M} UTC, by {parameters['code_version']}"
    if origin := parameters.get("imported"):
        again = f", {origin['repeated']:,} of them repeated" if origin["repeated"] else ""
        order = f", highest {origin['ordered_by']} first" if "ordered_by" in origin else ""
        yield "imported", f"from {origin['file']}{again}{order} (digest of the ids {origin['ids']})"
    yield "pool", f"version {coreset.pool_version}, {coreset.eligible:,} rows eligible"
    if coreset.filter:
        yield "filter", coreset.filter
    yield from _rules(parameters.get("rules", {}).get("asked", {}))
    yield "budget", _budget(coreset)
    options = parameters["options"] | parameters["asked"]
    if options:
        yield "options", ", ".join(f"{name}={value}" for name, value in options.items())
    if group := parameters.get("group"):
        yield "groups", f"of examples, by {group}"
    if search := parameters.get("approximate"):
        yield "found by", f"index {search['index']}, with a recall of {search['recall']:.1%}"
    yield "seed", str(coreset.seed)
    if coreset.fingerprint:
        yield "feature", f"{parameters['representation']}, recipe {coreset.fingerprint}"
    if annotations := parameters.get("annotations"):
        named = ", ".join(f"{name}, recipe {recipe}" for name, recipe in annotations.items())
        yield "annotations", named
    if parameters["missing"]:
        yield "left out", f"{count_of(parameters['missing'], 'eligible row')} without the feature"
    if coreset.distance is not None:
        yield "distance", f"{coreset.distance:.4f}, mean over the examples of 1 - nearest cosine"
    if coreset.mmd is not None:
        yield "MMD", f"{coreset.mmd:.4f}, between the examples and the rows, by the cosine"


def _rules(rules: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rules of the request that are set."""
    for name, value in rules.items():
        values = value if isinstance(value, list) else [value]
        if value not in (None, []):
            yield name.replace("_", " "), ", ".join(map(_rule_value, values))


def _rule_value(value: Any) -> str:
    """A value as it was given; an evaluation or a coreset by its name, with its size."""
    if not isinstance(value, dict):
        return str(value)
    name = value.get("name") or value.get("coreset")
    sizes = [
        count_of(value[f"{noun}s"], noun) for noun in ("example", "row") if f"{noun}s" in value
    ]
    return f"{name} ({', '.join(sizes)})" if sizes else str(name)


def _budget(coreset: Coreset) -> str:
    used = coreset.parameters["tokens"]
    budget = coreset.budget if used is None else f"{coreset.budget} ({used:,} used)"
    if not coreset.short_by:
        return budget
    missing = count_of(coreset.short_by, "row" if used is None else "token")
    return f"{budget}; short by {missing}, because the eligible rows ran out"


def selection_command(coreset: Coreset) -> str:
    """Return the command that makes such a selection anew, from the pool as it is by then.

    Evaluations stand by the names of their files, which the store does not know the folders of.
    """
    parameters = coreset.parameters
    asked = parameters.get("rules", {}).get("asked") or {}
    words = ["coresetdb", "select", coreset.store.uri, *coreset.targets, "--method", coreset.method]
    words += ["--budget", coreset.budget]
    if coreset.filter:
        words += ["--where", coreset.filter]
    if coreset.weights:
        words += ["--weights", ",".join(f"{name}={w}" for name, w in coreset.weights.items())]
    if group := parameters.get("group"):
        words += ["--group", group]
    if parameters.get("approximate"):
        words.append("--approximate")
    if coreset.seed:
        words += ["--seed", str(coreset.seed)]
    words += list(_rule_words(asked))
    return join(words)


def _rule_words(asked: Mapping[str, Any]) -> Iterator[str]:
    """The options of a selection's rules."""
    if asked.get("leakage", "off") != "ranked":  # made before there were rules, or asked for
        yield from ("--leakage", asked.get("leakage", "off"))
    for option, key, name in (("eval", "evaluations", "name"), ("exclude", "exclude", "coreset")):
        for value in asked.get(key, ()):
            yield from (f"--{option}", value[name])
    for option in ("quota", "cap"):
        for value in asked.get(option, ()):
            yield from (f"--{option}", value)
    for option in ("quota_by", "distinct", "distinct_by"):
        if (value := asked.get(option)) is not None:
            yield from (f"--{option.replace('_', '-')}", str(value))
