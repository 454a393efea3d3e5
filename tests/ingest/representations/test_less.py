"""LESS written out from docs/methods.md: autograd per row, Adam by hand, sketches as matrices."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.naive_gradients import backbone_of, loss_of, naive, rows_of
from helpers.tiny_adapters import in_peft, random_adapter
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.passes import weight_gradient as sketching
from coresetdb.ingest.passes.gradient_reducers import AdamStep
from coresetdb.ingest.passes.weight_gradient import SketchSpec
from coresetdb.ingest.representations.registry import (
    feature_spec,
    parse_features,
    parse_specs,
    recipe_for,
)
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.stored_vectors import packed, vectors_of
from coresetdb.store.catalog import Artifact

DIMS = 64
CPU = torch.device("cpu")


def error(got, expected) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def warmed(backbone, epochs: int = 3) -> dict[str, Artifact]:
    """A made-up warm-up: an adapter with moments per epoch; the third has no moments of its own."""
    ids = [row.id for row in tiny_conversations()[:4]]
    found = {}
    for epoch in range(1, epochs + 1):
        adapter = random_adapter(backbone, seed=epoch)
        draw = np.random.default_rng(epoch)
        arrays = dict(adapter.arrays)
        for name, value in adapter.arrays.items():
            arrays[f"{name}.m"] = draw.normal(0, 0.01, value.shape).astype(np.float32)
            arrays[f"{name}.v"] = (draw.normal(0, 0.05, value.shape) ** 2).astype(np.float32)
        facts = {**adapter.facts, "learning_rate": 1e-5 * (epochs - epoch + 1), "sample": ids}
        # As it comes back from a store.
        found[f"warm-up/{epoch}"] = Artifact.unpack(Artifact(arrays, facts).pack())
    return found


def less_of(backbone, rows, artifacts, of="pool", norms="row", **settings):
    warm = {"warmup": "lora", "epochs": len(artifacts)} if artifacts else {}
    asked = feature_spec("less", {"dims": DIMS, "seed": 5, "norms": norms, **warm})
    digests = {name: f"digest of {name}" for name in artifacts}
    recipe = recipe_for(asked, backbone.info, artifacts, digests)
    given = {digests[name]: artifact for name, artifact in artifacts.items()}
    featurizer = Featurizer(backbone, [recipe], artifacts=given, **settings)
    return featurizer.compute(rows, of=of).columns


def naive_count_sketch(vector: torch.Tensor, name: str) -> np.ndarray:
    places, signs = sketching._hashes(name, SketchSpec(DIMS, 5), len(vector), CPU)
    found = np.zeros(DIMS)
    np.add.at(found, places.numpy(), (vector * signs).double().numpy())
    return found


def naive_fold(size: int, width: int, key: str) -> torch.Tensor:
    if size <= width:
        return torch.eye(size)
    signs = sketching._signs(key, 5, size, CPU)
    matrix = torch.zeros(size, width)
    for place in range(size):
        matrix[place, place % width] = signs[place]
    return matrix


def naive_plain(name: str, row: int, norms: str = "row") -> np.ndarray:
    """The factored sketch of the whole model's gradient, weight by weight, from .grad."""
    backbone = backbone_of(name)
    outer, inner = SketchSpec(DIMS, 5).sides
    found = np.zeros(DIMS)
    for parameter, grad in naive(name)[row].items():
        if (
            "embed" in parameter
            or "lm_head" in parameter
            or "wte" in parameter
            or "wpe" in parameter
        ):
            continue
        if parameter.startswith("gpt_neox.embed_in") or parameter.startswith("embed_out"):
            continue
        if grad.ndim == 3:
            weights = {f"{parameter}.{number}": each for number, each in enumerate(grad)}
        else:
            weight = parameter.removesuffix(".weight")
            conv = type(backbone.model.get_submodule(weight)).__name__ == "Conv1D"
            weights = {weight: grad.T if conv else grad}
        for weight, each in weights.items():
            left = naive_fold(each.shape[0], outer, f"deltas of {weight}")
            right = naive_fold(each.shape[1], inner, f"inputs of {weight}")
            part = naive_count_sketch((left.T @ each @ right).flatten(), weight)
            if norms == "module" and part.any():
                part /= np.linalg.norm(part)
            found += part
    return found


@pytest.mark.parametrize("name", ("builtin", *ARCHITECTURES))
def test_without_a_warm_up_it_is_the_sketch_of_the_gradient(name):
    backbone = backbone_of(name)
    rows = tiny_conversations()[: len(rows_of(backbone))]
    columns = less_of(backbone, rows, {})
    for side in ("target", "pool"):
        assert np.array_equal(less_of(backbone, rows, {}, of=side)["less"], columns["less"])
    for row in range(len(rows)):
        expected = naive_plain(name, row)
        norm = np.linalg.norm(expected)
        assert error(columns["less"][row], expected / norm) < 1e-3
        assert columns["less_norm"][row] == pytest.approx(norm, rel=1e-3)
        assert columns["less_reason"][row] is None
    assert "less_in_fit" not in columns


