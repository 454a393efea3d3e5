"""Every method by name: which rows it takes, what it needs, what it was found to pick."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..ingest.representations.registry import ALIASES, get, names
from ..ingest.representations.representation import Representation
from ..schemas.plain_text import PrintedResult, terminal_columns, text_table
from .features import Feature, comparison_of
from .measured import PROXY, SHORT, Maker, measured
from .methods import Method, method_names, parse_method
from .readiness import Readiness
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store


LINE = 80  # at most; fewer on a narrow terminal
NAMES = 22
"""Characters of a line, and of the names before the meanings."""

SHORT_WORDS = 2
"""Words of a short answer."""


@dataclass(frozen=True)
class ListedMethod:
    """A method, which rows it takes, and whether a store can run it now.

    Attributes:
        method: its shortest name.
        meaning: which rows it takes; empty where its author does not say.
        full: `representation:selector`, with the options that the name implies.
        also: an alias, or None.
        named: whether the name of a representation or a selector alone stands for it.
        same_rows: the method that takes the same rows, or None.
        feature: that rows must have; None for none.
        target: whether it needs a target's examples.
        paper: its source; empty where it is ours.
        found: target -> per cent of relevant rows among its first picks, as measured with such a
            feature; None where it was not.
        first: how many picks these are.
        section: of docs/results.md, which says how.
        warning: what it was found to find little of, or None.
        not_measured: what its feature has that no measured one had, as in "with GPT-2"; None where
            there is nothing, or no measurement of the method at all.
        ready: whether the store can run it now; None without a store.
        next: where something is missing, a command, or a sentence that ends in one.
    """

    method: str
    meaning: str
    full: str
    also: str | None
    named: bool
    same_rows: str | None
    feature: str | None
    target: bool
    paper: str
    found: dict[str, float] | None = None
    first: int = 100
    section: str | None = None
    warning: str | None = None
    not_measured: str | None = None
    ready: bool | None = None
    next: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @property
    def names(self) -> str:
        """Its name, and the alias."""
        return f"{self.method}, {self.also}" if self.also else self.method


class MethodList(PrintedResult, list[ListedMethod]):
    """A list of methods that prints with a line of meaning for each; a notebook shows the same."""

    def __str__(self) -> str:
        lines: list[str] = []
        for heading, methods in self._groups():
            if methods:
                lines += [
                    *wrap(heading, _columns()),
                    *chain.from_iterable(map(_lines, methods)),
                    "",
                ]
        for heading, texts in (
            ("Not ready (-), and what it takes:", self._missing(ready=False)),
            ("Incomplete:", self._missing(ready=True)),
        ):
            if texts:
                lines += [heading]
                for text, names in texts.items():
                    lines += [*_indented(text, 2), *_indented(", ".join(names), 6)]
                lines += [""]
        for differs, features in self._not_measured().items():
            text = f"Not measured {differs}, so no warning is known: {', '.join(features)}"
            lines += wrap(text, _columns())
        return "\n".join(lines).rstrip()

    def details(self) -> str:
        """All of them as tables: needs, papers, what is missing, and what was measured."""
        named, pairs = ([each for each in self if each.named is own] for own in (True, False))
        tables = [text_table([_row(each) for each in some]) for some in (named, pairs)]
        sections = dict.fromkeys(each.section for each in self if each.section)
        for section in sections:
            rows = [
                {"method": each.method} | {name: f"{share:g}" for name, share in each.found.items()}
                for each in self
                if each.section == section and each.found
            ]
            [first, *_] = [each.first for each in self if each.section == section]
            heading = f"Per cent right of the first {first} rows (docs/results.md, {section}):"
            tables.append(f"{heading}\n\n{text_table(rows)}")
        return "\n\n".join(tables)

    def _groups(self) -> Iterator[tuple[str, list[ListedMethod]]]:
        """The methods under their headings; those that only repeat the rows of others left out."""
        own = [each for each in self if each.named and each.feature]
        yield "For a target: its examples say what to look for", [m for m in own if m.target]
        yield (
            "These look at no target, and take the same rows for every one",
            [m for m in own if not m.target],
        )
        samples = [each for each in self if not each.feature]
        yield "Samples, which any method has to beat", samples
        pairs: dict[str, list[ListedMethod]] = defaultdict(list)
        for each in self:
            if not each.named and not each.same_rows:
                pairs[each.feature or ""].append(each)
        shown = FIRST if FIRST in pairs else next(iter(pairs), "")
        alike = [name for name, some in pairs.items() if len(some) == len(pairs[shown])]
        others = " or ".join(f"{name}:" for name in alike if name != shown)
        heading = f"Other ways to choose{f'; so with {others}' if others else ''}"
        warned = {each.feature for each in own if each.warning and each.method == each.feature}
        of_others = [
            each
            for name, some in pairs.items()
            for each in some
            if name != shown and (name not in alike or (each.warning and name not in warned))
        ]
        yield heading, pairs.get(shown, []) + of_others

    def _missing(self, ready: bool) -> dict[str, list[str]]:
        """What is missing -> the methods that lack it."""
        pairs = Counter(each.feature for each in self if not each.named)
        missing: dict[str, list[ListedMethod]] = defaultdict(list)
        for each in self:
            if each.next and each.ready is ready:
                missing[each.next].append(each)
        names: dict[str, list[str]] = {}
        for text, methods in missing.items():
            lacking = Counter(each.feature for each in methods if not each.named)
            names[text] = list(
                dict.fromkeys(
                    each.method
                    if each.named or lacking[each.feature] < pairs[each.feature]
                    else f"{each.feature}:..."
                    for each in methods
                )
            )
        return names

    def _not_measured(self) -> dict[str, list[str]]:
        """What the features have that no measured one had -> the features."""
        differs: dict[str, dict[str, None]] = defaultdict(dict)
        for each in self:
            if each.not_measured and each.feature:
                differs[each.not_measured][each.feature] = None
        return {what: list(features) for what, features in differs.items()}


BY_SCORE = ("top", "round_robin")
"""The selectors of rows that have one score for a target; they choose the same ones."""

FIRST = "rds"
"""The feature that pairs of a feature and a selector are shown with."""


def _columns() -> int:
    return min(LINE, max(terminal_columns() or LINE, 2 * NAMES))


def _lines(method: ListedMethod) -> list[str]:
    """A method with its meaning and its warning, in lines that fit."""
    start = f"{'- ' if method.ready is False else '  '}{method.names}"
    indent = " " * (NAMES + 2)
    texts = wrap(method.meaning, _columns() - len(indent))
    if method.warning:
        warning = wrap(f"! {method.warning}", _columns() - len(indent), subsequent_indent="  ")
        texts += warning
    if len(start) < len(indent) and texts:
        return [start.ljust(len(indent)) + texts[0], *(indent + text for text in texts[1:])]
    return [start, *(indent + text for text in texts)]


def _indented(text: str, spaces: int) -> list[str]:
    """A sentence in lines that fit; a command stays in one, to be copied."""
    if text.startswith("coresetdb "):
        return [" " * spaces + text]
    indent = " " * spaces
    return wrap(
        text,
        _columns(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
    )


def _row(method: ListedMethod) -> dict[str, Any]:
    needs = [method.feature or "", "a target" if method.target else ""]
    row: dict[str, Any] = {
        "method": method.names,
        "needs": " and ".join(filter(None, needs)) or "nothing",
        "paper": method.paper,
    }
    if method.ready is not None:
        return {**row, "ready": method.ready, "next": method.next}
    return {**row, "in full": method.full} if method.named else row


def list_methods(store: Store | None = None) -> MethodList:
    """List all methods of the installed representations and selectors, named ones first.

    Args:
        store: if given, each method says whether this store can run it now; its second recipes of
            a representation (`rds__<8 hex>`) are listed as well. Without it, what was found is
            what the built-in proxy found.
    """
    known: dict[str, Representation] = {name: get(name) for name in names()}
    features = Snapshot(store).features if store else {}
    known |= {name: each.representation for name, each in features.items()}
    backbone = _backbone(store, features) if store else Maker(PROXY)
    listed = MethodList(sorted(_methods(known, features, backbone), key=lambda row: not row.named))
    if store is None:
        return listed
    readiness, short = Readiness(store), _with_short_answers(store)
    checked = MethodList()
    for row in listed:
        ready, next_step = readiness.of(parse_method(row.method, known))
        warning = row.warning
        if short and warning and SHORT in warning:
            warning += f"; such targets here: {', '.join(short)}"
        checked.append(replace(row, ready=ready, next=next_step, warning=warning))
    return checked


def _with_short_answers(store: Store) -> list[str]:
    """The targets whose answers have two words at most, by their median."""
    words: dict[str, list[int]] = defaultdict(list)
    rows = store.dataset("targets").to_table(columns=["target", "messages"])
    for target, messages in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        if answers := [each["content"] for each in messages if each["role"] == "assistant"]:
            words[target].append(len((answers[-1] or "").split()))
    return sorted(target for target, counts in words.items() if median(counts) <= SHORT_WORDS)


def _methods(
    known: Mapping[str, Representation], features: Mapping[str, Feature], backbone: Maker
) -> Iterator[ListedMethod]:
    """Every method under its shortest name, those of a representation by its own name first."""
    for full in method_names(known):
        method = parse_method(full, known)
        name, made_by, selector = method.representation, method.made_by, method.selector
        maker = _maker(method, features, backbone)
        sees = ((made_by.sees if made_by else "") or "{name}").format(name=name)
        meaning = selector.meaning.format(sees=sees)
        if not name or not made_by:
            yield _listed(full, method, meaning, maker)
        elif selector.feature == name:
            yield _listed(selector.name, method, meaning, maker)
        elif made_by.selector == selector.name:
            yield _listed(name, method, made_by.meaning or meaning, maker)
            for options, of_options in made_by.listed_options.items():
                with_options = parse_method(f"{full}({options})", known)
                yield _listed(f"{name}({options})", with_options, of_options, maker)
        elif comparison_of(made_by) in ("scorer", "target_scorer") and method.compares_queries:
            # A row has one score for a target: there are no examples to take turns.
            same = name if made_by.selector in BY_SCORE else f"{name}:{BY_SCORE[0]}"
            if full == same:
                yield _listed(full, method, f"rows with {sees} like those of your examples", maker)
            else:
                yield _listed(full, method, f"the same rows as {same}", maker, same_rows=same)
        elif not method.uses_feature:
            meaning = f"the rows of {selector.name}, with their distances"
            yield _listed(full, method, meaning, maker, same_rows=selector.name)
        else:
            yield _listed(full, method, meaning, maker)


def _listed(
    name: str, method: Method, meaning: str, maker: Maker, same_rows: str | None = None
) -> ListedMethod:
    made_by = method.made_by
    own = made_by.paper if made_by else ""
    if made_by and method.compares_queries:
        own = made_by.comparison_paper or own
    # A representation's own name stands for the way of choosing that its paper has.
    papers = [own] if own and ":" not in name else [own, method.selector.paper]
    other = {real: alias for alias, real in ALIASES.items()}
    row = measured(method, maker)
    listed = ListedMethod(
        method=name,
        meaning=meaning,
        full=str(method),
        also=other.get(name),
        named=":" not in name,
        same_rows=same_rows,
        feature=method.representation,
        target=method.needs_target,
        paper="; ".join(dict.fromkeys(filter(None, papers))),
    )
    if row is None or row.differs:
        return replace(listed, not_measured=row.differs if row else None)
    return replace(
        listed,
        found=dict(row.found),
        first=row.first,
        section=row.section,
        warning=row.warning,
    )


def _maker(method: Method, features: Mapping[str, Feature], backbone: Maker) -> Maker:
    """What made a method's feature, or would make it."""
    if method.made_by is None or method.made_by.terms is not None:
        return Maker()
    if feature := features.get(method.representation or ""):
        recipe = feature.recipe
        model = recipe.options.get("model", backbone.model)
        return Maker(recipe.backbone.get("weights", ""), model, recipe.options)
    options = method.made_by.defaults
    if own := options.get("model"):
        return Maker(PROXY if own == "builtin" else own, own, options)
    return replace(backbone, options=options)


def _backbone(store: Store, features: Mapping[str, Feature]) -> Maker:
    """The store's own model; its name stands for its weights where they made no feature yet."""
    name = str(store.config["backbone"]["name"])
    recipes = [feature.recipe for feature in features.values()]
    made = [each.backbone.get("weights") for each in recipes if "model" not in each.options]
    return Maker(next(filter(None, made), PROXY if name == "builtin" else name), name)
