"""What methods were found to pick: the tables of docs/results.md from which warnings are made.

A figure is about one model, and about features made in one way. Where either is another, a method
counts as not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePath
from typing import Any

from ..ingest.representations.registry import get, names
from .methods import Method, parse_method

PROXY = "b470d5e982e55cf3f9cf430ef841dbe9"
"""Digest of the built-in proxy's weights."""

MODELS = {PROXY: "the built-in proxy"}
"""Digest of a model's weights, as recipes have it -> what the model is called. Others are called by
the last part of their name: `SmolLM2-135M` for a folder or `Owner/SmolLM2-135M`."""

BEST = "rds"
"""The method that others are compared with: it found nearly everything that there was."""

LITTLE = 0.5
"""A method that finds less than this share of what `BEST` found finds little."""


@dataclass(frozen=True)
class Table:
    """A table of docs/results.md: how many of the first picks were right.

    Attributes:
        section: its heading.
        model: that made the features, as `MODELS` calls it.
        options: representation -> options that its features were made with.
        targets: its columns.
        found: method -> per cent of relevant rows among the first picks, target by target.
        first: how many picks these are.
    """

    section: str
    model: str
    options: Mapping[str, Mapping[str, Any]]
    targets: tuple[str, ...]
    found: Mapping[str, tuple[float, ...]]
    first: int = 100


TABLES = (
    Table(
        "What every method finds",
        MODELS[PROXY],
        {
            "less": {"warmup": "none", "dims": 2048},
            "gradfiltering": {"members": 4, "noise": "normalised"},
        },
        ("gsm8k", "svamp", "mbpp", "quarel", "typing"),
        {
            "random": (13.7, 13.7, 8, 1, 2.7),
            "source_balanced": (18, 18, 18, 1, 2.7),
            "length_matched": (20.3, 0, 12.7, 0, 7.7),
            "bm25": (94, 98, 70, 83, 100),
            "dsir": (96, 90, 72.7, 100, 100),
            "rds": (100, 100, 92, 100, 100),
            "rds:top": (100, 100, 83, 100, 100),
            "rds:top(by=max)": (100, 99, 99, 100, 100),
            "rds:knn_uniform": (100, 100, 83, 100, 100),
            "rds:knn_kde": (35, 32, 18, 6, 0),
            "rds:uot": (100, 100, 91, 100, 100),
            "less": (100, 48, 100, 16, 100),
            "less:top": (100, 73, 100, 1, 100),
            "less:top(by=max)": (100, 91, 100, 75, 100),
            "less:knn_uniform": (100, 66, 100, 17, 100),
            "less:uot": (100, 67, 100, 43, 100),
            "trim": (100, 88, 97, 100, 100),
            "nait(direction=pca,score=dot)": (69, 0, 0, 0, 0),
            "mads": (4, 4, 3, 1, 2),
            "mads(weights=target)": (77, 56, 72, 19, 100),
            "gradfiltering": (1, 1, 0, 2, 0),
            "losses(score=nll)": (58, 58, 0, 0, 0),
            "rds:facility_location": (14, 14, 7, 1, 1),
            "rds:k_center": (3, 3, 3, 2, 0),
            "rds:deita_filter(score=nll)": (6, 6, 0, 0, 0),
        },
    ),
    Table(
        "NAIT by direction and score",
        MODELS[PROXY],
        {},
        ("gsm8k", "quarel", "svamp", "mbpp"),
        {"nait(direction=contrast,score=centred)": (100, 100, 100, 99)},
    ),
    Table(
        "Options of the comparison",
        MODELS[PROXY],
        {"less": {"warmup": "none", "dims": 8192}},
        ("gsm8k", "quarel", "svamp", "mbpp"),
        {
            "less": (100, 84, 78, 100),
            "less(sign=any)": (100, 100, 78, 100),
            "less:top": (100, 53, 86, 100),
            "less:top(by=max)": (100, 100, 95, 100),
            "rds:knn_kde(sigma=auto)": (100, 100, 100, 99),
        },
    ),
    Table(
        "MADS with a target",
        MODELS[PROXY],
        {},
        ("gsm8k", "quarel", "svamp", "mbpp"),
        {"mads:top(idf=true)": (100, 94, 98, 99), "mads:top(idf=false)": (100, 91, 99, 98)},
    ),
    Table(
        "What every method finds",
        "a static encoder of WordLlama's vectors",
        {},
        ("gsm8k", "svamp", "mbpp", "quarel", "typing"),
        {"embed": (97, 76, 82, 61, 100), "embed:top": (100, 91, 85, 79, 100)},
    ),
    Table(
        "Three small pools, with pretrained models",
        "SmolLM2-135M-Instruct",
        {"less": {"warmup": "none", "dims": 8192}},
        (
            "gsm8k",
            "svamp",
            "mbpp",
            "quarel",
            "typing",
            "creak",
            "ecqa",
            "samsum",
            "wiqa",
            "overlap",
            "pronouns",
        ),
        {
            "random": (13.3, 13.3, 22, 12.7, 5.3, 5.3, 6.7, 2.7, 7.3, 7.3, 6),
            "length_matched": (50, 0, 29.3, 14, 27.3, 19.3, 19.3, 28, 11.3, 54, 19.3),
            "bm25": (94, 94, 84, 100, 100, 80, 52, 82, 92, 96, 78),
            "dsir": (100, 74.7, 100, 100, 100, 100, 99.3, 100, 100, 100, 100),
            "rds": (100, 100, 88, 100, 100, 84, 98, 86, 84, 100, 98),
            "rds(centre=pool)": (100, 100, 90, 98, 100, 72, 96, 92, 88, 100, 94),
            "rds:top": (100, 100, 98, 98, 100, 96, 90, 98, 86, 100, 100),
            "rds:top(centre=pool)": (100, 100, 100, 100, 100, 98, 100, 100, 94, 100, 100),
            "rds:top(by=max)": (100, 100, 100, 100, 100, 98, 96, 90, 98, 100, 100),
            "rds:knn_uniform": (100, 100, 98, 98, 100, 96, 90, 98, 86, 100, 100),
            "rds:knn_kde(sigma=auto)": (100, 100, 92, 74, 0, 62, 52, 14, 40, 92, 58),
            "rds:knn_kde": (100, 82, 84, 88, 0, 46, 60, 86, 72, 100, 90),
            "rds:knn_kde(sigma=1.0)": (100, 98, 86, 94, 0, 44, 62, 82, 66, 100, 96),
            "rds:uot": (100, 100, 98, 100, 100, 100, 100, 100, 98, 100, 100),
            "less": (100, 32, 100, 100, 100, 96, 100, 100, 92, 100, 96),
            "less(sign=any)": (100, 32, 100, 100, 100, 96, 100, 100, 92, 100, 96),
            "less:top": (100, 40, 100, 100, 100, 98, 100, 100, 88, 100, 100),
            "less:top(by=max)": (100, 52, 100, 100, 100, 94, 100, 100, 56, 100, 100),
            "less:knn_kde": (100, 34, 100, 68, 58, 78, 100, 44, 42, 92, 40),
            "less:knn_kde(sigma=1.0)": (100, 38, 100, 40, 8, 88, 76, 40, 40, 26, 30),
            "less:uot": (100, 38, 100, 100, 100, 100, 100, 100, 86, 100, 98),
            "trim": (100, 82, 96, 100, 100, 100, 100, 98, 100, 100, 100),
            "nait": (100, 100, 96, 100, 100, 100, 100, 100, 100, 100, 100),
            "nait(direction=pca,score=dot)": (0, 24, 100, 0, 40, 0, 0, 0, 2, 98, 0),
            "mads": (0, 0, 10, 0, 2, 2, 0, 0, 16, 8, 0),
            "mads(weights=target)": (94, 50, 98, 78, 100, 36, 52, 64, 72, 66, 52),
            "mads:top": (100, 90, 100, 100, 100, 100, 100, 100, 96, 100, 100),
            "mads:top(idf=false)": (100, 90, 100, 100, 100, 100, 100, 100, 64, 100, 100),
        },
        first=50,
    ),
)