@pytest.mark.parametrize("name", ("llama", "gpt2", "mixtral"))
def test_every_module_counts_alike_with_norms_by_module(name):
    """In a mixture each expert's weights are modules; of those no token came to, nothing counts."""
    backbone = backbone_of(name)
    rows = tiny_conversations()
    columns = less_of(backbone, rows, {}, norms="module")
    by_row = less_of(backbone, rows, {})
    for row in range(len(rows)):
        expected = naive_plain(name, row, "module")
        norm = np.linalg.norm(expected)
        assert error(columns["less"][row], expected / norm) < 1e-3
        assert columns["less_norm"][row] == pytest.approx(norm, rel=1e-3)
        assert error(by_row["less"][row], expected / norm) > 0.05
    alone = less_of(backbone, rows, {}, norms="module", tokens_per_batch=1)
    assert error(alone["less"], columns["less"]) < 1e-3


def test_norms_by_module_are_a_recipe_of_their_own():
    info = tiny_backbone().info
    plain, module = parse_features("less,less:norms=module", info)
    assert "norms" not in plain.options and module.options["norms"] == "module"
    assert parse_features("less:norms=row", info) == [plain]
    assert plain.fingerprint != module.fingerprint
    assert parse_specs("less:norms=module")[0].configured == "less:dims=8192:norms=module"
    assert not parse_specs("less:norms=module")[0].matches(plain)
    with pytest.raises(UsageError, match="norms=module is for warmup=none"):
        parse_features("less:norms=module:warmup=lora", info)
    with pytest.raises(UsageError, match="norms 'layer': give row or module"):
        parse_features("less:norms=layer", info)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_a_warm_up_one_product_is_the_influence(name):
    """sum_e w_e <q_e, x_e>, every q_e plain and every x_e in Adam's direction, of unit length."""
    backbone = tiny_backbone(name)
    rows = tiny_conversations()[4:9]
    artifacts = warmed(backbone)
    candidates = less_of(backbone, rows, artifacts)
    queries = less_of(backbone, rows, artifacts, of="target")
    influence = np.zeros((len(rows), len(rows)))
    rates = [artifact.facts["learning_rate"] for artifact in artifacts.values()]
    vectors = {"x": [[] for _ in rows], "q": [[] for _ in rows]}
    for artifact, rate in zip(artifacts.values(), rates, strict=True):
        model = in_peft(backbone, artifact)
        weight = rate / sum(rates)
        plain, moved = [], []
        for row in rows:
            model.zero_grad()
            loss_of(model, backbone.encode(row)).backward()
            g, x = np.zeros(DIMS), np.zeros(DIMS)
            for parameter, value in model.named_parameters():
                if "lora_" not in parameter:
                    continue
                key = parameter.removeprefix("base_model.model.").removesuffix(".default.weight")
                key = key.replace(".lora_A", ".A").replace(".lora_B", ".B")
                grad = value.grad.double()
                m, v = (torch.from_numpy(artifact.arrays[f"{key}.{w}"]).double() for w in "mv")
                m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
                g += naive_count_sketch(grad.flatten(), key)
                x += naive_count_sketch((m / (v + 1e-8).sqrt()).flatten(), key)
            plain.append(g / np.linalg.norm(g))
            moved.append(x / np.linalg.norm(x))
        for i in range(len(rows)):
            vectors["q"][i].append(math.sqrt(weight) * plain[i])
            vectors["x"][i].append(math.sqrt(weight) * moved[i])
            for j in range(len(rows)):
                influence[i, j] += weight * float(plain[i] @ moved[j])
    assert error(candidates["less"], np.array([np.concatenate(x) for x in vectors["x"]])) < 1e-3
    assert error(queries["less"], np.array([np.concatenate(q) for q in vectors["q"]])) < 1e-3
    assert error(queries["less"] @ candidates["less"].T, influence) < 1e-3
    for columns in (candidates, queries):
        assert np.linalg.norm(columns["less"], axis=1) == pytest.approx(1, abs=1e-6)
    assert candidates["less_in_fit"].tolist() == [False] * len(rows)
    assert less_of(backbone, tiny_conversations()[:5], artifacts)["less_in_fit"].tolist() == [
        *([True] * 4),
        False,
    ]


