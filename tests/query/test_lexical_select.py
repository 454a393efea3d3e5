"""bm25 and dsir on a real store: ingestion, late rows, filters, several targets, replay."""

from __future__ import annotations

import math
from collections import Counter

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder

from coresetdb.database import Database
from coresetdb.ingest.representations.lexical import word_ids
from coresetdb.query.selection import select
from coresetdb.schemas.errors import MissingFeatureError, UsageError
from coresetdb.schemas.instruction import Instruction

torch.set_num_threads(1)

TOPICS = {
    "sky": "the sky is blue over green hills and rain falls from clouds".split(),
    "sums": "two plus three make five and six minus one is five again".split(),
    "code": "print the list then sort it and return a tree of numbers".split(),
}


def rows(generator, topic, count):
    texts = (generator.choice(TOPICS[topic], generator.integers(3, 20)) for _ in range(count))
    return [
        {"prompt": f"{' '.join(words)} n{number}", "completion": " ".join(words[::2])}
        for number, words in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def lexical_store(tmp_path_factory):
    """90 rows of three corpora, whose words came late, 30 that brought theirs, one without."""
    place, generator = tmp_path_factory.mktemp("lexical"), np.random.default_rng(0)
    database = Database.create(
        str(place / "store"), backbone=str(tiny_folder()), dtype="float32", features="rds"
    )
    for topic in TOPICS:
        database.ingest(write_jsonl(place / f"{topic}.jsonl", rows(generator, topic, 30)))
    database.add_target("early", write_jsonl(place / "early.jsonl", rows(generator, "sums", 3)))
    with pytest.raises(MissingFeatureError, match=r"coresetdb featurize .*store lexical"):
        database.select("early", method="bm25", leakage="off", budget=3)
    database.featurize("lexical")
    more = [*rows(generator, "sums", 30), {"prompt": "?", "completion": "!!"}]
    database.ingest(write_jsonl(place / "more.jsonl", more))
    database.add_target("late", write_jsonl(place / "late.jsonl", rows(generator, "code", 2)))
    return database, place


def texts_of(database, table, where=None):
    found = database.store.dataset(table).to_table(columns=["id", "messages"], filter=where)
    return {
        row["id"]: word_ids(Instruction.from_row(row["messages"], None)).tolist()
        for row in found.to_pylist()
    }


def naive(texts, examples):
    """Mean BM25 over the examples of every row, best first."""
    counted = {key: Counter(words) for key, words in texts.items()}
    holding = Counter(word for each in counted.values() for word in each)
    mean, total = sum(map(len, texts.values())) / len(texts), len(texts)
    scores = {}
    for key, words in texts.items():
        scores[key] = 0.0
        for word in (word for example in examples for word in example):
            n, f = holding[word], counted[key][word]
            norm = 1.2 * (0.25 + 0.75 * len(words) / mean)
            scores[key] += math.log(1 + (total - n + 0.5) / (n + 0.5)) * f * 2.2 / (f + norm)
    return sorted(scores, key=lambda key: (-scores[key], key)), scores


@pytest.mark.parametrize("where", [None, "corpus <> 'sums'"])
def test_bm25_counts_the_eligible_rows(lexical_store, where):
    database, _ = lexical_store
    texts = {key: words for key, words in texts_of(database, "pool", where).items() if words}
    order, scores = naive(texts, texts_of(database, "targets", "target = 'early'").values())
    coreset = database.select(
        "early", method="bm25(by=mean)", leakage="off", budget=40, where=where
    )
    assert coreset.ids == order[:40] and coreset.method == "lexical:bm25(by=mean)"
    expected = [scores[key] / 3 for key in order[:40]]
    np.testing.assert_allclose(coreset.table()["score"], expected, rtol=1e-5)
    everything = database.select("early", method="bm25", leakage="off", budget=200, where=where)
    assert sorted(everything.ids) == sorted(order), "all but the row without a word"
    assert everything.parameters["missing"] == 1 and everything.distance is None


def test_targets_and_their_examples_take_turns(lexical_store):
    database, _ = lexical_store
    table = database.select("early", "late", method="bm25", leakage="off", budget=24).table()
    assert table["target"].to_pylist() == ["early", "late"] * 12
    pulled = Counter(table["query"].to_pylist())
    assert sorted(pulled.values()) == [4, 4, 4, 6, 6]


def test_dsir_prefers_what_the_target_says(lexical_store):
    database, _ = lexical_store
    coreset = database.select("late", method="dsir", leakage="off", budget=25, seed=3)
    corpora = Counter(coreset.table()["corpus"].to_pylist())
    assert coreset.method == "lexical:dsir" and corpora["code"] >= 20
    assert (
        coreset.ids[:10]
        == database.select("late", method="dsir", leakage="off", budget=10, seed=3).ids
    )
    assert (
        coreset.ids != database.select("late", method="dsir", leakage="off", budget=25, seed=4).ids
    )


def test_replay_after_more_rows_and_another_version(lexical_store):
    database, place = lexical_store
    methods = ("bm25", "bm25(by=max,k1=2)", "dsir", "dsir(gumbel=false)")
    coresets = [
        database.select("early", method=method, leakage="off", budget=20, seed=1)
        for method in methods
    ]
    late = rows(np.random.default_rng(9), "sums", 40)
    database.ingest(write_jsonl(place / "again.jsonl", late))
    database.compact()
    assert all(database.replay(coreset.name).same for coreset in coresets)
    assert database.select("early", method="bm25", leakage="off", budget=20).ids != coresets[0].ids


def test_what_cannot_be_asked(lexical_store):
    database, _ = lexical_store
    for method, says in (
        ("lexical:top", "lexical gives no way to compare rows"),
        ("rds:bm25", "rds keeps no words that bm25 could count"),
        ("bm25(k3=1)", "no option 'k3'; bm25 has k1, b, by"),
        ("bm25(b=2)", "b=2: it must be at most 1"),
        ("bm25(k1=-1)", "k1=-1: it must be at least 0"),
        ("dsir(buckets=0)", "buckets=0: it must be at least 1"),
        ("dsir(smoothing=0)", "smoothing=0: it must be at least 1e-12"),
    ):
        with pytest.raises(UsageError, match=says):
            database.select("early", method=method)
    with pytest.raises(UsageError, match="lexical:dsir compares rows with a target: name one"):
        database.select(method="dsir")
    with pytest.raises(UsageError, match="iB of memory"):
        select(database.store, ["early"], method="bm25", budget="5", memory_limit=1000)


def test_bm25_agrees_with_the_full_text_index_of_lance(lexical_store, tmp_path):
    """The same texts in a plain table with an inverted index; one query of distinct words."""
    database, place = lexical_store
    found = database.store.dataset("pool").to_table(columns=["id", "messages"])
    texts = [
        " ".join(turn["content"] for turn in messages) for messages in found["messages"].to_pylist()
    ]
    plain = lance.write_dataset(
        pa.table({"id": found["id"], "text": pa.array(texts)}), str(tmp_path / "plain")
    )
    plain.create_scalar_index(
        "text",
        "INVERTED",
        base_tokenizer="simple",
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
    )
    words = "five again minus rain tree"
    matches = plain.to_table(columns=["id"], full_text_query=words, limit=30, with_row_id=False)
    query = [{"prompt": words.replace(" tree", ""), "completion": "tree"}]
    database.add_target("words", write_jsonl(place / "words.jsonl", query))
    ours = database.select("words", method="bm25", leakage="off", budget=30)
    oracle = dict(zip(matches["id"].to_pylist(), matches["_score"].to_pylist(), strict=True))
    mine = dict(zip(ours.ids, ours.table()["score"].to_pylist(), strict=True))
    assert len(set(oracle) & set(mine)) >= 27
    shared = [key for key in mine if key in oracle]
    np.testing.assert_allclose(
        [mine[key] for key in shared], [oracle[key] for key in shared], rtol=0.02
    )
