"""Conformance checks of representations, ours and third parties', and the tiny models they run on.

    from coresetdb.ingest.testing import check_representation

    def test_mine():
        check_representation(representation, options={"width": 16})

It needs no network and no pytest, and takes seconds. A failure is an AssertionError that says what
to fix. It does not know what the numbers should be: compare them with a reference of your own.

The models are tiny random causal LMs of several architectures, saved with a small tokenizer. Their
weights are seeded and larger than usual (std 0.3): with the usual 0.02 the states of a random model
hardly depend on its input, and wrong masks or positions would go unnoticed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.instruction import Instruction, Record
from ..schemas.progress import Silence
from ..schemas.recipe import Recipe
from ..schemas.stored_vectors import width_of
from ..schemas.tables import POOL, TARGETS
from ..store.catalog import Artifact
from ..store.store import Store
from .conversations.tokenization import Encoded
from .featurizer import Features, Featurizer
from .fits.fit import Fit, Fitting, Sample
from .jobs.commit import Commit
from .jobs.fitting import Fitted, Job, MemoryCache, fitted, jobs_for, run
from .models.backbone import Backbone
from .models.describe import BackboneConfig
from .passes.reducer import Side
from .representations import registry
from .representations.registry import FeatureSpec, columns_of, recipe_for
from .representations.representation import BACKGROUND, Representation

TOLERANCE = 1e-3
"""Norm-wise relative error, in float32 before storage precision."""

VOCABULARY = 320
POSITIONS = 256
BOS, END, PAD = "<|endoftext|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' ~ message.role ~ '|>' ~ message.content -}}"
    "{%- if message.tool_calls -%}{{- message.tool_calls | tojson -}}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
REFUSING = (
    "{%- if messages[0].role == 'tool' -%}{{- raise_exception('no tool begins') -}}{%- endif -%}"
    + TEMPLATE
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "cohere")


def check_representation(
    representation: Representation,
    options: Mapping[str, Any] | None = None,
    architectures: Sequence[str] = ("llama", "gpt2"),
    tolerance: float = TOLERANCE,
) -> None:
    """Check what a representation promises, on tiny random models of some architectures.

    Args:
        options: other than the defaults, such as a smaller width.
        architectures: of `ARCHITECTURES`.
        tolerance: the largest norm-wise relative difference between batches.

    Raises:
        AssertionError: a promise does not hold; the message says which, and how.
    """
    _check_declaration(representation)
    with registry.added(representation):
        spec = registry.feature_spec(representation.name, options)
        for architecture in architectures:
            backbone = conformance_backbone(architecture)
            fits = _check_fits(spec, backbone)
            recipe = _check_recipe(spec, backbone, fits)
            _check_values(recipe, backbone, fits, tolerance)
            _check_store(recipe, backbone, fits)
            _check_comparison(recipe, backbone, fits)


def conversations() -> list[Instruction]:
    """Return conversations of many lengths and forms; the template refuses the last."""
    more = [
        Instruction.from_turns(
            ("user", f"name {'many ' * (i % 9)}colours, {i}"), ("assistant", "blue " * (1 + i % 7))
        )
        for i in range(20)
    ]
    odd = [
        Instruction.from_turns(("user", "nobody answers")),
        Instruction.from_turns(("tool", "refused"), ("assistant", "no")),
    ]
    return [*tiny_conversations(), *more, *odd]


@cache
def conformance_backbone(architecture: str) -> Backbone:
    """Return a tiny model whose template refuses conversations that begin with a tool's turn."""
    _FOLDERS.append(TemporaryDirectory(prefix=f"conformance-{architecture}-"))
    folder = save_tiny_model(Path(_FOLDERS[-1].name), architecture, template=REFUSING)
    return Backbone.load(BackboneConfig(str(folder), "cpu", "float32"))


