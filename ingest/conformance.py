"""What every representation must hold, checked on tiny models: for ours and for third parties'.

    from coresetdb.ingest.conformance import check_representation

    def test_mine():
        check_representation(representation, options={"width": 16})

It needs no network and no pytest, and takes seconds. A failure is an AssertionError that says what
to mend. It does not know what the numbers should be: hold them against a reference of your own.
"""

from __future__ import annotations

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
from ..schemas.recipe import Recipe
from ..schemas.tables import POOL, TARGETS
from ..store.store import Store
from .conversations.encoding import Encoded
from .featurizer import Features, Featurizer
from .fits.artifacts import Artifact
from .fits.fit import Fit, Sample
from .fits.fitting import Learned, jobs_for, learned, run
from .fits.shelf import MemoryShelf
from .jobs.commit import Commit
from .jobs.progress import Silence
from .models.backbone import Backbone, BackboneConfig
from .models.tiny_models import TEMPLATE, save_tiny_model, tiny_conversations
from .representations import registry
from .representations.registry import Wanted, columns_of, recipe_for
from .representations.representation import Representation, Side

TOLERANCE = 1e-3
"""Norm-wise relative, in float32 before storage precision."""

REFUSING = (
    "{%- if messages[0].role == 'tool' -%}{{- raise_exception('no tool begins') -}}{%- endif -%}"
    + TEMPLATE
)
_FOLDERS: list[TemporaryDirectory[str]] = []  # removed when the process ends


def check_representation(
    representation: Representation,
    options: Mapping[str, Any] | None = None,
    architectures: Sequence[str] = ("llama", "gpt2"),
    tolerance: float = TOLERANCE,
) -> None:
    """Check what a representation promises, on tiny random models of some architectures.

    Args:
        options: other than the defaults, such as a smaller width.
        architectures: of `tiny_models.ARCHITECTURES`.
        tolerance: how far values may part between batches, norm-wise relative.

    Raises:
        AssertionError: which promise does not hold, and how.
    """
    _check_declaration(representation)
    with registry.added(representation):
        wanted = registry.wanted(representation.name, options)
        for architecture in architectures:
            backbone = conformance_backbone(architecture)
            found = _check_fits(wanted, backbone)
            recipe = _check_recipe(wanted, backbone, found)
            _check_values(recipe, backbone, found, tolerance)
            _check_store(recipe, backbone, found)
            _check_comparison(recipe, backbone, found)


def conversations() -> list[Instruction]:
    """Conversations of many lengths and forms, among them one the template refuses (the last)."""
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
    """A tiny model whose template refuses conversations that begin with a tool's turn."""
    _FOLDERS.append(TemporaryDirectory(prefix=f"conformance-{architecture}-"))
    folder = save_tiny_model(Path(_FOLDERS[-1].name), architecture, template=REFUSING)
    return Backbone.load(BackboneConfig(str(folder), "cpu", "float32"))


def _check_declaration(representation: Representation) -> None:
    name = representation.name
    assert name.isidentifier() and "__" not in name, f"name {name!r} cannot name columns"
    assert isinstance(representation.version, int), f"{name}: version is a whole number"
    for options in (representation.defaults, representation.asking):
        for option, value in options.items():
            assert isinstance(value, bool | int | float | str), (
                f"{name}: the default of {option} is a {type(value).__name__}; bool, int, float or "
                "str can be written in a list of features"
            )
            assert not set(option) & set(":=,"), f"{name}: option {option!r} cannot be written"


# -- fits ------------------------------------------------------------------------------------


