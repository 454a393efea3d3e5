"""Real corpora and a real target, with the built-in proxy: the answer is the right corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

import coresetdb

BUDGET = 60


@pytest.fixture(scope="module")
def database(data: Path, tmp_path_factory: pytest.TempPathFactory) -> coresetdb.Database:
    """Parts of alpaca_52k and gsm8k_train, and the target gsm8k (32 examples)."""
    made = coresetdb.create(str(tmp_path_factory.mktemp("real") / "pool"), features="rds")
    made.ingest(str(data / "pools/alpaca_52k.json.gz"), limit=300)
    made.ingest(str(data / "pools/gsm8k_train.jsonl.gz"), limit=100)
    made.add_target("gsm8k", str(data / "targets/gsm8k.query.jsonl.gz"))
    return made


def share_of(database: coresetdb.Database, corpus: str, **asked) -> float:
    coreset = database.select("gsm8k", budget=BUDGET, **asked)
    assert len(coreset) == len(set(coreset.ids)) == BUDGET
    return sum(share.picked for share in coreset.mix if share.corpus == corpus) / BUDGET


def files_and_ids(database: coresetdb.Database) -> dict[str, list[str]]:
    return {
        part.data_files()[0].path: part.to_table(columns=["id"])["id"].to_pylist()
        for part in database.store.dataset("pool").get_fragments()
    }


def test_the_picks_for_gsm8k_come_from_gsm8k(database):
    assert share_of(database, "gsm8k_train") >= 0.8
    assert share_of(database, "gsm8k_train", method="rds:top") >= 0.8
    assert share_of(database, "gsm8k_train", method="random") < 0.5


def test_later_corpora_cost_their_own_rows_and_change_nothing_else(database, data):
    before = files_and_ids(database)
    for name in ("gpteacher_codegen", "dolly_3k"):
        account = database.ingest(str(data / f"pools/{name}.json.gz"), limit=120)
        assert account.total("new") + account.total("duplicate") + account.total("rejected") == 120
    after = files_and_ids(database)
    assert {path: after[path] for path in before} == before
    assert share_of(database, "gsm8k_train") >= 0.8
