"""What the score of a chosen row says, in words, for the selectors of this package."""

from __future__ import annotations

from ..features import comparison_of
from ..methods import Method

_SAID = {
    "random": "none: a seed drew the rows, and their order says nothing",
    "source_balanced": "none: corpora take turns, and a seed drew the rows of each",
    "length_matched": "none: a seed drew the rows of each length",
    "round_robin": "its similarity to the example whose turn it was",
    "knn_uniform": "its share of the examples' nearest neighbours",
    "knn_kde": "its share of the examples' nearest neighbours, less in a crowd",
    "uot": "the share of the examples' mass that transport sends it",
    "coverage": "what it added to the coverage when it was taken",
    "facility_location": "by how much it brought the pool nearer when it was taken, in cosines",
    "k_center": "1 - its highest cosine to a row taken before (3 for the first)",
}


def score_words(method: Method) -> str | None:
    """A phrase that goes on from "score 0.83, "; None for selectors from elsewhere."""
    name, made_by, options = method.selector.name, method.made_by, method.options
    if name in ("top", "round_robin") and made_by and comparison_of(made_by) != "cosine":
        whom = "the target as a whole" if method.needs_target else "no target in particular"
        return f"that {method.representation} gives it, for {whom}"
    if name == "top":
        by = {"mean": "mean", "max": "highest"}[options["by"]]
        return f"its {by} similarity over the examples"
    if name == "deita_filter":
        return f"its {options['score']}"
    if name == "bm25":
        by = {"turns": "for the example whose turn it was", "mean": "mean over the examples"}
        return f"its BM25, {by.get(options['by'], 'the highest over the examples')}"
    if name == "dsir":
        drawn = ", with a random number added by the draw" if options["gumbel"] else ""
        return f"log of how much likelier the target makes its words than the pool{drawn}"
    return _SAID.get(name)
