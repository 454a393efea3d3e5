"""Methods: a representation and a selector, written `representation:selector(option=value,...)`.

`rds` (or `rds+`) alone means `rds:round_robin`; `random` looks at no feature and stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ingest.representations.registry import ALIASES
from ..schemas.errors import UsageError
from ..selectors.registry import selectors
from ..selectors.task import Option, Selector

DEFAULT_SELECTOR = "round_robin"
"""Of a representation named alone (METHODS: less, rds and embed take turns)."""

_FORM = re.compile(r"(?P<first>[\w+]+)(?::(?P<second>\w+))?(?:\((?P<options>[^()]*)\))?")


@dataclass(frozen=True)
class Method:
    """How to choose: by which feature (None for none), by which selector, with which options."""

    representation: str | None
    selector: Selector
    options: Mapping[str, Any]

    def __str__(self) -> str:
        name = f"{self.representation}:" if self.representation else ""
        defaults = self.selector.options
        changed = [f"{k}={v}" for k, v in self.options.items() if v != defaults[k].default]
        return name + self.selector.name + (f"({','.join(changed)})" if changed else "")

    @property
    def needs_target(self) -> bool:
        """Whether it compares rows with a target's examples."""
        return "query_similarity" in self.selector.inputs


def parse_method(
    text: str, representations: Iterable[str], elsewhere: Collection[str] = ()
) -> Method:
    """Read a method's name.

    Args:
        text: such as `rds`, `rds+:top(by=max)` or `random`.
        representations: what this store can compare, by the names that stand before the colon.
        elsewhere: more such names, which are understood though this store cannot answer them.

    Raises:
        UsageError: another form, or an unknown representation, selector, option or value; the
            message lists what exists.
    """
    known = sorted(representations)
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise UsageError(f"method {text!r}: write representation:selector(option=value,...)")
    first, second = ALIASES.get(match["first"], match["first"]), match["second"]
    if second is None and first in selectors():
        representation, name = None, first
    else:
        representation, name = first, second or DEFAULT_SELECTOR
        if representation not in known and representation not in elsewhere:
            raise UsageError(f"method {text!r}: no representation {first!r}; {_known(known)}")
    if name not in selectors():
        raise UsageError(f"method {text!r}: no selector {name!r}; {_known(known)}")
    selector = selectors()[name]
    method = Method(representation, selector, _options(text, selector, match["options"] or ""))
    if method.needs_target and representation is None:
        raise UsageError(f"method {text!r}: {name} compares vectors, say which; {_known(known)}")
    return method


def method_names(representations: Iterable[str]) -> list[str]:
    """Every method that can be written, options left out, shortest first."""
    alone = [name for name, each in selectors().items() if "query_similarity" not in each.inputs]
    pairs = [f"{each}:{name}" for each in sorted(representations) for name in selectors()]
    return alone + pairs


def _known(representations: list[str]) -> str:
    return f"methods: {', '.join(method_names(representations))}"


def _options(method: str, selector: Selector, text: str) -> dict[str, Any]:
    chosen = {name: option.default for name, option in selector.options.items()}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in selector.options:
            known = ", ".join(selector.options) or "none"
            raise UsageError(f"method {method!r}: no option {part!r}; {selector.name} has {known}")
        chosen[name] = _value(method, name, selector.options[name], value)
    return chosen


def _value(method: str, name: str, option: Option, text: str) -> Any:
    kind = type(option.default)
    try:
        value = text.lower() in ("true", "yes", "1") if kind is bool else kind(text)
    except ValueError:
        raise UsageError(
            f"method {method!r}: {name}={text}: it must be a {kind.__name__}"
        ) from None
    if option.choices and value not in option.choices:
        choices = ", ".join(map(str, option.choices))
        raise UsageError(f"method {method!r}: {name}={text}: choose from {choices}")
    return value