def test_adams_step_by_hand():
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(3, 4, 5, generator=draw)
    m, v = torch.randn(4, 5, generator=draw), torch.rand(4, 5, generator=draw) * 1e-3
    got = AdamStep(m, v)(g.clone())
    for row in range(3):
        for i in range(4):
            for j in range(5):
                first = 0.9 * m[i, j] + 0.1 * g[row, i, j]
                second = 0.999 * v[i, j] + 0.001 * g[row, i, j] ** 2
                assert float(got[row, i, j]) == pytest.approx(
                    float(first / (second + 1e-8).sqrt()), rel=1e-5
                )
    assert torch.isfinite(
        AdamStep(torch.zeros(2, 2), torch.zeros(2, 2))(torch.zeros(1, 2, 2))
    ).all()


@pytest.mark.parametrize("name", ("llama", "mixtral"))
@pytest.mark.parametrize("warm", (False, True))
def test_batches_order_and_padding_do_not_matter(name, warm):
    backbone = tiny_backbone(name)
    artifacts = warmed(backbone, 1) if warm else {}
    rows = tiny_conversations()
    together = less_of(backbone, rows, artifacts, tokens_per_batch=64 * 256)
    alone = less_of(backbone, rows, artifacts, tokens_per_batch=1)
    left = less_of(backbone, rows, artifacts, tokens_per_batch=64 * 256, side="left")
    backwards = less_of(backbone, rows[::-1], artifacts)
    for other in (alone, left, {k: v[::-1] for k, v in backwards.items()}):
        assert error(other["less"], together["less"]) < 1e-3
        assert error(other["less_norm"], together["less_norm"]) < 1e-3


@pytest.mark.parametrize("warm", (False, True))
def test_a_row_without_the_feature_says_why(warm):
    backbone = tiny_backbone()
    rows = [
        Instruction.from_turns(("user", "what is two?")),
        Instruction.from_turns(("user", "what is two?"), ("assistant", "two")),
        Instruction.from_turns(("user", "what is two?"), ("assistant", "")),
    ]
    columns = less_of(backbone, rows, warmed(backbone, 1) if warm else {})
    assert columns["less_reason"].tolist() == ["no response token", None, "no response token"]
    assert np.isnan(columns["less_norm"]).tolist() == [True, False, True]
    assert np.isnan(columns["less"]).any(axis=1).tolist() == [True, False, True]


def test_stored_columns():
    backbone = tiny_backbone()
    artifacts = warmed(backbone, 2)
    asked = feature_spec("less", {"warmup": "lora", "epochs": 2, "dims": DIMS})
    digests = {name: f"digest of {name}" for name in artifacts}
    recipe = recipe_for(asked, backbone.info, artifacts, digests)
    given = {digests[name]: artifact for name, artifact in artifacts.items()}
    featurizer = Featurizer(backbone, [recipe], artifacts=given)
    rows = [*tiny_conversations(), Instruction.from_turns(("user", "two?"))]
    table = featurizer.featurize(rows)
    assert table.column_names[4:] == ["less", "less_norm", "less_in_fit", "less_reason"]
    assert table.schema.field("less").type.list_size == 2 * DIMS
    stored = np.array(table["less"].to_pylist()[:-1], dtype=np.float32)
    assert np.linalg.norm(stored, axis=1) == pytest.approx(1, abs=1e-3)
    assert table["less_in_fit"].to_pylist() == [True] * 4 + [False] * 8
    assert table.slice(len(rows) - 1).to_pylist()[0]["less"] is None
    assert featurizer.featurize([]).schema == table.schema


def test_what_can_be_asked_for():
    info = tiny_backbone().info
    (plain,) = parse_features("less", info)
    assert plain.options["warmup"] == "none" and plain.options["dims"] == 8192
    for text in ("less:warmup=full", "less:dims=3"):
        with pytest.raises(UsageError):
            parse_features(text, info)


def test_sketches_in_2_bits_keep_the_cosines_of_the_sketches():
    backbone = tiny_backbone()
    (recipe,) = parse_features("less:dims=4096:stored=int2", backbone.info)
    assert recipe.stored_dtype == "int2"
    featurizer = Featurizer(backbone, [recipe])
    features = featurizer.compute(tiny_conversations())
    column = featurizer.table(features)["less"].combine_chunks()
    exact = features.columns["less"]
    present = ~np.isnan(exact).any(axis=1)
    assert column.type == pa.list_(pa.uint8(), 1024)
    assert column.drop_null().to_pylist() == packed(exact[present]).tolist()
    cosines, units = vectors_of(column) @ exact[present].T, exact[present] @ exact[present].T
    assert np.corrcoef(cosines.ravel(), units.ravel())[0, 1] > 0.98
    with pytest.raises(UsageError, match="4 numbers a byte, and a vector has 33"):
        parse_features("less:dims=33:stored=int2", backbone.info)
