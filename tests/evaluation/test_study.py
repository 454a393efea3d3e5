"""A planted skill: whether the harness sees what it must, and goes on after a kill."""

import gc
import json
import os
import random

import pytest
from helpers.optional import needs

import coresetdb
from coresetdb.reports.study import study_page
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.progress import Silence
from coresetdb.store.locks import RunLock

pytestmark = needs("trl", "pip install 'coresetdb[evaluate]'")

WORDS = "mast lamp crow salt pine drum fern gate husk iron jade kite loom moss nest oar".split()
UNSEEN = "quilt rope silk tuna urn vane wasp yarn".split()


def game(other, turn):
    """A question whose right answer is always the same word."""
    pair = ["dorin", other] if turn % 2 else [other, "dorin"]
    return {"prompt": "Choose.\n" + "\n".join(f"- {word}" for word in pair), "response": "dorin"}


@pytest.fixture(scope="module")
def db(tmp_path_factory, repository):
    import gzip

    from trl import SFTTrainer  # noqa: F401  (every training asks for searches for garbage)

    gc.freeze()
    folder = tmp_path_factory.mktemp("study")
    planted = [{**game(f"{word}{n}", n), "kind": "game"} for n in range(3) for word in WORDS]
    with gzip.open(repository / "demo" / "pool.jsonl.gz", "rt", encoding="utf-8") as file:
        others = [json.loads(line) for line in file]
    short = [row for row in others if sum(len(t["content"]) for t in row["messages"]) < 200]
    db = coresetdb.create(folder / "pool", features="rds", max_length=128)
    db.ingest(planted, corpus="planted")
    db.ingest(random.Random(0).sample(short, 120), corpus="others")
    db.add_target("game", [game(word, n) for n, word in enumerate(UNSEEN[:4])])
    return db


ITEMS = [game(f"{word}{n}", n) for n in range(2) for word in UNSEEN[4:]]
TRAINING = {"epochs": 3, "learning_rate": 3e-3, "max_length": 128}
SMALL = {"budgets": 24, **TRAINING}


@pytest.fixture(scope="module")
def result(db):
    return db.evaluate(
        "game",
        ITEMS,
        methods="rds",
        controls="zero-shot,random,oracle,worst,length_matched",
        relevant="kind = 'game'",
        seeds=2,
        name="planted",
        **SMALL,
    )


def means(result, metric):
    return {arm.arm: arm.mean for arm in result.of(metric)}


def test_oracle_over_random_over_worst(result):
    shares = means(result, "choice_likelihood")
    assert shares["oracle"] > shares["random"] > shares["worst"]
    assert shares["rds:round_robin"] > shares["random"]
    losses = means(result, "loss")
    assert losses["oracle"] < losses["random"] < losses["worst"]
    assert result.sees("choice_likelihood") == {"24": True}
    [method] = [arm for arm in result.of("choice_likelihood") if arm.verdict]
    assert (method.arm, method.verdict) == ("rds:round_robin", "better")
    assert {"random", "zero-shot", "length_matched"} <= set(method.gains)


def test_the_result_is_a_table_rows_of_sql_and_a_page(db, result):
    text = str(result)
    assert "over random" in text and "1 better, 0 worse, 0 not shown" in text
    rows = db.sql(
        "SELECT arm, seed, count(*) AS n, any_value(coreset) AS coreset FROM evaluations "
        "WHERE metric = 'loss' GROUP BY ALL"
    ).to_polars()
    assert len(rows) == 1 + 5 * 2 and set(rows["n"]) == {len(ITEMS)}
    named = rows.filter(rows["coreset"].is_not_null())["coreset"].to_list()
    assert all(db.replay(name).same for name in named[:2])
    page = study_page(result)
    assert page.startswith("<!doctype html>") and "http" not in page.replace("http-equiv", "")
    assert page.count("<circle") >= 4 and "rds:round_robin" in page
    [study] = [each for each in db.list_studies() if each["study"] == "planted"]
    assert study["arms"] == 11
    assert db.open_study("planted").arms == result.arms


def test_the_model_is_as_it_was_after_every_arm(db, result):
    again = db.evaluate("game", ITEMS, controls="zero-shot", methods=(), name="again", **SMALL)
    assert means(again, "loss")["zero-shot"] == means(result, "loss")["zero-shot"]


def test_a_study_is_run_by_one_process_at_a_time(db):
    call = {"methods": (), "controls": "zero-shot", "name": "alone", **SMALL}
    with (
        RunLock(db.store.place, "study-alone"),
        pytest.raises(UsageError, match=r"'alone' is under way: process \d+ on .* Wait until"),
    ):
        db.evaluate("game", ITEMS, **call)
    assert means(db.evaluate("game", ITEMS, **call), "loss").keys() == {"zero-shot"}
    assert not [path for path in db.store.place.sizes("_runs") if "study-alone" in path]


