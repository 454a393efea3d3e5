"""What every selector keeps, whichever are registered: rows once, budgets, prefixes, ties, cuts.

A new selector is covered as it is; it stands in a table below only where it has an option without a
usable default or breaks a rule by design, which its documentation then says.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.selector_driver import Pool, cosine_pool, drive
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coresetdb.query.scanning.reducers import planned_memory
from coresetdb.query.token_budget import lengths_to_try, prefix_that_fits
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task

torch.set_num_threads(1)

GIVEN = {
    "ids", "query_similarity", "neuron_sets", "vectors", "columns", "lengths", "terms"
}  # fmt: skip
"""Inputs that the pools of this file have."""

PASSES_OVER = {"deita_filter"}
"""Leave rows out by design, so that fewer than the budget may come."""

BY_CHANCE = {"random", "source_balanced", "length_matched", "dsir"}
"""Order rows that nothing else tells apart by chance and not by their ids, as `draw` does."""

VALUES = {
    "alpha": (0.01, 0.5, 0.9),
    "bins": (1, 3, 10),
    "cap": (1, 10),
    "draws": (1, 9, 1000),
    "kde_k": (2, 1000),
    "Lmax": (1, 4, 5000),
    "reg": (0.01, 0.2),
    "represent": (3, 20_000),
    "sigma": (0.0, 0.75),
    "threshold": (0.5, 0.9),
    "union": (3, 20_000),
}
"""Values of options that matter on small pools; others keep their default or go through choices."""

NAMES = sorted(selectors())


@functools.cache
def pool_of(number: int) -> Pool:
    """A pool of up to 60 rows; every other has twins, rows that differ in their ids alone."""
    generator = np.random.default_rng(number)
    rows, queries = int(generator.integers(1, 61)), int(generator.integers(1, 6))
    kind = ("random", "tied", "random", "tied", "equal")[number % 5]
    pool = cosine_pool(generator, queries, rows, 4, kind)
    distinct = {vector.tobytes(): at for at, vector in enumerate(pool.vectors)}
    like = [distinct[vector.tobytes()] for vector in pool.vectors]

    def by_vector(values: list) -> list:
        return [values[at] for at in like]

    sizes = generator.integers(1, 9, rows)
    words = generator.integers(0, 2**31 - 1, 12)
    tokens = generator.integers(1, 30, rows)
    ifd = generator.random(rows).round(1)
    ifd[generator.random(rows) < 0.1] = np.nan
    return Pool(
        pool.ids,
        pool.similarity,
        pool.vectors,
        sets=by_vector([generator.permutation(15)[:size].tolist() for size in sizes]),
        words=by_vector([generator.choice(words, size).tolist() for size in sizes]),
        columns={
            "corpus": np.array(by_vector([f"c{n}" for n in generator.integers(0, 4, rows)]), "O"),
            "response_tokens": np.array(by_vector(tokens.tolist()), float),
            "ifd": np.array(by_vector(ifd.tolist())),
        },
        units=np.unique(generator.integers(0, 15, 4)),
        lengths=generator.integers(1, 30, queries),
        query_words=tuple(generator.choice(words, 5).astype(np.int32) for _ in range(queries)),
    )


@st.composite
def questions(draw, names=NAMES):
    """A selector, a pool's number, a budget, a seed and options."""
    name = draw(st.sampled_from(names))
    options = {}
    for key, option in selectors()[name].options.items():
        values = (True, False) if isinstance(option.default, bool) else option.choices
        if values := values or VALUES.get(key, ()):
            options[key] = draw(st.sampled_from(values))
    number = draw(st.integers(0, 10**6))
    k = draw(st.integers(1, len(pool_of(number).ids) + 3))
    return name, number, k, {"seed": draw(st.integers(0, 5)), "options": options}