def _check_declaration(representation: Representation) -> None:
    name = representation.name
    assert name.isidentifier() and "__" not in name, f"name {name!r} cannot name columns"
    assert isinstance(representation.version, int), f"{name}: version is a whole number"
    for options in (representation.defaults, representation.query_defaults):
        for option, value in options.items():
            assert isinstance(value, bool | int | float | str), (
                f"{name}: the default of {option} is a {type(value).__name__}; bool, int, float or "
                "str can be written in a list of features"
            )
            assert not set(option) & set(":=,"), f"{name}: option {option!r} cannot be written"


def _check_fits(spec: FeatureSpec, backbone: Backbone) -> Fitted:
    """Check that specs are JSON, outputs are seeded and kept ones are not redone; return them."""
    rows = conversations()[:-1]
    sample = Sample([row.id for row in rows], rows, len(rows))
    jobs = {job.digest: job for job in jobs_for(backbone.info, spec)}
    caches = MemoryCache(), MemoryCache()
    before = _weights(backbone)
    for job in jobs.values():
        name = f"{spec.representation}, fit {job.fit.name}"
        canonical_json(job.fit.spec())
        outputs = job.fit.outputs()
        assert outputs and len(set(outputs)) == len(outputs), f"{name}: outputs need own names"
        assert job.fit.sample_rows(10) <= 10, f"{name}: sample_rows asks for more than there are"
        for own in caches:
            run([job], jobs, sample, backbone, own, Silence())
        first, second = (job.outputs(own) for own in caches)
        assert first == second, f"{name}: the same sample gave other artifacts the second time"
        _check_resumed(name, job.fit, jobs, caches[0], sample, backbone)
    assert _weights(backbone) == before, f"{spec.representation}: a fit changed the backbone"
    return fitted(list(jobs.values()), caches[0])


def _check_resumed(
    name: str,
    fit: Fit,
    jobs: Mapping[str, Job],
    cache: MemoryCache,
    sample: Sample,
    backbone: Backbone,
) -> None:
    """Check that a fit makes no output again that `fitting.artifacts` already has."""
    existing = {
        output: cache.load(content, output)
        for job in jobs.values()
        for output, content in job.outputs(cache).items()
    }
    repeated: list[str] = []

    def keep(output: str, artifact: Artifact) -> Artifact:
        repeated.append(output)
        return artifact

    fit.run(Fitting(backbone, sample, existing, keep, lambda share, said: None))
    assert not repeated, f"{name}: made {', '.join(repeated)} again, which `artifacts` has"


def _weights(backbone: Backbone) -> list[float]:
    return [float(weight.detach().double().sum()) for weight in backbone.model.parameters()] + [
        float(sum(weight.requires_grad for weight in backbone.model.parameters())),
        float(backbone.model.training),
    ]


def _check_recipe(spec: FeatureSpec, backbone: Backbone, fits: Fitted) -> Recipe:
    name = spec.representation
    representation = registry.get(name)
    recipe = recipe_for(spec, backbone.info, fits.artifacts, fits.digests)
    kept = set(registry.options_of(recipe))
    assert kept == set(representation.defaults), f"{name}: options are not all kept"
    canonical_json(recipe.backbone)
    setup = registry.setup_of(recipe, backbone.info, fits.artifacts)
    fields = representation.fields(setup)
    names = [field.name for field in fields]
    assert len(set(names)) == len(names), f"{name}: two columns have the same name"
    assert names[-1] == f"{name}_reason", f"{name}: the last column must be {name}_reason"
    for field in fields:
        kind = field.type
        unsigned = pa.types.is_list(kind) and pa.types.is_unsigned_integer(kind.value_type)
        assert not unsigned, f"{name}: {field.name}: Lance filters no table with unsigned lists"
    assert fields[-1].type == pa.string(), f"{name}_reason is a string"
    clash = set(names) & {*POOL.names, *TARGETS.names}
    assert not clash, f"{name}: the pool has columns called {', '.join(clash)} already"
    for field in fields[:-1]:
        if pa.types.is_fixed_size_list(field.type):
            kind = field.type.value_type
            known = (pa.float16(), pa.float32(), pa.int8(), pa.uint8())
            assert kind in known, f"{field.name}: vectors of {kind}"
    for attribute in ("similarity", "sets"):
        column = getattr(representation, attribute)
        assert column is None or column in names, f"{name}: {attribute} names no column"
    for model_pass in representation.passes(setup):
        assert not model_pass.adapter or model_pass.adapter in fits.artifacts, (
            f"{name}: a pass has the adapter {model_pass.adapter!r}, which no fit makes"
        )
    changed = replace(recipe, version=recipe.version + 1)
    assert changed.fingerprint != recipe.fingerprint
    return recipe


