"""Budgets: what is understood, what is refused, and how many rows they allow."""

from __future__ import annotations

import pytest

from coresetdb.schemas.amounts import Budget, parse_budget
from coresetdb.schemas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "budget", "rows_of_2000"),
    [
        ("1000", Budget(1000, "rows"), 1000),
        ("3k", Budget(3000, "rows"), 3000),
        ("5%", Budget(5, "percent"), 100),
        ("0.25%", Budget(0.25, "percent"), 5),
        ("0.00005%", Budget(0.00005, "percent"), 0),
        ("12.3456789%", Budget(12.3456789, "percent"), 247),
        ("1.001k", Budget(1001, "rows"), 1001),
        ("200k-tokens", Budget(200_000, "tokens"), 2000),
        ("1.5M-tokens", Budget(1_500_000, "tokens"), 2000),
        ("50M-total-tokens", Budget(50_000_000, "total-tokens"), 2000),
        ("0.5b-total-tokens", Budget(500_000_000, "total-tokens"), 2000),
        ("1B-tokens", Budget(1_000_000_000, "tokens"), 2000),
        ("200k-total-tokens", Budget(200_000, "total-tokens"), 2000),
    ],
)
def test_budgets_are_understood(text, budget, rows_of_2000):
    parsed = parse_budget(text)
    assert parsed == budget
    assert parsed.rows(2000) == rows_of_2000
    assert parse_budget(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-5",
        "many",
        "101%",
        "1.5",
        "5k%",
        "10-rows",
        "0%",
        "5-total",
        "1.5-tokens",
        "10 tokens",
        "5%-tokens",
    ],
)
def test_other_texts_are_refused_with_the_forms_there_are(text):
    with pytest.raises(UsageError, match="budget"):
        parse_budget(text)


def test_what_a_budget_counts():
    assert parse_budget("5%").token_column is None and parse_budget("5").noun == "row"
    assert parse_budget("5-tokens").token_column == "response_tokens"
    assert parse_budget("5-total-tokens").token_column == "tokens"
