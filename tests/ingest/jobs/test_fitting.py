"""Fits run once, on one sample, whatever interrupts them, and their columns come with recipes."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from helpers import toy_fits
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_backbone
from helpers.toy_fits import Centre

import coresetdb
from coresetdb.ingest.create import pending
from coresetdb.ingest.fits.sampling import sample_of_pool
from coresetdb.ingest.jobs import fitting as jobs
from coresetdb.ingest.jobs.fitting import fit_features
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.representations import nait, registry
from coresetdb.ingest.representations.trim_basis import TrimBasis
from coresetdb.schemas.errors import FingerprintError, UsageError
from coresetdb.store import catalog, features


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    toy_fits.register(monkeypatch)
    yield
    registry.forget_installed()


@pytest.fixture
def create(tmp_path, tiny_llama):
    def make(features="rds,counted", name="pool"):
        place, before = str(tmp_path / name), len(Centre.ran)
        database = coresetdb.create(
            place, backbone=str(tiny_llama), dtype="float32", features=features
        )
        del Centre.ran[before:]  # what the trial of the backbone ran
        return database

    return make


def records(n, start=0):
    return [
        {"prompt": f"How many? {'x' * (i % 50)} {i}", "response": f"It is {i}."}
        for i in range(start, start + n)
    ]


class Told:
    def __init__(self):
        self.said, self.learned = [], []

    def say(self, sentence):
        self.said.append(sentence)

    def advance(self, **news): ...

    def learn(self, *, name, share, said):
        self.learned.append((name, share, said))


def names_of(database):
    return set(database.store.dataset("pool").schema.names)


def test_the_first_ingest_fits_and_featurizes(create, tmp_path):
    database = create("rds,counted,spreading")
    assert database.pending() == ["counted", "spreading"]
    assert "counted" not in names_of(database)
    told = Told()
    account = database.ingest(write_jsonl(tmp_path / "a.jsonl", records(40)), progress=told)
    assert account.total("new") == 40
    assert database.pending() == []
    table = database.store.dataset("pool").to_table()
    assert table["counted"].null_count == table["spreading"].null_count == 0
    assert len(Centre.ran) == 1 and len(Centre.ran[0]) == 8  # shared by both
    assert any("read once for the sample" in sentence for sentence in told.said)
    assert ("centre", 0.25, "fit 1 of 2, loss 1.0") in told.learned  # half of the first
    recipe = catalog.recipes(database.store)["spreading"]
    assert set(recipe.artifacts) == {"centre/1", "centre/2", "spread"}
    again = database.ingest(write_jsonl(tmp_path / "b.jsonl", records(10, start=35)))
    assert (again.total("new"), again.total("duplicate")) == (5, 5)
    assert len(Centre.ran) == 1


def test_fit_learns_without_ingesting(create, tmp_path):
    database = create()
    file = write_jsonl(tmp_path / "a.jsonl", records(30))
    (recipe,) = database.fit(file)
    assert recipe.representation == "counted"
    assert database.store.dataset("pool").count_rows() == 0
    assert {"counted", "counted_reason"} <= names_of(database)
    assert {"counted"} <= set(database.store.dataset("targets").schema.names)
    assert database.fit(file) == [] and len(Centre.ran) == 1


def test_killed_between_outputs_it_goes_on(create, tmp_path, monkeypatch):
    database = create()
    file = write_jsonl(tmp_path / "a.jsonl", records(30))
    monkeypatch.setattr(Centre, "stop_after", "centre/1")
    with pytest.raises(KeyboardInterrupt):
        database.fit(file)
    first = database.store.dataset("artifacts").to_table(columns=["key", "bytes"])
    monkeypatch.setattr(Centre, "stop_after", None)
    told = Told()
    database.fit(file, progress=told)
    assert any("centre/1 already fitted" in sentence for sentence in told.said)
    kept = dict(zip(first["key"].to_pylist(), first["bytes"].to_pylist(), strict=True))
    after = database.store.dataset("artifacts").to_table(columns=["key", "bytes"]).to_pylist()
    assert kept.items() <= {row["key"]: row["bytes"] for row in after}.items()


def test_killed_before_the_recipe_the_columns_are_taken_up(create, tmp_path, monkeypatch):
    database = create()
    file = write_jsonl(tmp_path / "a.jsonl", records(30))
    monkeypatch.setattr(catalog, "put_recipe", fail)
    with pytest.raises(RuntimeError, match="killed"):
        database.ingest(file)
    monkeypatch.undo()
    toy_fits.register(monkeypatch)
    assert "counted" in names_of(database) and database.pending() == ["counted"]
    database = coresetdb.connect(database.store.uri)
    assert database.ingest(file).total("new") == 30
    assert database.store.dataset("pool").to_table()["counted"].null_count == 0
    assert Centre.ran == []  # what was learned is kept


def fail(*args):
    raise RuntimeError("killed")


def test_two_that_fit_at_once_end_with_one_recipe(create, tmp_path, monkeypatch):
    database = create()
    other = coresetdb.connect(database.store.uri)
    file = write_jsonl(tmp_path / "a.jsonl", records(30))
    run = Centre.run

    second = write_jsonl(tmp_path / "b.jsonl", records(30, start=100))
    told = Told()

    def joined(self, fitting):
        thread.start()
        while not any("waiting" in sentence for sentence in told.said):
            time.sleep(0.01)
        run(self, fitting)

    thread = threading.Thread(target=other.fit, args=[second], kwargs={"progress": told})
    monkeypatch.setattr(Centre, "run", joined)
    (mine,) = database.fit(file)
    thread.join()
    theirs = catalog.recipes(other.store)["counted"]
    assert mine.fingerprint == theirs.fingerprint and len(Centre.ran) == 1
    assert mine.columns == theirs.columns == ("counted", "counted_reason")
    assert database.store.dataset("recipes").count_rows() == 2


def test_too_few_rows_fail_before_anything_is_featurized(create, tmp_path):
    database = create()
    for rows, complaint in ((2, "centre needs 3 rows, not 2"), (0, "nothing can be fitted")):
        with pytest.raises(UsageError, match=rf"{complaint}.*needed for counted; nothing was"):
            database.ingest(write_jsonl(tmp_path / "few.jsonl", records(rows)))
    assert database.store.dataset("pool").count_rows() == 0
    assert database.pending() == ["counted"]


def test_rejected_records_are_named_when_nothing_is_left(create, tmp_path):
    rows = [{"prompt": "?", "response": ""}] * 3
    with pytest.raises(UsageError, match=r"of 3 records read, none can be used.*empty response"):
        create().fit(write_jsonl(tmp_path / "a.jsonl", rows))


def test_standard_input_is_read_twice_and_loses_nothing(create, tmp_path, monkeypatch):
    database = create()
    text = "".join(json.dumps(row) + "\n" for row in records(50)).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    told = Told()
    account = database.ingest("-", corpus="typed", progress=told)
    (counts,) = account.files
    assert (counts.file, counts.new, counts.bytes) == ("-", 50, len(text))
    assert any(sentence.startswith("standard input: copied") for sentence in told.said)
    (run,) = database.store.dataset("runs").to_table().to_pylist()
    assert run["files"][0]["file"] == "-"
    sources = database.store.dataset("sources").to_table(columns=["file"])
    assert set(sources["file"].to_pylist()) == {"-"}


def test_a_pipe_is_read_twice_too(create, tmp_path):
    database = create()
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    text = "".join(json.dumps(record) + "\n" for record in records(300))
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    account = database.ingest(str(pipe))
    writer.join()
    assert account.files[0].file == str(pipe) and account.total("new") == 300


def test_a_broken_copy_is_told_by_its_own_name(create, monkeypatch):
    database = create()
    lines = [json.dumps(row) for row in records(20)]
    text = ("[" + ",\n".join(lines) + ",").encode()  # an array that is cut off
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    account = database.ingest("-")
    assert account.total("new") == 20
    assert [fault[:3] for fault in account.faults] == ["-: "]


def test_the_sample_does_not_depend_on_files_or_order(create, tmp_path):
    rows = records(200)
    one = create(name="one")
    one.fit([write_jsonl(tmp_path / "a.jsonl", rows)])
    other = create(name="other")
    parts = [
        write_jsonl(tmp_path / "b.jsonl", rows[120:]),
        write_jsonl(tmp_path / "c.jsonl", [*rows[:130], *rows[:5]]),
    ]
    other.fit(parts)
    assert Centre.ran[0] == Centre.ran[1]
    full = create("rds", name="full")
    full.ingest(str(tmp_path / "a.jsonl"))
    sample = sample_of_pool(full.store, 0, lambda total: 8)
    assert list(sample.ids) == Centre.ran[0] and sample.total == 200
    assert [instruction.id for instruction in sample.instructions] == list(sample.ids)


def test_a_late_feature_is_settled_from_the_pool(create, tmp_path):
    database = create("rds")
    database.ingest(write_jsonl(tmp_path / "a.jsonl", records(40)))
    wanted = registry.parse_specs("counted,counted:seed=1")
    first, second = fit_features(
        database.store,
        wanted,
        lambda seed, rows: sample_of_pool(database.store, seed, rows),
        lambda: tiny_backbone(),
    )
    assert first.columns == ("counted", "counted_reason")
    assert second.columns == tuple(f"{c}__{second.fingerprint[:8]}" for c in first.columns)
    assert Centre.ran[0] != Centre.ran[1]
    assert set(first.columns + second.columns) <= names_of(database)
    assert pending(database.store) == []


def test_a_target_may_come_before_the_fit(create, tmp_path):
    database = create()
    database.add_target("few", write_jsonl(tmp_path / "t.jsonl", records(3)))
    row = database.store.dataset("targets").to_table().to_pylist()[0]
    assert row["rds"] and "counted" not in row
    database.ingest(write_jsonl(tmp_path / "a.jsonl", records(30)))
    assert database.store.dataset("targets").to_table()["counted"].null_count == 3


def test_a_drop_that_was_killed_is_finished_though_the_store_still_asks_for_it(create, monkeypatch):
    database = create("rds,losses:alone=false")

    def die(*_):
        raise SystemExit

    monkeypatch.setattr(features, "_drop_columns", die)
    with pytest.raises(SystemExit):
        database.remove_feature("losses")
    monkeypatch.undo()
    again = coresetdb.connect(database.store.uri)
    assert {"nll", "rds"} <= names_of(again)
    assert again.remove_feature("losses").feature == "losses"
    assert "nll" not in names_of(again) and "rds" in names_of(again)
    assert again.pending() == []


def test_what_another_process_dropped_does_not_come_back(create, tmp_path):
    database = create("rds,losses:alone=false")
    coresetdb.connect(database.store.uri).remove_feature("losses")
    assert database.pending() == []
    database.ingest(write_jsonl(tmp_path / "a.jsonl", records(5)))
    assert "nll" not in names_of(database)


def test_a_feature_of_another_version_is_refused_and_not_made_beside_itself(
    create, tmp_path, monkeypatch
):
    database = create("rds,losses:alone=false")
    monkeypatch.setattr(type(registry.get("losses")), "version", 99)
    assert database.pending() == []
    before = names_of(database)
    with pytest.raises(FingerprintError, match=r"made by version .* and this coresetdb has .* 99"):
        database.ingest(write_jsonl(tmp_path / "a.jsonl", records(5)))
    assert names_of(database) == before
    database.remove_feature("losses")  # as the message says
    assert database.pending() == []
    database.featurize("losses:alone=false")
    assert database.ingest(write_jsonl(tmp_path / "a.jsonl", records(5))).total("new") == 5
    assert catalog.recipes(database.store)["nll"].version == 99


def tokens_of(database, file):
    """Tokens of the records of a file, counted by ingesting them."""
    database.ingest(file)
    return sum(database.store.dataset("pool").to_table(columns=["tokens"])["tokens"].to_pylist())


def test_fits_of_one_model_state_share_one_forward_over_the_sample(create, tmp_path, monkeypatch):
    monkeypatch.setattr(nait, "FULL_NUMBERS", 0)  # so that this small a model needs bases
    forwards: list[tuple[str, int]] = []
    fitting = [False]
    states, run = Backbone.states, jobs.run

    def counted(self, ids, mask, logits=False):
        if fitting[0]:
            forwards.append((self.model.config._attn_implementation, int(mask.sum())))
        return states(self, ids, mask, logits)

    def watched(*given):
        fitting[0] = True
        run(*given)
        fitting[0] = False

    monkeypatch.setattr(Backbone, "states", counted)
    monkeypatch.setattr(jobs, "run", watched)
    database = create("rds,nait:width=4,trim")
    forwards.clear()  # those of the trial
    told = Told()
    database.fit(write_jsonl(tmp_path / "a.jsonl", records(40)), progress=told)
    sample = tokens_of(database, str(tmp_path / "a.jsonl"))
    whole = [tokens for kind, tokens in forwards if kind != "eager"]
    assert sum(whole) == sample
    assert {name for name, _, _ in told.learned} >= {"nait-bases and trim-basis", "trim-basis"}
    # Attention maps of the pseudo-targets: 8 of at most 8 rows each.
    maps = [tokens for kind, tokens in forwards if kind == "eager"]
    assert len(maps) == 64 and max(maps) < sample / 10


def test_killed_between_fits_that_share_a_pass(create, tmp_path, monkeypatch):
    monkeypatch.setattr(nait, "FULL_NUMBERS", 0)
    file = write_jsonl(tmp_path / "a.jsonl", records(40))
    whole, killed = create("nait:width=4,trim", "whole"), create("nait:width=4,trim", "killed")
    whole.fit(file)
    monkeypatch.setattr(TrimBasis, "finish", fail)
    with pytest.raises(RuntimeError, match="killed"):
        killed.fit(file)
    monkeypatch.undo()
    kept, both = (each.store.dataset("artifacts").count_rows() for each in (killed, whole))
    assert 0 < kept < both
    monkeypatch.setattr(nait, "FULL_NUMBERS", 0)
    told = Told()
    killed.fit(file, progress=told)
    assert any(sentence.startswith("trim-basis: fitting") for sentence in told.said)
    one, other = (
        {recipe.feature: recipe.artifacts for recipe in catalog.recipes(database.store).values()}
        for database in (whole, killed)
    )
    assert one == other