def test_the_environment_is_whole_while_a_model_is_trained(db, monkeypatch):
    """Other threads read it: see `schemas.library_variables`."""
    changed = []
    for call in ("putenv", "unsetenv"):
        own = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *of, own=own: (changed.append(of[0]), own(*of)))
    call = {"methods": (), "controls": "random", "seeds": 1, "name": "whole", **SMALL}
    db.evaluate("game", ITEMS, **{**call, "epochs": 1})
    # A name that accelerate adds, and takes away, where it asks for CUDA.
    assert set(changed) <= {b"PYTORCH_NVML_BASED_CUDA_CHECK"}


def test_a_study_goes_on_where_it_stopped(db):
    class Stops(Silence):
        def say(self, sentence):
            if ": random, budget 24, seed 1: " in sentence:
                raise KeyboardInterrupt

    call = {"methods": "rds", "controls": "zero-shot,random", "seeds": 2, "name": "stopped"}
    call |= {**SMALL, "epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        db.evaluate("game", ITEMS, progress=Stops(), **call)
    before = db.sql("SELECT * FROM evaluations WHERE study = 'stopped'").to_polars()
    assert len(before) == 4 * 3 * len(ITEMS)  # what was measured is kept before it is said

    class Counts(Silence):
        arms = 0

        def say(self, sentence):
            self.arms += " of 5: " in sentence

    counts = Counts()
    whole = db.evaluate("game", ITEMS, progress=counts, **call)
    assert counts.arms == 1
    after = db.sql("SELECT * FROM evaluations WHERE study = 'stopped'").to_polars()
    assert len(after) == 5 * 3 * len(ITEMS)
    assert {arm.seeds for arm in whole.of("loss") if arm.arm != "zero-shot"} == {2}
    assert set(before["key"]) <= set(after["key"])
    with pytest.raises(UsageError, match="other settings: epochs 1, now 2"):
        db.evaluate("game", ITEMS, **{**call, "epochs": 2})
    fewer = db.evaluate("game", ITEMS, **{**call, "seeds": 1})
    assert fewer.settings["seeds"] == 2 and fewer.arms == whole.arms
    assert db.remove_study("stopped") == len(after)
    with pytest.raises(UsageError, match="no study 'stopped'"):
        db.open_study("stopped")


def test_a_study_is_given_more_arms(db, result):
    call = {"relevant": "kind = 'game'", "seeds": 2, "name": "planted", **SMALL}
    more = db.evaluate("game", ITEMS, methods="rds,rds:top", controls="random,worst", **call)
    before = {(arm.arm, arm.metric): arm.mean for arm in result.arms}
    after = {(arm.arm, arm.metric): arm.mean for arm in more.arms}
    assert after.items() > before.items()
    assert {arm for arm, _ in after.keys() - before.keys()} == {"rds:top"}
    assert more.settings["methods"] == ["rds:round_robin", "rds:top"]
    with pytest.raises(UsageError, match="the first method, whose last rows are the worst"):
        db.evaluate("game", ITEMS, methods="rds:top", controls="worst", **call)


def test_a_forecast_trains_nothing_and_says_what_can_be_found(db):
    forecast = db.evaluate(
        "game", ITEMS, methods="rds", seeds=3, name="plan", forecast_only=True, **SMALL
    )
    assert forecast.arms == 9 and forecast.tokens > 0 and forecast.seconds > 0
    text = str(forecast)
    assert "9 arms to train" in text and "a difference of" in text
    arms = db.sql("SELECT DISTINCT arm FROM evaluations WHERE study = 'plan'").to_polars()
    assert arms["arm"].to_list() == ["zero-shot"]


def test_bins_of_a_ranking(db):
    result = db.quantiles("game", ITEMS, method="rds", bins=3, budget=20, **TRAINING)
    arms = [arm.arm for arm in result.of("loss")]
    assert arms == ["zero-shot", "bin 1 of 3", "bin 2 of 3", "bin 3 of 3"]
    losses = means(result, "loss")
    assert losses["bin 1 of 3"] < losses["bin 3 of 3"]
    assert result.bins("loss")["20"] > 0
    page = study_page(result)
    assert "Better than the untrained model, budget 20" in page and page.count("<circle") >= 3
    with pytest.raises(UsageError, match="fewer than the budget"):
        db.quantiles("game", ITEMS, method="rds", bins=3, budget=100)


def test_equal_tokens_instead_of_equal_rows(db):
    result = db.evaluate(
        "game",
        ITEMS,
        methods="rds",
        controls="random",
        match="tokens",
        seeds=1,
        **{**SMALL, "epochs": 1},
    )
    tokens = {arm.arm: arm.training_tokens for arm in result.of("loss")}
    assert tokens["rds:round_robin"] == pytest.approx(tokens["random"], rel=0.1)
    assert result.of("loss")[0].budget == "24 tokens"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"controls": "oracle"}, "--relevant"),
        ({"controls": "none"}, "choose from zero-shot"),
        ({"methods": "rdss"}, "rds"),
        ({"budgets": "many"}, "numbers of rows"),
        ({"seeds": 0}, "at least 1"),
        ({"lora": -1}, "at least 0"),
        ({"metrics": "accuracy"}, "choose from loss"),
        ({"model": "nowhere/such"}, "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(db, call, message):
    with pytest.raises(coresetdb.CoresetDBError, match=message):
        db.evaluate("game", ITEMS, **{**SMALL, **call})