SHORT = "where answers are a word or a number"

CAUSES = {
    "less": SHORT,
    "nait(direction=pca,score=dot)": "of most targets",
    "rds:knn_kde": "as its sigma makes crowds of whole topics",
}
"""Method, or representation -> where, or why, it finds little."""


@dataclass(frozen=True)
class Maker:
    """What made a feature.

    Attributes:
        weights: digest of the model's; None where no model is needed.
        model: as its user named it.
        options: of the recipe.
    """

    weights: str | None = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a method was found to pick.

    Attributes:
        model: that made the features; empty where none is needed.
        section: of docs/results.md.
        found: target -> per cent of relevant rows among the first picks.
        first: how many picks these are.
        warning: what it finds little of; None where it finds most of what `BEST` does, and for
            methods that look at no target.
        differs: why it says nothing about the feature at hand, as in "not measured with GPT-2";
            None where it does.
    """

    model: str
    section: str
    found: Mapping[str, float]
    first: int
    warning: str | None
    differs: str | None


def measured(method: Method, maker: Maker) -> Measured | None:
    """Look a method up in the tables.

    Args:
        method: with its options.
        maker: of its feature.

    Returns:
        The row about such a feature, else one about others; None where no table has the method.
    """
    rows = [
        _row(table, name, method, maker)
        for table, name, listed in _listed()
        if replace(method, representation=listed.representation) == listed  # a second recipe too
    ]
    return next((row for row in rows if row.differs is None), rows[0] if rows else None)


@cache
def _listed() -> list[tuple[Table, str, Method]]:
    known = {name: get(name) for name in names()}
    return [(table, name, parse_method(name, known)) for table in TABLES for name in table.found]


def _row(table: Table, name: str, method: Method, maker: Maker) -> Measured:
    own = method.made_by.name if method.made_by else ""
    needed = table.options.get(own, {})
    others = [key for key in needed if maker.options.get(key) != needed[key]]
    called = MODELS.get(maker.weights or "", PurePath(maker.model).name)
    if maker.weights is not None and called.casefold() != table.model.casefold():
        differs = f"with {maker.model}"
    elif others:
        differs = "with " + ", ".join(f"{key}={maker.options.get(key)}" for key in others)
    else:
        differs = None
    found = dict(zip(table.targets, table.found[name], strict=True))
    best = dict(zip(table.targets, table.found.get(BEST, table.found[name]), strict=True))
    little = [target for target in found if found[target] < LITTLE * best[target]]
    warning = None
    if little and own and method.needs_target:
        shares = ", ".join(f"{target} {found[target]:g}" for target in little)
        ends = sorted({min(best[each] for each in little), max(best[each] for each in little)})
        beside = " to ".join(f"{share:g}" for share in ends)
        cause = CAUSES.get(name) or CAUSES.get(own)
        warning = (
            f"finds little{f' {cause}' if cause else ''}; per cent right of the first "
            f"{table.first}: {shares} ({BEST} {beside})"
        )
    return Measured(
        model=table.model if maker.weights is not None else "",
        section=table.section,
        found=found,
        first=table.first,
        warning=warning,
        differs=differs,
    )
