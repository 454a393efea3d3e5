"""When a target is told that its cosines drown in the noise of the sketch, and when not."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl
from helpers.selector_driver import random_ids
from helpers.tiny_models import tiny_folder

from coresetdb.database import Database
from coresetdb.query.sketch_noise import (
    MOST_NOISE,
    OPPOSITE,
    likeness_of,
    spread_over,
    target_notes,
)
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import MissingFeatureError

WIDTH = 4096


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def gradients(generator, rows, common, directions=1):
    """Vectors of which `common` of the square lies in a few fixed directions, of either kind."""
    shared = unit(generator.standard_normal((directions, WIDTH)))
    own = unit(generator.standard_normal((rows, WIDTH)))
    at = generator.integers(0, directions, rows)
    return unit(np.sqrt(common) * shared[at] + np.sqrt(1 - common) * own)


def sketched(generator, dims, *vectors):
    """Random projections, as good as a count sketch."""
    matrix = generator.standard_normal((WIDTH, dims)) / math.sqrt(dims)
    return [unit(each @ matrix).astype(np.float16) for each in vectors]


def test_half_of_the_best_are_others_where_that_much_is_noise():
    """Two sketches: the same signal, other noise; the figure that `MOST_NOISE` stands for."""
    generator, rows = np.random.default_rng(0), 200_000
    signal = generator.standard_normal(rows) * math.sqrt(1 - MOST_NOISE)
    one, other = (signal + generator.standard_normal(rows) * math.sqrt(MOST_NOISE) for _ in "ab")
    best = [set(np.argsort(-scores)[: rows // 20]) for scores in (one, other)]
    same = len(best[0] & best[1]) / len(best[0])
    assert same == pytest.approx(0.5, abs=0.015)


def test_noise_is_measured_by_the_halves():
    generator = np.random.default_rng(1)
    examples, rows = gradients(generator, 16, 0.3), gradients(generator, 400, 0.1, 5)
    exact = examples @ rows.T
    for dims in (256, 1024):
        errors, found = [], []
        for seed in range(4):
            q, x = sketched(np.random.default_rng(seed), dims, examples, rows)
            cosines = q.astype(np.float64) @ x.astype(np.float64).T
            errors.append(cosines - exact)
            found.append(spread_over(q, x))
            assert found[-1].spread == pytest.approx(np.sqrt(cosines.var(axis=1).mean()), rel=1e-3)
        noise = np.sqrt(np.mean(np.square(errors)))
        assert noise == pytest.approx(dims**-0.5, rel=0.1)
        assert np.mean([each.noise for each in found]) == pytest.approx(noise, rel=0.1)
        # The examples are alike, so the mean over 16 has far more than a sixteenth of the noise.
        mean_noise = np.mean([each.mean(axis=0).var() for each in errors])
        spread = np.mean([each.mean(axis=0).var() for each in errors]) + exact.mean(axis=0).var()
        share = np.mean([each.mean_share for each in found])
        assert share == pytest.approx(mean_noise / spread, rel=0.35)
        assert mean_noise > 4 * noise**2 / 16


def test_what_examples_have_in_common():
    generator = np.random.default_rng(2)
    alike, apart = gradients(generator, 24, 0.3), gradients(generator, 24, 0.0)
    grouped = gradients(generator, 24, 0.4, 6)
    either = alike * np.where(generator.random(24) < 0.5, 1, -1)[:, None]
    alike, apart, grouped, either = sketched(generator, 1024, alike, apart, grouped, either)
    assert likeness_of(alike).share < 0.05 and likeness_of(alike).opposite == 0
    assert likeness_of(alike).mean == pytest.approx(0.3, abs=0.03)
    assert likeness_of(apart).share > 0.5 and likeness_of(apart).opposite == 0
    # Groups that have nothing in common are neither noise nor opposite.
    assert likeness_of(grouped).share < 0.5 and likeness_of(grouped).opposite < OPPOSITE
    assert likeness_of(either).opposite > 0.4 and likeness_of(either).share < 0.05


@pytest.fixture
def filled(tmp_path):
    """A function: a store whose `less` is replaced by these vectors, with a target."""

    def fill(pool, examples, dims):
        database = Database.create(
            str(tmp_path / f"store{dims}"),
            backbone=str(tiny_folder()),
            dtype="float32",
            features=f"rds,less:dims={dims}",
        )
        row = [{"prompt": "what is two and two", "completion": "it is four"}]
        database.ingest(write_jsonl(tmp_path / "pool.jsonl", row))
        database.add_target("t", write_jsonl(tmp_path / "t.jsonl", row))
        store, generator = database.store, np.random.default_rng(9)
        for table, vectors in (("pool", pool), ("targets", examples)):
            one = store.dataset(table).to_table()  # every row is this one with another vector
            many = pa.concat_tables([one] * len(vectors))
            ids = random_ids(generator, len(vectors))
            other = {"id": ids, "key": ids, "position": list(range(len(vectors)))}
            other["less"] = pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel(), pa.float16()), type=one.schema.field("less").type
            )
            for field in one.schema:
                if field.name in other:
                    at = one.schema.get_field_index(field.name)
                    values = pa.array(other[field.name]).cast(field.type)
                    many = many.set_column(at, field, values)
            store.delete(table, "true")
            store.insert(table, many)
        return Database(database.store)

    return fill


def test_a_selection_says_what_drowns_and_what_to_do(filled):
    generator = np.random.default_rng(3)
    examples = gradients(generator, 12, 0.3)
    relevant = unit(gradients(generator, 50, 0.0) + 0.5 * examples.mean(axis=0))
    pool = np.concatenate([gradients(generator, 200, 0.0), relevant])
    x, q = sketched(generator, 128, pool, examples)
    database = filled(x, q, 128)
    notes = database.select("t", method="less", budget=20).notes
    said = next(note for note in notes if "noise" in note)
    found = spread_over(q, x)
    assert said.startswith(
        f"target t: less: a cosine has a noise of {found.noise:.3f} by the sketch"
    )
    assert "of 128 numbers, and those of 250 sampled rows with an example spread by " in said
    assert f"{found.spread:.3f}: {found.share:.0%} of that variance is noise" in said
    assert re.search(r"leaves about \d+% noise \(coresetdb featurize \S+ less:dims=\d+\)", said)
    assert "or another feature, such as rds" in said
    assert not any("noise" in note for note in database.select("t", method="rds", budget=9).notes)
    squares = database.select("t", method="less(sign=any)", budget=20).notes
    assert not any("noise" in note for note in squares)
    mean = database.select("t", method="less:top", budget=20).notes
    assert any("tells the mean cosines of 250 sampled rows with the 12 examples" in n for n in mean)


def test_a_target_is_told_of_examples_that_point_either_way(filled):
    generator = np.random.default_rng(5)
    examples = gradients(generator, 12, 0.3) * np.where(np.arange(12) % 2, 1, -1)[:, None]
    x, q = sketched(generator, 1024, gradients(generator, 60, 0.0), examples)
    store = filled(x, q, 1024).store
    (note,) = target_notes(Snapshot(store), "t")  # of 60 rows nothing is said
    opposite = likeness_of(q).opposite
    assert note.startswith("less: the gradients of the examples point either way")
    assert f"{opposite:.0%} are negative" in note and note.endswith("Try less(sign=any)")


def test_a_target_is_told_of_examples_within_the_noise(filled):
    generator = np.random.default_rng(6)
    x, q = sketched(generator, 64, gradients(generator, 60, 0.0), gradients(generator, 9, 0.0))
    store = filled(x, q, 64).store
    (note,) = target_notes(Snapshot(store), "t")
    assert "lie within the noise of the sketch (0.1" in note
    assert "it shows nothing that they share. Try a larger sketch (coresetdb featurize " in note
    assert note.endswith(" less:dims=256); or another feature, such as rds")


def test_a_pool_without_rows_leaves_the_examples_alone_to_compare(tmp_path):
    database = Database.create(
        str(tmp_path / "store"),
        backbone=str(tiny_folder()),
        dtype="float32",
        features="rds,less:dims=4096",
    )
    rows = [{"prompt": f"what is {word}", "completion": f"it is {word}"} for word in "abcd"]
    added = database.add_target("t", write_jsonl(tmp_path / "t.jsonl", rows))
    assert added.target.examples == 4 and not any("noise" in note for note in added.notes)
    with pytest.raises(MissingFeatureError, match="there is no mean to subtract"):
        database.select("t", method="rds(centre=pool)", budget=1)
    for method in ("less", "rds:knn_kde"):
        assert database.select("t", method=method, budget=1, dry_run=True).ids == []


def test_it_is_silent_where_signal_stands_out(filled):
    generator = np.random.default_rng(4)
    shared = gradients(generator, 62, 0.3)
    pool = np.concatenate([gradients(generator, 200, 0.0), shared[:50]])
    x, q = sketched(generator, 1024, pool, shared[50:])
    database = filled(x, q, 1024)
    for method in ("less", "less:top", "less:uot"):
        assert not any(
            "noise" in note for note in database.select("t", method=method, budget=9).notes
        )
