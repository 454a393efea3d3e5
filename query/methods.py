"""Methods: a representation and a selector, written `representation:selector(option=value,...)`.

A representation's name alone stands for the selector it names itself (`rds` for `rds:round_robin`,
`trim` for `trim:top`); selectors that look at no feature, such as `random`, stand alone, and so do
those that know their feature (`bm25` for `lexical:bm25`). Options are the selector's or those of
the comparison (`Representation.query_defaults`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..ingest.representations.registry import ALIASES, get, names
from ..ingest.representations.representation import Representation
from ..schemas.errors import UsageError
from ..selectors.registry import selectors
from ..selectors.selector import Option, Selector
from .features import comparison_of

_FORM = re.compile(r"(?P<first>[\w+]+)(?::(?P<second>\w+))?(?:\((?P<options>[^()]*)\))?")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

IGNORE_SIGN = ("round_robin", "top", "knn_uniform")
"""Selectors that can choose by the square of the cosine."""


@dataclass(frozen=True)
class Method:
    """A representation, a selector, and the options of both.

    Attributes:
        representation: the feature it looks at, by the name that methods use; None for none.
        made_by: the representation that makes this feature; None for none.
        selector: that chooses the rows.
        options: of the selector, every one spelled out.
        asked: options of the comparison, every one spelled out.
    """

    representation: str | None
    made_by: Representation | None
    selector: Selector
    options: Mapping[str, Any]
    asked: Mapping[str, Any]

    def __str__(self) -> str:
        name = f"{self.representation}:" if self.representation else ""
        defaults = {key: option.default for key, option in self.selector.options.items()}
        changed = [f"{k}={_text(v)}" for k, v in self.options.items() if v != defaults[k]]
        if self.made_by:
            query_defaults = self.made_by.query_defaults
            changed += [f"{k}={_text(v)}" for k, v in self.asked.items() if v != query_defaults[k]]
        return name + self.selector.name + (f"({','.join(changed)})" if changed else "")

    @property
    def compares_queries(self) -> bool:
        """Whether it compares rows with queries, by cosine or by a scorer."""
        return "query_similarity" in self.selector.inputs

    @property
    def ignores_sign(self) -> bool:
        """Whether it compares by the square of the cosine."""
        return self.asked.get("sign") == "any"

    @property
    def is_centred(self) -> bool:
        """Whether the pool's mean is subtracted from the vectors that it compares."""
        return self.asked.get("centre") == "pool"

    @property
    def uses_sets(self) -> bool:
        """Whether it reads the sets of rows."""
        return "neuron_sets" in self.selector.inputs

    @property
    def uses_row_vectors(self) -> bool:
        """Whether it reads the vectors of the rows themselves."""
        return "vectors" in self.selector.inputs

    @property
    def matches_lengths(self) -> bool:
        """Whether it matches the lengths of other rows: a target's examples or a coreset."""
        return "lengths" in self.selector.inputs

    @property
    def uses_words(self) -> bool:
        """Whether it reads the words of rows."""
        return "terms" in self.selector.inputs

    @property
    def uses_feature(self) -> bool:
        """Whether its choice depends on the feature at all."""
        return self.compares_queries or self.uses_sets or self.uses_row_vectors or self.uses_words

    @property
    def needs_target(self) -> bool:
        """Whether it needs a target's examples."""
        if self.matches_lengths:
            return not self.options["like"]
        if self.uses_words:
            return True
        if self.uses_sets:
            return self.options.get("weights") == "target"
        if not self.compares_queries or self.made_by is None:
            return False
        return comparison_of(self.made_by) in ("cosine", "target_scorer")


def parse_method(
    text: str, features: Mapping[str, Representation], elsewhere: Collection[str] = ()
) -> Method:
    """Read a method's name.

    Args:
        text: such as `rds`, `rds+:top(by=max)`, `trim(scope=prompt)` or `random`.
        features: what this store holds, by the names that stand before the colon.
        elsewhere: names of representations that are understood though this store lacks them.

    Raises:
        UsageError: another form, an unknown representation, selector, option or value, or a
            selector that needs what the representation does not have; the message lists what
            exists.
    """
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise UsageError(f"method {text!r}: write representation:selector(option=value,...)")
    first, second = ALIASES.get(match["first"], match["first"]), match["second"]
    if second is None and first in selectors() and (own := selectors()[first].feature):
        first, second = own, first
    known = f"methods: {', '.join(method_names(features))}"
    if second is None and first in selectors():
        representation, made_by, name = None, None, first
    elif first in features or first in elsewhere:
        made_by = features[first] if first in features else get(first)
        representation, name = first, second or made_by.selector
    else:
        meant = _meant(first, {*features, *elsewhere, *selectors()})
        raise UsageError(f"method {text!r}: no representation {first!r}{meant}; {known}")
    if name not in selectors():
        meant = _meant(name, selectors())
        raise UsageError(f"method {text!r}: no selector {name!r}{meant}; {known}")
    selector = selectors()[name]
    if made_by is None and selector.alone is not None:
        selector = _alone(text, selector, match["options"] or "", known)
    if lack := _lack(selector, made_by):
        raise UsageError(f"method {text!r}: {lack}; {known}")
    options, asked = _options(text, selector, made_by, match["options"] or "")
    method = Method(representation, made_by, selector, options, asked)
    if method.ignores_sign and selector.name not in IGNORE_SIGN:
        raise UsageError(
            f"method {text!r}: sign=any is for {', '.join(IGNORE_SIGN[:-1])} and {IGNORE_SIGN[-1]}"
        )
    return method