def _check_values(recipe: Recipe, backbone: Backbone, fits: Fitted, tolerance: float) -> None:
    rows = conversations()
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    sides: tuple[Side, ...] = ("pool", "target")
    for side in sides:
        together = _featurizer(recipe, backbone, fits, 4096).compute(rows, of=side)
        _check_shapes(recipe, backbone, fits, together)
        every = list(range(len(rows)))
        for how, tokens, padding, places in (
            ("one row at a time", 1, "right", every),
            ("in another order", 4096, "right", order),
            ("padded on the left", 4096, "left", every),
            ("among fewer rows", 4096, "right", every[::7]),
        ):
            featurizer = _featurizer(recipe, backbone, fits, tokens, padding)
            other = featurizer.compute([rows[place] for place in places], of=side)
            for name, values in together.columns.items():
                error = _distance(other.columns[name], values[places])
                assert error <= tolerance, (
                    f"{name} ({side}): {how} it differs by {error:.1e}, more than {tolerance:.0e}; "
                    "mask padding, and let a row depend on itself alone"
                )


def _check_shapes(recipe: Recipe, backbone: Backbone, fits: Fitted, features: Features) -> None:
    """Check that columns are those declared, and rows have all values, or a reason."""
    featurizer = _featurizer(recipe, backbone, fits, 4096)
    fields = {field.name: field for field in featurizer.fields(recipe)}
    assert list(fields) == list(recipe.columns)
    assert set(features.columns) == set(fields), (
        f"{recipe.representation}: finish gives {sorted(features.columns)}, fields {sorted(fields)}"
    )
    table = featurizer.table(features)
    reasons = table[recipe.reason].to_pylist()
    missing = np.zeros(len(reasons), dtype=bool)
    for name in recipe.columns:
        if name == recipe.reason:
            continue
        null = np.array([value is None for value in table[name].to_pylist()])
        bare = [i for i in np.flatnonzero(null).tolist() if reasons[i] is None]
        if not name.endswith("_in_fit"):
            assert not bare, f"{name}: row {bare[0]} is missing without a reason"
        missing |= null
        kind = fields[name].type
        if pa.types.is_fixed_size_list(kind):
            shape = (len(reasons), width_of(kind))
            assert features.columns[name].shape == shape, f"{name}: shape"
    for index, reason in enumerate(reasons):
        assert reason is None or (reason.strip() and missing[index]), (
            f"{recipe.representation}: row {index} has a reason ({reason!r}) and every value"
        )
        if not isinstance(features.encoded[index], Encoded):
            assert reason and "no tool begins" in reason, "a refused row keeps the refusal"
    similarity = registry.get(recipe.representation).similarity
    if similarity:
        vectors = features.columns[columns_of(recipe)[similarity]]
        lengths = np.linalg.norm(vectors[~np.isnan(vectors).any(1)], axis=1)
        assert np.allclose(lengths, 1, atol=1e-3), f"{similarity}: vectors are not of unit length"


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the norm-wise relative error; infinite where texts or missing values differ."""
    if expected.dtype == object:
        numbers = [isinstance(value, np.ndarray) for value in expected]
        if not any(numbers):
            return 0.0 if got.tolist() == expected.tolist() else np.inf
        if numbers != [isinstance(value, np.ndarray) for value in got]:
            return np.inf
        pairs = [(a, b) for a, b in zip(got, expected, strict=True) if b is not None]
        if any(len(a) != len(b) for a, b in pairs):
            return np.inf
        got, expected = (
            np.concatenate(values).astype(np.float64) for values in zip(*pairs, strict=True)
        )
    elif not np.array_equal(np.isnan(got), np.isnan(expected)):
        return np.inf
    present = ~np.isnan(expected)
    error = np.linalg.norm(got[present].astype(np.float64) - expected[present])
    return float(error / max(float(np.linalg.norm(expected[present])), 1e-12))


def _featurizer(
    recipe: Recipe, backbone: Backbone, fits: Fitted, tokens: int, padding: Any = "right"
) -> Featurizer:
    artifacts = {fits.digests[name]: fits.artifacts[name] for name in fits.digests}
    return Featurizer(backbone, [recipe], tokens, padding, artifacts)


def _check_store(recipe: Recipe, backbone: Backbone, fits: Fitted) -> None:
    """Check that what is written to a store is read again, bit for bit."""
    rows = conversations()
    featurizer = _featurizer(recipe, backbone, fits, 4096)
    written = featurizer.featurize(rows)
    fields = featurizer.fields(recipe)
    with TemporaryDirectory(prefix="conformance-store-") as folder:
        store = Store.create(folder, {"features": recipe.representation}, fields, fields)
        commit = Commit("conformance")
        records = [Record(row, "toy", "toy", line) for line, row in enumerate(rows)]
        commit.add_rows(
            [(row.id, record) for row, record in zip(rows, records, strict=True)], written
        )
        commit.write(store)
        read = store.take([row.id for row in rows], list(recipe.columns))
    for name in recipe.columns:
        assert read[name].to_pylist() == written[name].to_pylist(), f"{name}: not what was written"


def _check_comparison(recipe: Recipe, backbone: Backbone, fits: Fitted) -> None:
    """Check that a scorer, if any, scores stored rows, NaN for those without the feature."""
    representation = registry.get(recipe.representation)
    rows = conversations()[:-1]
    featurizer = _featurizer(recipe, backbone, fits, 4096)
    target = featurizer.compute(rows[:12], of="target")
    encoded = [row for row in target.encoded if isinstance(row, Encoded)]
    own = {name: target.columns[stored] for name, stored in columns_of(recipe).items()}
    target_artifact = representation.target_artifact(
        backbone, encoded, own, featurizer.setup(recipe, of="target")
    )
    if target_artifact is not None:
        assert isinstance(Artifact.unpack(target_artifact.pack()), Artifact)
    names = columns_of(recipe)
    table = featurizer.featurize(rows)
    artifacts = dict(fits.artifacts)
    if reads := representation.background_columns(representation.query_defaults):
        artifacts[BACKGROUND] = representation.background([_with_feature(recipe, table, reads)])
    if representation.example_columns:
        examples = _with_feature(recipe, featurizer.table(target), representation.example_columns)
        target_artifact = representation.with_examples(target_artifact or Artifact({}), examples)
    scorer = representation.scorer(
        registry.options_of(recipe), artifacts, target_artifact, dict(representation.query_defaults)
    )
    if scorer is None:
        return
    assert set(scorer.columns) <= set(names), f"{recipe.representation}: the scorer reads others"
    stored = pa.table({name: table[names[name]] for name in scorer.columns})
    (batch,) = stored.combine_chunks().to_batches()
    scores = scorer.scores(batch)
    assert scores.shape == (len(rows),) and scores.dtype == np.float32, "scores are (n,) float32"
    without = np.array([reason is not None for reason in table[recipe.reason].to_pylist()])
    assert np.isnan(scores[without]).all(), "a row without the feature must score NaN"
    refused = np.isneginf(scores)
    assert np.isfinite(scores[~without & ~refused]).all(), (
        "a row with the feature must have a score, or minus infinity where it must not be chosen"
    )
    assert scorer.refuses or not refused.any(), "a scorer says why a row must not be chosen"
    halves = np.concatenate([scorer.scores(batch.slice(0, 9)), scorer.scores(batch.slice(9))])
    error = _distance(*(np.where(np.isneginf(each), np.nan, each) for each in (halves, scores)))
    assert error <= TOLERANCE, f"scores depend on the rows scored with them ({error:.1e})"


def _with_feature(recipe: Recipe, table: pa.Table, own: Sequence[str]) -> pa.Table:
    """Return some of a representation's columns, under its own names, of rows that have it."""
    rows = table.filter(table[recipe.reason].is_null())
    return pa.table({name: rows[columns_of(recipe)[name]] for name in own})