def _check_fits(wanted: Wanted, backbone: Backbone) -> Learned:
    """Specifications are JSON, results are seeded, kept ones are not redone; what was learned."""
    rows = conversations()[:-1]
    sample = Sample([row.id for row in rows], rows, len(rows))
    jobs = {job.asked: job for job in jobs_for(backbone.info, wanted)}
    shelves = MemoryShelf(), MemoryShelf()
    before = _weights(backbone)
    for job in jobs.values():
        name = f"{wanted.representation}, fit {job.fit.name}"
        canonical_json(job.fit.spec())
        outputs = job.fit.outputs()
        assert outputs and len(set(outputs)) == len(outputs), f"{name}: outputs need own names"
        assert job.fit.sample_rows(10) <= 10, f"{name}: sample_rows asks for more than there are"
        for shelf in shelves:
            run(job, jobs, sample, backbone, shelf, Silence())
        first, second = (job.outputs(shelf) for shelf in shelves)
        assert first == second, f"{name}: the same sample gave other artifacts the second time"
        kept = {each: shelves[0].load(content, each) for each, content in first.items()}
        _check_resumed(name, job.fit, kept, jobs, shelves[0], sample, backbone)
    assert _weights(backbone) == before, f"{wanted.representation}: a fit changed the backbone"
    return learned(list(jobs.values()), shelves[0])


def _check_resumed(
    name: str,
    fit: Fit,
    kept: dict[str, Artifact],
    jobs: Mapping[str, Any],
    shelf: MemoryShelf,
    sample: Sample,
    backbone: Backbone,
) -> None:
    from .fits.fit import Fitting

    needed = {
        output: shelf.load(content, output)
        for job in jobs.values()
        for output, content in job.outputs(shelf).items()
    }
    again: list[str] = []

    def keep(output: str, artifact: Artifact) -> Artifact:
        again.append(output)
        return artifact

    fit.run(Fitting(backbone, sample, {**needed, **kept}, keep, lambda share, said: None))
    assert not again, f"{name}: made {', '.join(again)} again, which `kept` has"


def _weights(backbone: Backbone) -> list[float]:
    return [float(weight.detach().double().sum()) for weight in backbone.model.parameters()] + [
        float(sum(weight.requires_grad for weight in backbone.model.parameters())),
        float(backbone.model.training),
    ]


# -- columns ---------------------------------------------------------------------------------


def _check_recipe(wanted: Wanted, backbone: Backbone, found: Learned) -> Recipe:
    name = wanted.representation
    representation = registry.get(name)
    recipe = recipe_for(wanted, backbone.info, found.artifacts, found.digests)
    assert set(recipe.options) == set(representation.defaults), f"{name}: options are not all kept"
    canonical_json(recipe.backbone)
    setup = registry.setup_of(recipe, backbone.info, found.artifacts)
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
            assert kind in (pa.float16(), pa.float32()), f"{field.name}: vectors of {kind}"
    for attribute in ("similarity", "sets"):
        column = getattr(representation, attribute)
        assert column is None or column in names, f"{name}: {attribute} names no column"
    for each in representation.passes(setup):
        assert not each.adapter or each.adapter in found.artifacts, (
            f"{name}: a pass wears {each.adapter!r}, which no fit leaves"
        )
    changed = replace(recipe, version=recipe.version + 1)
    assert changed.fingerprint != recipe.fingerprint
    return recipe


def _check_values(recipe: Recipe, backbone: Backbone, found: Learned, tolerance: float) -> None:
    rows = conversations()
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    sides: tuple[Side, ...] = ("pool", "target")
    for side in sides:
        together = _featurizer(recipe, backbone, found, 4096).compute(rows, of=side)
        _check_shapes(recipe, backbone, found, together)
        every = list(range(len(rows)))
        for how, tokens, padding, places in (
            ("one row at a time", 1, "right", every),
            ("in another order", 4096, "right", order),
            ("padded on the left", 4096, "left", every),
            ("among fewer rows", 4096, "right", every[::7]),
        ):
            featurizer = _featurizer(recipe, backbone, found, tokens, padding)
            other = featurizer.compute([rows[place] for place in places], of=side)
            for name, values in together.columns.items():
                error = _distance(other.columns[name], values[places])
                assert error <= tolerance, (
                    f"{name} ({side}): {how} it differs by {error:.1e}, more than {tolerance:.0e}; "
                    "mask padding, and let a row depend on itself alone"
                )


