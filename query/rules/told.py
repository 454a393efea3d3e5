"""What the rules of a selection did, in sentences for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told(rules: Mapping[str, Any] | None) -> list[str]:
    """Sentences on a coreset's `parameters["rules"]`; none for coresets without rules."""
    if rules is None:
        return []
    sentences = []
    if rules["asked"]["leakage"] == "off":
        sentences.append("leakage was allowed: no row's text was held against the examples")
    elif "leakage" not in rules:
        sentences.append("no leakage was looked for: neither a target nor an evaluation was named")
    if rules.get("leakage", {}).get("left_out"):
        sentences.append(_leakage(rules["leakage"]))
    sentences += [
        f"not eligible: the {each['rows']:,} rows of coreset {each['coreset']}"
        for each in rules["asked"]["exclude"]
    ]
    sentences += [
        f"quota {corpus}: {each['chosen']:,} of {each['rows']:,} rows"
        + ("" if each["chosen"] == each["rows"] else ", no more of it could be chosen")
        for corpus, each in rules.get("quota", {}).items()
    ]
    if rules.get("cap", {}).get("reached"):
        met = ", ".join(f"{corpus} {most:,}" for corpus, most in rules["cap"]["reached"].items())
        sentences.append(f"cap reached: {met}")
    if "distinct" in rules:
        sentences += _distinct(rules["distinct"], rules["asked"]["distinct"])
    return sentences


def _leakage(found: Mapping[str, Any]) -> str:
    first = found["rows"][0]
    kinds = ", ".join(f"{count:,} {how}" for how, count in sorted(found["how"].items()))
    example = f"example {first['example'][:8]} of {first['of']}"
    return (
        f"left out for leakage: {found['left_out']:,} that give examples away ({kinds}), such as "
        f"{first['id'][:8]} ({first['how']}, {example}: {first['words']!r}). "
        "They are listed in the parameters; --allow-leakage lets them in"
    )


def _distinct(found: Mapping[str, Any], threshold: float) -> list[str]:
    sentences = [
        f"left out as near-duplicates: {found['left_out']:,} with a cosine of {threshold:g} or "
        f"more to an earlier pick (by {found['by']})"
    ]
    if found["not_compared"]:
        sentences.append(
            f"{found['not_compared']:,} picks have no {found['by']} and were not compared"
        )
    return sentences
