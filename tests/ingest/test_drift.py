"""Status says how what was learned suits later corpora, and what to do when it no longer does."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl
from helpers.toy_fits import Count

import coresetdb
from coresetdb.ingest.drift import is_due, status
from coresetdb.ingest.fits.ensemble import HELD_OUT
from coresetdb.ingest.fits.fit import Fit
from coresetdb.ingest.fits.member_noise import Prior
from coresetdb.ingest.passes.reducer import Pass, PassInputs
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.gradfiltering_scores import NORMS, SEEN, reliability
from coresetdb.ingest.representations.representation import Representation
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog
from coresetdb.store.catalog import Artifact, content_of
from coresetdb.store.store import Store


class Basis(Fit):
    name = "toy-basis"

    def __init__(self, seed):
        self.seed = seed

    def spec(self):
        return {"seed": self.seed}

    def outputs(self):
        return (self.name,)

    def sample_rows(self, total):
        return total

    def run(self, fitting):
        fitting.keep(self.name, Artifact({"basis": np.eye(2, dtype=np.float32)}, {"kept": 0.95}))


class Projected(Representation):
    """Keeps 0.95 of rows with short prompts and 0.5 of others."""

    name, version = "toy", 1
    defaults = {"seed": 0}  # noqa: RUF012

    def fits(self, info, options):
        return (Basis(options["seed"]),)

    def fields(self, setup):
        return [
            pa.field("toy", pa.float32()),
            pa.field("toy_kept", pa.float32()),
            pa.field("toy_reason", pa.string()),
        ]

    def passes(self, setup):
        return {Pass(): PassInputs(hidden=True)}

    def reducer(self, each, batch, setup):
        return Count(batch)

    def finish(self, rows, passed, setup):
        n = passed[Pass()]["n"]
        kept = np.where(n < 100, 0.95, 0.5).astype(np.float32)
        return {"toy": n, "toy_kept": kept, "toy_reason": np.full(len(rows), None, dtype=object)}


@pytest.fixture
def database(tmp_path, tiny_llama):
    with registry.added(Projected()):
        place = str(tmp_path / "pool")
        yield coresetdb.create(place, backbone=str(tiny_llama), dtype="float32", features="rds,toy")


def ingest(database, tmp_path, corpus, text):
    rows = [{"prompt": f"{text} {corpus} {i}", "response": f"{i}"} for i in range(6)]
    database.ingest(write_jsonl(tmp_path / f"{corpus}.jsonl", rows))


def test_a_basis_that_loses_a_later_corpus_is_named(database, tmp_path):
    status = database.status()
    assert status.pending == ["toy"] and status.bases == []
    (said,) = [each for each in status.advice() if "Not fitted yet" in each]
    assert (
        f"toy. That is done at the next ingestion, or by coresetdb fit {database.store.uri}" in said
    )
    ingest(database, tmp_path, "like", "short")
    ingest(database, tmp_path, "unlike", "and so on " * 20)
    status = database.status()
    assert status.pending == []
    assert [
        (basis["basis"], basis["corpus"], basis["rows"], basis["refit due"])
        for basis in status.bases
    ] == [("toy_kept", "like", 6, False), ("toy_kept", "unlike", 6, True)]
    assert status.bases[1]["kept"] == pytest.approx(0.5)
    assert status.bases[1]["of the sample"] == pytest.approx(0.95)
    (due,) = status.due
    assert "keeps 0.50 of unlike, and 0.95 of the sample" in due
    assert due.endswith(f"coresetdb featurize {database.store.uri} toy:seed=1")
    assert due in status.advice() and json.dumps(status.as_dict())


def test_the_refit_it_names_makes_a_column_of_its_own(database, tmp_path):
    ingest(database, tmp_path, "like", "short")
    database.featurize("toy:seed=1")
    names = database.store.dataset("pool").schema.names
    assert sum(name.startswith("toy_kept") for name in names) == 2
    bases = {basis["basis"] for basis in database.status().bases}
    assert len(bases) == 2 and all(name.startswith("toy_kept") for name in bases)


def test_a_store_of_a_package_that_is_gone_still_has_a_status(database, monkeypatch):
    monkeypatch.setattr(registry, "_ADDED", {})
    registry.forget_installed()
    status = database.status()
    assert any("unknown feature 'toy'" in each for each in status.advice())


@pytest.mark.parametrize(
    ("kept", "usual", "due"),
    [
        (0.91, 0.95, False),
        (0.89, 0.95, True),
        (0.96, 0.99, False),
        (0.94, 0.99, True),
        (0.7, 0.8, False),
    ],
)
def test_when_a_refit_is_due(kept, usual, due):
    assert is_due(kept, usual) == due


def test_the_gap_of_an_ensemble_is_told(tmp_path):
    columns = (
        "gradfiltering",
        "gradfiltering_norms",
        "gradfiltering_seen",
        "gradfiltering_in_fit",
        "gradfiltering_reason",
    )
    fields = [
        pa.field(columns[0], pa.float32()),
        pa.field(columns[1], pa.list_(pa.float32())),
        pa.field(columns[2], pa.list_(pa.float32())),
        pa.field(columns[3], pa.int8()),
        pa.field(columns[4], pa.string()),
    ]
    store = Store.create(str(tmp_path / "s"), {"backbone": {"name": "toy"}, "features": ""}, fields)
    catalog.put_recipe(store, Recipe("gradfiltering", 2, {"members": 4}, {}, columns))
    assert status(store).ensembles == []
    # Two members saw each of the first rows and are twice as sure of it; nobody saw the third.
    norms = [[4.0, 4.0, 2.0, 2.0]] * 3
    rows = pa.table(
        {
            "id": pa.array([digest(str(n)) for n in range(3)]),
            "corpus": ["toy"] * 3,
            "gradfiltering": pa.array([1.0] * 3, pa.float32()),
            "gradfiltering_norms": pa.array(norms, fields[1].type),
            "gradfiltering_seen": pa.array([[1.0, 1.0], [1.0, 1.0], []], fields[2].type),
            "gradfiltering_in_fit": pa.array([0, 1, None], pa.int8()),
        }
    )
    store.insert("pool", rows)
    (gap,) = status(store).ensembles
    assert (gap["ensemble"], gap["rows in fit"], gap["rows outside"]) == ("gradfiltering", 2, 1)
    assert gap["seen over unseen"] == pytest.approx(0.5)
    assert gap["outside over unseen"] == pytest.approx(1.0)


@pytest.mark.parametrize("late", [2.0, 2.5])
def test_whether_an_ensemble_learned_and_how_far_its_scores_agree(tmp_path, late):
    columns = ("gradfiltering", NORMS, SEEN, "gradfiltering_in_fit", "gradfiltering_reason")
    types = (pa.float32(), pa.list_(pa.float32()), pa.list_(pa.float32()), pa.int8(), pa.string())
    fields = [pa.field(name, type_) for name, type_ in zip(columns, types, strict=True)]
    store = Store.create(str(tmp_path / "s"), {"backbone": {"name": "toy"}, "features": ""}, fields)
    noise = {"relative": {"scale": 0.2, "freedom": 3.0}}
    held_out = Artifact({}, {"rows": 2, "loss": {"early": 2.25, "late": late}, "noise": noise})
    content = content_of(held_out.pack())
    catalog.put_artifact(store, content, HELD_OUT, held_out.pack())
    options = {**registry.get("gradfiltering").defaults, "members": 8, "noise": "shrunk"}
    made = {HELD_OUT: content}
    catalog.put_recipe(store, Recipe("gradfiltering", 2, options, {}, columns, artifacts=made))
    draw = np.random.default_rng(0)
    norms = [draw.lognormal(size=8).tolist() for _ in range(50)]
    rows = pa.table(
        {
            "id": pa.array([digest(str(n)) for n in range(50)]),
            "corpus": ["toy"] * 50,
            "gradfiltering": pa.array([1.0] * 50, pa.float32()),
            NORMS: pa.array(norms, types[1]),
            SEEN: pa.array([[]] * 50, types[2]),
        }
    )
    store.insert("pool", rows)
    told = status(store)
    (row,) = told.ensembles
    expected = reliability(rows, "shrunk", Prior(0.2, 3.0))
    assert (row["early loss"], row["late loss"]) == (2.25, late)
    for name, value in expected.items():
        assert row[name.replace("_", " ")] == pytest.approx(value)
    due = [sentence for sentence in told.advice() if "did not fall" in sentence]
    assert bool(due) == (late == 2.5)
    if due:
        (command,) = re.findall("coresetdb featurize .*", due[0])
        asked = registry.parse_specs(command.split()[-1])[0].options
        assert asked == {**options, "epochs": 2 * options["epochs"]}


def test_an_ensemble_of_the_first_version_tells_no_gap(tmp_path):
    """It kept the norms of all members in one column."""
    columns = (
        "gradfiltering",
        "gradfiltering_norms",
        "gradfiltering_in_fit",
        "gradfiltering_reason",
    )
    fields = [
        pa.field(columns[0], pa.float32()),
        pa.field(columns[1], pa.list_(pa.float32())),
        pa.field(columns[2], pa.int8()),
        pa.field(columns[3], pa.string()),
    ]
    store = Store.create(str(tmp_path / "s"), {"backbone": {"name": "toy"}, "features": ""}, fields)
    catalog.put_recipe(store, Recipe("gradfiltering", 1, {"members": 4}, {}, columns))
    rows = pa.table(
        {
            "id": pa.array([digest("0")]),
            "corpus": ["toy"],
            "gradfiltering": pa.array([1.0], pa.float32()),
            "gradfiltering_norms": pa.array([[4.0] * 8], fields[1].type),
            "gradfiltering_in_fit": pa.array([0], pa.int8()),
        }
    )
    store.insert("pool", rows)
    assert status(store).ensembles == []