_FOLDERS: list[TemporaryDirectory[str]] = []  # removed when the process ends


@cache
def tiny_folder(architecture: str = "llama") -> Path:
    """Return the folder of a tiny model, saved once per process."""
    _FOLDERS.append(TemporaryDirectory(prefix=f"tiny-{architecture}-"))
    return save_tiny_model(Path(_FOLDERS[-1].name), architecture)


@cache
def tiny_backbone(architecture: str = "llama", dtype: str = "float32") -> Backbone:
    """Return a tiny model on the CPU; it is shared by tests, so do not change it."""
    import torch

    torch.set_num_threads(1)
    return Backbone.load(BackboneConfig(str(tiny_folder(architecture)), "cpu", dtype))


def tiny_conversations() -> list[Instruction]:
    """Return conversations of unequal length: one or more turns, a system turn, odd text."""
    one = Instruction.from_turns
    rows = [
        one(("user", f"what is the sum of {i} and {7 * i}?"), ("assistant", f"the sum is {8 * i}."))
        for i in range(6)
    ]
    rows += [
        one(("user", "sky " * 40), ("assistant", "blue")),
        one(("user", "?"), ("assistant", "the sky is blue and " * 12)),
        one(("system", "be brief"), ("user", "name a colour"), ("assistant", " blue \n")),
        one(
            ("user", "two and three?"),
            ("assistant", "five"),
            ("user", "and <|end|> as text?"),
            ("assistant", "<|endoftext|> stays text; 你好"),
        ),
        one(("assistant", "an answer that nobody asked for")),
    ]
    return rows


