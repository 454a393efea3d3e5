"""Vectors made elsewhere: every way they come in files, and as a feature of pool and targets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_stores

from coresetdb.ingest.attachments.vectors import vectors_of_examples
from coresetdb.ingest.create import check_backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.query.targets import add_target
from coresetdb.schemas.errors import InputError, MissingFeatureError, UsageError
from coresetdb.store.features import features_of
from coresetdb.store.integrity.verify import verify
from coresetdb.store.status import status_of

WIDTH = 12


def vectors_for(rows) -> np.ndarray:
    """(n, 12) float32, from the ids alone."""
    seeds = [int(row.id[:8], 16) for row in rows]
    return np.stack([np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds]).astype(
        np.float32
    )


def lists(vectors: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(vectors.tolist(), kind)


def ids_of(rows) -> list[str]:
    return [row.id for row in rows]


def records(rows) -> list[dict]:
    return [{"messages": [turn.as_dict() for turn in row.messages]} for row in rows]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arrow_folder(path: Path, rows: list[dict]) -> None:
    """What `datasets` writes with `save_to_disk`."""
    path.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (path / "state.json").write_text(json.dumps(state))


def bergson(path: Path, vectors: np.ndarray, rows: list[dict], kind: str = "float32") -> Path:
    """A folder as `bergson build` writes it."""
    arrow_folder(path / "data.hf", rows)
    info = {"attribute_tokens": False, "num_items": len(vectors), "num_grads": len(vectors)}
    info |= {"grad_sizes": {"layers.0.mlp": 5, "layers.1.mlp": WIDTH - 5}, "base_dtype": kind}
    (path / "info.json").write_text(json.dumps(info))
    if kind == "bfloat16":
        stored = (np.ascontiguousarray(vectors).view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = vectors.astype(kind)
    (path / "gradients.bin").write_bytes(stored.tobytes())
    return path


def table_file(world, path: Path, kind: pa.DataType) -> Path:
    table = pa.table(
        {
            "id": ids_of(world.rows),
            "text": ["t"] * len(world.rows),
            "embedding": lists(vectors_for(world.rows), kind),
        }
    )
    pq.write_table(table, path, row_group_size=7)
    return path


def made(world, tmp_path, how: str) -> dict:
    """The arguments of `add_vectors` for one way of bringing the same vectors."""
    vectors, rows = vectors_for(world.rows), world.rows
    if how.startswith("parquet"):
        kinds = {
            "float": pa.list_(pa.float32()),
            "double": pa.large_list(pa.float64()),
            "fixed": pa.list_(pa.float32(), WIDTH),
        }
        return {"vectors": table_file(world, tmp_path / "v.parquet", kinds[how.split()[1]])}
    if how == "polars":
        return {"vectors": pl.DataFrame({"id": ids_of(rows), "embedding": vectors})}
    if how == "json lines":
        both = zip(ids_of(rows), vectors.tolist(), strict=True)
        return {"vectors": jsonl(tmp_path / "v.jsonl", [{"id": i, "vec": v} for i, v in both])}
    if how == "array":
        return {"vectors": vectors, "rows": ids_of(rows)}
    if how.startswith("bergson"):
        kind = how.split()[1]
        folder = bergson(tmp_path / "index", vectors, records(rows), kind)
        return {"vectors": folder, "key": "messages"}
    if how == "sharded bergson":
        for number, part in enumerate((slice(0, 11), slice(11, 30))):
            folder = tmp_path / "index" / f"shard-{number:05d}"
            bergson(folder, vectors[part], records(rows[part]))
        return {"vectors": tmp_path / "index", "key": "messages"}
    np.save(tmp_path / "v.npy", vectors)
    if how == "npy beside text":
        (tmp_path / "ids.txt").write_text("\n".join(ids_of(rows)) + "\n")
        return {"vectors": tmp_path / "v.npy", "rows": tmp_path / "ids.txt"}
    if how == "npy beside npy":
        np.save(tmp_path / "ids.npy", np.array(ids_of(rows)))
        return {"vectors": tmp_path / "v.npy", "rows": tmp_path / "ids.npy"}
    if how == "npy beside csv":
        lines = ["n,row", *(f"{n},a{n}" for n in range(len(rows)))]
        (tmp_path / "ids.csv").write_text("\n".join(lines))
        more = {"key": "source_id", "key_column": "row"}
        return {"vectors": tmp_path / "v.npy", "rows": tmp_path / "ids.csv", **more}
    assert how == "npy beside records"
    file = jsonl(tmp_path / "rows.jsonl", records(rows))
    return {"vectors": tmp_path / "v.npy", "rows": file, "key": "messages"}


@pytest.mark.parametrize(
    "how",
    [
        *("parquet float", "parquet double", "parquet fixed", "polars", "json lines", "array"),
        *("npy beside text", "npy beside npy", "npy beside csv", "npy beside records"),
        *("bergson float32", "bergson float16", "bergson bfloat16"),
    ],
)
def test_every_container_gives_the_same_unit_vectors(world, tmp_path, how):
    account = world.database.add_vectors("mine", **made(world, tmp_path, how))
    assert (account.filled, account.unmatched) == (30, 0)
    exact = vectors_for(world.rows).astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    found = world.column("mine", "mine_norm", "mine_reason")
    units = np.array([found[row.id][0] for row in world.rows])
    rough = 1e-2 if "bfloat16" in how else 2e-3
    assert np.abs(units - exact / norms[:, None]).max() < rough
    assert np.allclose([found[row.id][1] for row in world.rows], norms, rtol=rough)
    assert {reason for _, _, reason in found.values()} == {None}
    assert world.store.dataset("pool").schema.field("mine").type == pa.list_(pa.float16(), WIDTH)
    assert verify(world.store.uri, full=True).ok


def test_the_parts_of_an_index_are_one(world, tmp_path):
    account = world.database.add_vectors("mine", **made(world, tmp_path, "sharded bergson"))
    assert account.filled == 30


def test_the_recipe_has_the_hash_of_the_file_and_the_model(world, tmp_path):
    import xxhash

    file = table_file(world, tmp_path / "v.parquet", pa.list_(pa.float32()))
    world.database.add_vectors("mine", file, model="some-model")
    recipe = features_of(world.store)["mine"]
    assert recipe.options["files"] == [xxhash.xxh3_64_hexdigest(file.read_bytes())]
    assert recipe.backbone == {"model": "some-model"}
    assert recipe.columns == ("mine", "mine_norm", "mine_reason")


def test_vectors_that_are_none_are_counted_with_their_reason(world, tmp_path):
    vectors = vectors_for(world.rows).tolist()
    vectors[1], vectors[2][3], vectors[3][0] = [0.0] * WIDTH, float("nan"), float("inf")
    vectors[4] = None
    vectors[5][5] = 3e38  # its square is beyond float32, and it is a vector all the same
    table = pa.table(
        {"id": ids_of(world.rows[:20]), "v": pa.array(vectors[:20], pa.list_(pa.float32()))}
    )
    account = world.database.add_vectors("mine", table)
    assert account.filled == 16
    assert account.without == {
        "the vector is zero": 1,
        "the vector is missing or not finite": 3,
        "not in the file": 10,
    }
    found = world.column("mine", "mine_reason")
    assert found[world.rows[1].id] == (None, "the vector is zero")
    assert np.argmax(found[world.rows[5].id][0]) == 5


def test_vectors_of_two_lengths_are_refused(world, tmp_path):
    vectors = vectors_for(world.rows).tolist()
    vectors[7] = vectors[7][:-1]
    table = pa.table({"id": ids_of(world.rows), "v": vectors})
    with pytest.raises(UsageError, match="a vector has 11 numbers, and the first one has 12"):
        world.database.add_vectors("mine", table)
    assert "mine" not in features_of(world.store)


def test_keys_must_be_as_many_as_vectors(world, tmp_path):
    with pytest.raises(
        UsageError, match=r"29 rows and .* 30 vectors: give one vector for each row, in order"
    ):
        world.database.add_vectors("mine", vectors_for(world.rows), rows=ids_of(world.rows[:29]))
    with pytest.raises(
        UsageError, match=r"does not say which rows its vectors belong to: .*--rows"
    ):
        world.database.add_vectors("mine", vectors_for(world.rows))


def test_a_row_of_several_vector_columns_needs_a_name(world):
    vectors = vectors_for(world.rows).tolist()
    table = pa.table({"id": ids_of(world.rows), "a": vectors, "b": vectors})
    with pytest.raises(UsageError, match=r"several columns of vectors \(a, b\)"):
        world.database.add_vectors("mine", table)
    with pytest.raises(UsageError, match="has no column 'c'; its columns are id, a, b"):
        world.database.add_vectors("mine", table, column="c")
    with pytest.raises(UsageError, match="of type string, not of lists"):
        world.database.add_vectors("mine", table, column="id")
    assert world.database.add_vectors("mine", table, column="b").filled == 30


def test_broken_indices_and_arrays_are_named(world, tmp_path):
    folder = bergson(tmp_path / "index", vectors_for(world.rows), records(world.rows))
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, "attribute_tokens": True}))
    with pytest.raises(InputError, match="gradients of every token"):
        world.database.add_vectors("mine", folder, key="messages")
    (folder / "info.json").write_text(json.dumps({**info, "num_grads": 31}))
    with pytest.raises(InputError, match="cannot be read as 31 x 12 float32"):
        world.database.add_vectors("mine", folder, key="messages")
    (folder / "info.json").write_text("{}")
    with pytest.raises(InputError, match="does not describe an index of bergson"):
        world.database.add_vectors("mine", folder, key="messages")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(InputError, match="array of 1 dimensions"):
        world.database.add_vectors("mine", tmp_path / "flat.npy", rows=["x"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rds", "a method has this name"),
        ("Less", "a method has this name"),
        ("corpus", "has a column 'corpus'"),
        ("a-b", "letters, digits and underscores"),
        ("x__12345678", "letters, digits and underscores"),
    ],
)
def test_names_that_mean_something_else_are_refused(world, name, message):
    with pytest.raises(UsageError, match=message):
        world.database.add_vectors(name, vectors_for(world.rows), rows=ids_of(world.rows))


def test_the_same_file_again_changes_nothing_and_later_ones_need_the_model(world, tmp_path):
    file = table_file(world, tmp_path / "v.parquet", pa.list_(pa.float32()))
    world.database.add_vectors("mine", file, model="m1")
    version = world.store.version("pool")
    again = world.database.add_vectors("mine", file)
    assert not again.changed and again.present == 30
    assert world.store.version("pool") == version
    world.add(40, 50)
    assert status_of(world.store).waiting["mine"] == 10
    assert any("mine lacks 10 rows" in line for line in status_of(world.store).advice())
    later, ids = vectors_for(world.rows[25:]), ids_of(world.rows[25:])
    with pytest.raises(UsageError, match=r"made by m1, and the file by m2 .*--model"):
        world.database.add_vectors("mine", later, rows=ids, model="m2")
    with pytest.raises(UsageError, match="vectors of 12 numbers, and the file of 11"):
        world.database.add_vectors("mine", later[:, :-1], rows=ids, model="m1")
    account = world.database.add_vectors("mine", later + 1e-5, rows=ids, model="m1")
    assert (account.filled, account.present) == (10, 5)
    with pytest.raises(UsageError, match=r"has mine = .* already"):
        world.database.add_vectors("mine", -later, rows=ids, model="m1")


def test_without_a_model_no_other_file_continues_vectors(world):
    world.database.add_vectors("mine", vectors_for(world.rows[:9]), rows=ids_of(world.rows[:9]))
    with pytest.raises(UsageError, match="no --model says that one model made both"):
        world.database.add_vectors("mine", vectors_for(world.rows), rows=ids_of(world.rows))


@pytest.fixture
def with_target(world, tmp_path):
    """The world with vectors of the pool, and a target with its own."""
    world.database.add_vectors("mine", vectors_for(world.rows), rows=ids_of(world.rows))
    examples = [toy_stores.question("facts", number) for number in range(4)]
    # The second row is no example, the fourth repeats the first.
    rows = [examples[0], None, examples[1], examples[0], *examples[2:]]
    shown = [{"messages": []} if row is None else records([row])[0] for row in rows]
    vectors = vectors_for([row or examples[0] for row in rows])
    vectors[3] = -1
    add_target(
        world.store,
        "facts",
        jsonl(tmp_path / "facts.jsonl", shown),
        ReadOptions(allow_empty_answer=True),
        toy_stores.ToyFeaturizer,
        {"mine": vectors},
    )
    return world, examples


def test_a_target_has_the_vectors_of_its_examples_in_their_order(with_target):
    world, examples = with_target
    rows = world.store.dataset("targets").to_table(columns=["id", "mine"]).to_pylist()
    exact = vectors_for(examples)
    exact /= np.linalg.norm(exact, axis=1)[:, None]
    found = {row["id"]: row["mine"] for row in rows}
    assert np.abs(np.array([found[each.id] for each in examples]) - exact).max() < 1e-3


def test_methods_compare_the_vectors(with_target):
    world, examples = with_target
    pool, queries = vectors_for(world.rows), vectors_for(examples)
    units = [each / np.linalg.norm(each, axis=1)[:, None] for each in (pool, queries)]
    means = dict(zip(ids_of(world.rows), (units[0] @ units[1].T).mean(axis=1), strict=True))
    chosen = world.database.select("facts", method="mine:top", budget=5, leakage="off")
    expected = sorted(means, key=lambda row: -means[row])[:5]
    assert chosen.ids == expected
    for method in (
        "mine",
        "mine:uot",
        "mine:knn_uniform",
        "mine:knn_kde",
        "mine:facility_location",
    ):
        assert len(world.database.select("facts", method=method, budget=5, leakage="off")) == 5
    explained = world.database.explain(chosen.name, 1)
    assert "mine" in str(explained)
    assert world.database.replay(chosen.name).same
    scores = world.database.score("facts", ["mine"])
    assert scores.to_polars()["id"][0] == expected[0]
    world.database.create_index("mine")
    near = world.database.select("facts", method="mine", budget=5, approximate=True)
    assert len(near) == 5
    assert any(each.method == "mine" and each.ready for each in world.database.list_methods())


def test_a_target_without_vectors_is_told_how_to_get_them(with_target):
    world, examples = with_target
    toy_stores.add_target(world.store, "bare", examples[:3])
    with pytest.raises(MissingFeatureError, match=r"'bare' has no vectors mine.*--target bare"):
        world.database.select("bare", method="mine", budget=3)
    given = world.database.add_target_vectors("bare", "mine", vectors_for(examples[:3]))
    assert given.examples == 3 and "3 examples got a vector mine" in str(given)
    assert len(world.database.select("bare", method="mine", budget=3, leakage="off")) == 3


def test_vectors_of_a_target_must_fit(with_target):
    world, examples = with_target
    exact = vectors_for(examples)
    with pytest.raises(UsageError, match="has no vectors of that name; it has mine"):
        vectors_of_examples(world.store, {"other": exact}, [0, 1, 2, 3], 4)
    with pytest.raises(UsageError, match="4 vectors for 5 records of the target"):
        vectors_of_examples(world.store, {"mine": exact}, [0, 1, 2, 3], 5)
    with pytest.raises(UsageError, match="its vectors have 11 numbers, and those of the pool 12"):
        vectors_of_examples(world.store, {"mine": exact[:, :-1]}, [0, 1, 2, 3], 4)
    with pytest.raises(UsageError, match="no target 'nix'"):
        world.database.add_target_vectors("nix", "mine", exact)


def test_vectors_are_removed_like_any_feature(with_target):
    world, _ = with_target
    world.database.select("facts", method="mine", budget=3, name="c", leakage="off")
    with pytest.raises(UsageError, match=r"mine was used for 1 coreset \(c\)"):
        world.database.remove_feature("mine")
    world.database.remove_feature("mine", force=True)
    for table in ("pool", "targets"):
        assert "mine" not in world.store.dataset(table).schema.names
    world.database.add_vectors("mine", vectors_for(world.rows), rows=ids_of(world.rows))


def test_models_go_on_where_something_was_attached(tiny_llama, tmp_path):
    """Ingestion, targets, late features and repair leave alone what was made elsewhere."""
    import coresetdb

    rows = [toy_stores.question("sums", number) for number in range(14)]
    world = coresetdb.create(tmp_path / "store", backbone=tiny_llama, features="rds")
    world.ingest(records(rows[:10]), corpus="sums")
    world.add_vectors("mine", vectors_for(rows[:10]), rows=records(rows[:10]), key="messages")
    world.annotate([{"id": row.id, "score": 1} for row in rows[:10]], prefix="judge_")
    world.ingest(records(rows), corpus="sums")
    vectors = {"mine": vectors_for(rows[:3])}
    added = world.add_target("few", records(rows[:3]), vectors=vectors)
    assert added.target.missing["mine"] == 0
    bare = world.add_target("bare", records(rows[:3]))
    assert any("--target bare" in note for note in bare.notes)
    world.featurize("lexical")
    world.featurize()
    with pytest.raises(UsageError, match=r"mine of .* was made elsewhere"):
        world.featurize("mine")
    status = world.status()
    assert (status.waiting["mine"], status.waiting["judge"], status.waiting["lexical"]) == (4, 4, 0)
    picked = world.select("few", method="mine", budget=2, leakage="off")
    assert any("4 rows of the pool came after mine" in note for note in picked.notes)
    assert [each["feature"] for each in world.list_features()] == ["rds", "mine", "lexical"]
    config = BackboneConfig(**world.store.config["backbone"])
    check_backbone(world.store.uri, config, list(features_of(world.store).values()))
    copied = coresetdb.create(tmp_path / "other", backbone=tiny_llama, features="rds")
    assert world.copy_target("few", copied).features == ("rds",)
    assert coresetdb.repair(str(tmp_path / "store")).after.ok