def _alone(method: str, selector: Selector, options: str, known: str) -> Selector:
    """Return what a selector is without a representation.

    Raises:
        UsageError: an option that it then needs is missing.
    """
    assert selector.alone is not None
    named = {part.partition("=")[0].strip() for part in options.split(",")}
    for name, option in selector.alone.options.items():
        if option.required and name not in named:
            raise UsageError(
                f"method {method!r}: {selector.name} compares rows: name a representation, as in "
                f"rds:{selector.name}; {known}; or a column of the pool: "
                f"{selector.name}({name}=COLUMN)"
            )
    return selector.alone


def _meant(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, sorted(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def as_recorded(text: str, parameters: Mapping[str, Any]) -> str:
    """Return a recorded method with those of its options that are no defaults any more.

    What a method was called leaves out the defaults of its day; with all that differ from today's
    spelled out, it is the same method again.

    Args:
        text: the method as a coreset records it.
        parameters: of the coreset, with every option's value.
    """
    match = _FORM.fullmatch(text)
    name = (parameters.get("representation") or "").partition("__")[0]
    if match is None:
        return text
    defaults: dict[str, Any] = {}
    recorded: dict[str, Any] = {}
    if selector := selectors().get(parameters.get("selector", "")):
        defaults = {option: each.default for option, each in selector.options.items()}
        recorded = dict(parameters.get("options", {}))
    if name in names():
        made_by = get(name)
        defaults |= made_by.query_defaults
        recorded |= {**made_by.unrecorded, **parameters.get("asked", {})}
    written = [part.strip() for part in (match["options"] or "").split(",") if part.strip()]
    spelled = {part.partition("=")[0].strip() for part in written}
    written += [
        f"{option}={_text(value)}"
        for option, value in recorded.items()
        if option in defaults and value != defaults[option] and option not in spelled
    ]
    return text.partition("(")[0] + (f"({','.join(written)})" if written else "")


def method_names(features: Mapping[str, Representation]) -> list[str]:
    """The names, without options, of all methods that these features allow, shortest first."""
    alone = [name for name, each in selectors().items() if _lack(each, None) is None]
    pairs = [
        f"{name}:{selector.name}"
        for name, representation in sorted(features.items())
        for selector in selectors().values()
        # A selector that needs no feature is listed with one only for the distance it then has.
        if _lack(selector, representation) is None
        and (selector.name not in alone or comparison_of(representation) == "cosine")
    ]
    return alone + pairs


def _lack(selector: Selector, representation: Representation | None) -> str | None:
    """What a selector needs and a representation lacks, as a sentence; None if nothing."""
    name = selector.name
    if "query_similarity" in selector.inputs:
        if representation is None:
            return f"{name} compares rows: name a representation, as in rds:{name}"
        if comparison_of(representation) is None:
            return f"{representation.name} gives no way to compare rows"
    if "neuron_sets" in selector.inputs:
        if representation is None:
            return f"{name} covers sets: name a representation, as in mads:{name}"
        if representation.sets is None:
            return f"{representation.name} keeps no sets that {name} could cover"
    if "vectors" in selector.inputs:
        if representation is None:
            return f"{name} looks at vectors: name a representation, as in rds:{name}"
        if comparison_of(representation) != "cosine":
            return f"{representation.name} keeps no vectors that {name} could look at"
    if "terms" in selector.inputs:
        if representation is None:
            return f"{name} counts words: name a representation, as in lexical:{name}"
        if representation.terms is None:
            return f"{representation.name} keeps no words that {name} could count"
    return None


def _options(
    method: str, selector: Selector, representation: Representation | None, text: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the selector and of the comparison, every one spelled out."""
    options = {name: option.default for name, option in selector.options.items()}
    # What is covered is not compared, so that options of the comparison would change nothing.
    compared = representation if "neuron_sets" not in selector.inputs else None
    asked = dict(compared.query_defaults) if compared else {}
    choices = compared.query_choices if compared else {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals and name in options:
            options[name] = _value(method, name, selector.options[name], value)
        elif equals and name in asked:
            asked[name] = _value(method, name, Option(asked[name], choices.get(name, ())), value)
        else:
            raise UsageError(
                f"method {method!r}: no option {name!r}; {_has(selector.name, options)}"
                + (f", {_has(compared.name, asked)}" if compared else "")
            )
    return options, asked


def _has(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} has {', '.join(options) or 'none'}"


def _value(method: str, name: str, option: Option, text: str) -> Any:
    if text in option.words:
        return text
    kind = float if option.words else type(option.default)
    try:
        value = _TRUTHS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        kinds = " or ".join([f"a {kind.__name__}", *option.words])
        raise UsageError(f"method {method!r}: {name}={text}: it must be {kinds}") from None
    if kind is float and not math.isfinite(value):
        raise UsageError(f"method {method!r}: {name}={text}: it must be a finite number")
    if option.choices and value not in option.choices:
        choices = ", ".join(map(str, option.choices))
        raise UsageError(f"method {method!r}: {name}={text}: choose from {choices}")
    for word, bound, kept in (
        ("least", option.least, option.least is None or value >= option.least),
        ("most", option.most, option.most is None or value <= option.most),
    ):
        if not kept:
            raise UsageError(f"method {method!r}: {name}={text}: it must be at {word} {bound:g}")
    return value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