def save_tiny_model(
    folder: Path, architecture: str | Any = "llama", seed: int = 0, **tokenizer: Any
) -> Path:
    """Save model and tokenizer in `folder`; `tokenizer` goes to `save_tiny_tokenizer`.

    Args:
        architecture: of `ARCHITECTURES`, or a transformers config.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    save_tiny_tokenizer(folder, **tokenizer)
    torch.manual_seed(seed)
    config = tiny_config(architecture) if isinstance(architecture, str) else architecture
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.3)
            elif "norm" in name or "ln_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return folder


def save_tiny_tokenizer(
    folder: Path, template: str | None = TEMPLATE, bos: bool = True, pad: bool = True
) -> None:
    """Save a byte-level BPE tokenizer trained on a few words, with or without the usual extras."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]
    specials = [BOS, *roles, END, PAD]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        "what is the sum of two and three? the sum is five.",
        "name a colour: the sky is blue",
    ]
    tokenizer.train_from_iterator(corpus * 20, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "additional_special_tokens": roles,
        "clean_up_tokenization_spaces": False,
    }
    if bos:
        config["bos_token"] = BOS
    if pad:
        config["pad_token"] = PAD
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def tiny_config(architecture: str) -> Any:
    """Return a transformers config: 2 layers, width 32, `POSITIONS` positions."""
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 5,
        "pad_token_id": 6,
        "tie_word_embeddings": False,
    }
    own: dict[str, dict[str, Any]] = {
        "llama": {"num_key_value_heads": 2},
        "qwen2": {"num_key_value_heads": 2},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
        "gpt2": {"tie_word_embeddings": True, "intermediate_size": None},
        "gpt_neox": {},
        "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
        "qwen3_moe": {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
        # Scales its logits: the head cannot be applied to chosen states.
        "cohere": {"num_key_value_heads": 2, "logit_scale": 0.5, "tie_word_embeddings": True},
    }
    settings = {**common, **own[architecture]}
    if architecture == "gpt2":  # its own names
        settings = {
            "n_embd": settings.pop("hidden_size"),
            "n_layer": settings.pop("num_hidden_layers"),
            "n_head": settings.pop("num_attention_heads"),
            "n_positions": settings.pop("max_position_embeddings"),
            **{k: v for k, v in settings.items() if k != "intermediate_size"},
        }
    return AutoConfig.for_model(architecture, **settings)
