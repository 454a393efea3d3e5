"""What the score of a chosen row says, in words, for the selectors of this package."""

from __future__ import annotations

from .features import comparison_of
from .methods import Method

_SAID = {
    "random": "none: a seed drew the rows, and their order says nothing",
    "round_robin": "its similarity to the example whose turn it was",
    "coverage": "what it added to the coverage when it was taken",
}


def score_words(method: Method) -> str | None:
    """A phrase that goes on from "score 0.83, "; None for selectors from elsewhere."""
    name, made_by = method.selector.name, method.made_by
    if name in ("top", "round_robin") and made_by and comparison_of(made_by) != "cosine":
        whom = "the target as a whole" if method.needs_target else "no target in particular"
        return f"that {method.representation} gives it, for {whom}"
    if name == "top":
        by = {"mean": "mean", "max": "highest"}[method.options["by"]]
        return f"its {by} similarity over the examples"
    return _SAID.get(name)