def _check_shapes(recipe: Recipe, backbone: Backbone, found: Learned, made: Features) -> None:
    """Columns are those declared; each row has its values, or a reason and something missing."""
    featurizer = _featurizer(recipe, backbone, found, 4096)
    fields = {field.name: field for field in featurizer.fields(recipe)}
    assert list(fields) == list(recipe.columns)
    assert set(made.columns) == set(fields), (
        f"{recipe.representation}: finish gives {sorted(made.columns)}, fields {sorted(fields)}"
    )
    table = featurizer.table(made)
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
            assert made.columns[name].shape == (len(reasons), kind.list_size), f"{name}: shape"
    for index, reason in enumerate(reasons):
        assert reason is None or (reason.strip() and missing[index]), (
            f"{recipe.representation}: row {index} has a reason ({reason!r}) and every value"
        )
        if not isinstance(made.encoded[index], Encoded):
            assert reason and "no tool begins" in reason, "a refused row keeps the refusal"
    similarity = registry.get(recipe.representation).similarity
    if similarity:
        vectors = made.columns[columns_of(recipe)[similarity]]
        lengths = np.linalg.norm(vectors[~np.isnan(vectors).any(1)], axis=1)
        assert np.allclose(lengths, 1, atol=1e-3), f"{similarity}: vectors are not of unit length"


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm-wise relative; infinite where what is missing, or a text, differs."""
    if expected.dtype == object:
        numbers = [isinstance(each, np.ndarray) for each in expected]
        if not any(numbers):
            return 0.0 if got.tolist() == expected.tolist() else np.inf
        if numbers != [isinstance(each, np.ndarray) for each in got]:
            return np.inf
        pairs = [(a, b) for a, b in zip(got, expected, strict=True) if b is not None]
        if any(len(a) != len(b) for a, b in pairs):
            return np.inf
        got, expected = (
            np.concatenate(each).astype(np.float64) for each in zip(*pairs, strict=True)
        )
    elif not np.array_equal(np.isnan(got), np.isnan(expected)):
        return np.inf
    there = ~np.isnan(expected)
    off = np.linalg.norm(got[there].astype(np.float64) - expected[there])
    return float(off / max(float(np.linalg.norm(expected[there])), 1e-12))


def _featurizer(
    recipe: Recipe, backbone: Backbone, found: Learned, tokens: int, padding: Any = "right"
) -> Featurizer:
    artifacts = {found.digests[name]: found.artifacts[name] for name in found.digests}
    return Featurizer(backbone, [recipe], tokens, padding, artifacts)


# -- the store and the query -----------------------------------------------------------------


def _check_store(recipe: Recipe, backbone: Backbone, found: Learned) -> None:
    """What is written is read again, bit for bit."""
    rows = conversations()
    featurizer = _featurizer(recipe, backbone, found, 4096)
    made = featurizer.featurize(rows)
    fields = featurizer.fields(recipe)
    with TemporaryDirectory(prefix="conformance-store-") as folder:
        store = Store.create(folder, {"features": recipe.representation}, fields, fields)
        commit = Commit("conformance")
        records = [Record(row, "toy", "toy", line) for line, row in enumerate(rows)]
        commit.add_rows([(row.id, record) for row, record in zip(rows, records, strict=True)], made)
        commit.write(store)
        read = store.take([row.id for row in rows], list(recipe.columns))
    for name in recipe.columns:
        assert read[name].to_pylist() == made[name].to_pylist(), f"{name}: not what was written"


def _check_comparison(recipe: Recipe, backbone: Backbone, found: Learned) -> None:
    """A scorer, where there is one, scores stored rows: NaN for those without the feature."""
    representation = registry.get(recipe.representation)
    rows = conversations()[:-1]
    featurizer = _featurizer(recipe, backbone, found, 4096)
    target = featurizer.compute(rows[:12], of="target")
    encoded = [each for each in target.encoded if isinstance(each, Encoded)]
    own = {name: target.columns[stored] for name, stored in columns_of(recipe).items()}
    facts = representation.facts(backbone, encoded, own, featurizer.setup(recipe, of="target"))
    if facts is not None:
        assert isinstance(Artifact.unpack(facts.pack()), Artifact)
    scorer = representation.scorer(
        recipe.options, found.artifacts, facts, dict(representation.asking)
    )
    if scorer is None:
        return
    names = columns_of(recipe)
    assert set(scorer.columns) <= set(names), f"{recipe.representation}: the scorer reads others"
    table = featurizer.featurize(rows)
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