def described(picks):
    return list(zip(picks.ids, picks.scores, picks.queries, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_given_here(name):
    missing = set(selectors()[name].inputs) - GIVEN
    assert not missing, f"let the pools of this file have {missing}, so that {name} is covered"


@settings(max_examples=200)
@given(questions())
def test_rows_are_distinct_and_as_many_as_asked_for(question):
    name, number, k, how = question
    pool = pool_of(number)
    picks = drive(name, pool, k, **how)
    assert len(set(picks.ids)) == len(picks.ids) and set(picks.ids) <= set(pool.ids)
    if name not in PASSES_OVER:
        assert len(picks.ids) == min(k, len(pool.ids))
    for score, query in zip(picks.scores, picks.queries, strict=True):
        assert score is None or (math.isfinite(score) and float(np.float32(score)) == score)
        assert query is None or int(query) < len(pool.similarity)


@settings(max_examples=150)
@given(questions(), st.data())
def test_prefixes_nest(question, data):
    name, number, k, how = question
    pool = pool_of(number)
    shorter = data.draw(st.integers(1, k))
    assert described(drive(name, pool, k, **how))[:shorter] == described(
        drive(name, pool, shorter, **how)
    )


@settings(max_examples=150)
@given(questions(), st.data())
def test_neither_blocks_nor_the_order_of_the_table_matter(question, data):
    name, number, k, how = question
    pool = pool_of(number)
    cut = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(len(pool.ids))))
    found = drive(name, pool, k, blocks=(len(pool.ids),), **how)
    assert described(drive(name, pool, k, blocks=cut, **how)) == described(found)
    assert described(drive(name, pool.taken(order), k, blocks=cut, **how)) == described(found)


@settings(max_examples=150)
@given(questions([name for name in NAMES if name not in BY_CHANCE]))
def test_of_rows_that_nothing_tells_apart_the_lower_id_goes_first(question):
    """Unless the higher one scores more: knn_kde may end a neighbourhood between the two."""
    name, number, k, how = question
    assume(how["options"].get("draw", "none") == "none")
    pool = pool_of(number)
    picks = drive(name, pool, k, **how)
    place = {text: at for at, text in enumerate(picks.ids)}
    twins: dict[bytes, list[str]] = {}
    for text, vector in sorted(zip(pool.ids, pool.vectors, strict=True), key=lambda row: row[0]):
        twins.setdefault(vector.tobytes(), []).append(text)
    for same in twins.values():
        for lower, higher in itertools.pairwise(same):
            if higher in place and place.get(lower, math.inf) > place[higher]:
                assert lower in place and picks.scores[place[higher]] > picks.scores[place[lower]]


@settings(max_examples=50)
@given(questions(["round_robin", "bm25"]))
def test_queries_take_turns(question):
    name, number, k, how = question
    pool = pool_of(number)
    if name == "bm25":
        how["options"]["by"] = "turns"
    picks = drive(name, pool, k, **how)
    counts = np.bincount([int(query) for query in picks.queries], minlength=len(pool.similarity))
    assert counts.max() - counts.min() <= 1


@settings(max_examples=80)
@given(questions(), st.integers(1, 800))
def test_a_budget_in_tokens_takes_the_longest_prefix_that_fits(question, budget):
    name, number, _, how = question
    pool = pool_of(number)
    tokens = dict(zip(pool.ids, pool.columns["response_tokens"].astype(int).tolist(), strict=True))
    whole = [tokens[text] for text in drive(name, pool, len(pool.ids), **how).ids]
    count = 0
    while count < len(whole) and sum(whole[: count + 1]) <= budget:
        count += 1
    for k in lengths_to_try(np.array(list(tokens.values())), budget):
        picks = drive(name, pool, k, **how)
        found, used = prefix_that_fits([tokens[text] for text in picks.ids], budget)
        if found < len(picks.ids):
            break
    assert (found, used) == (count, sum(whole[:count]))
    assert [tokens[text] for text in picks.ids[:found]] == whole[:count]


@pytest.mark.parametrize("name", NAMES)
def test_memory_of_what_looks_at_similarities_does_not_grow_with_the_pool(name):
    selector = selectors()[name]
    if not {"query_similarity", "terms"} & set(selector.inputs):
        pytest.skip("looks at other things")
    chosen = {key: option.default for key, option in selector.options.items()}
    words = tuple(np.arange(8, dtype=np.int32) for _ in range(64))
    small, large = (
        planned_memory(selector, Task(64, rows, 10_000, 0, chosen, width=1024, words=words))
        for rows in (10**6, 10**8)
    )
    assert small == large < 1.5e9
