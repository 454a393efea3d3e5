"""Every registered representation holds what all must; and the suite finds those that do not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from helpers.toy_fits import Centre, Counting

from coresetdb.ingest.passes.reducer import Pass, PassInputs, Reducer
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.representation import Representation
from coresetdb.ingest.testing import TOLERANCE, check_representation, conformance_backbone
from coresetdb.store.catalog import Artifact

SMALL = {
    "gradfiltering": {"at_least": 12, "share": 0.0, "rank": 2, "alpha": 4},
    "less": {"dims": 256},
}
"""Options that make a check quick."""

ROUNDING = {"gradfiltering": 1e-2}
"""Its score is a small difference of norms over another: rounding weighs more than elsewhere."""


@pytest.mark.parametrize("name", registry.names())
def test_every_representation_conforms(name):
    options = dict(SMALL.get(name, {}))
    if name == "embed":
        pytest.importorskip("sentence_transformers", reason="the extra [embed] is not installed")
        from helpers.tiny_encoders import tiny_encoder

        options["model"] = str(tiny_encoder())
    if name == "gradfiltering":  # the store's own backbone
        options["model"] = str(conformance_backbone("llama").info.folder)
    # What trains or has a model of its own is held against more architectures in its own tests.
    quick = name in ("rds", "losses", "nait", "mads")
    check_representation(
        registry.get(name),
        options,
        ("llama", "gpt2") if quick else ("llama",),
        tolerance=ROUNDING.get(name, TOLERANCE),
    )


def test_representations_are_light_until_they_run():
    code = (
        "import sys; from coresetdb.ingest.representations import registry;"
        "[registry.get(name) for name in registry.names()];"
        "heavy = {'torch', 'transformers', 'peft', 'sentence_transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Mean(Representation):
    """A representation that conforms; the tests below break it in one point each."""

    name, version, similarity = "mean", 1, "mean"

    def fields(self, setup):
        width = setup.info.hidden_size
        return [
            pa.field("mean", pa.list_(pa.float16(), width)),
            pa.field("mean_reason", pa.string()),
        ]

    def passes(self, setup):
        return {Pass(): PassInputs(hidden=True)}

    def reducer(self, each, batch, setup):
        return Averaged(batch)

    def finish(self, rows, passed, setup):
        mean = passed[Pass()]["mean"]
        unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return {"mean": unit, "mean_reason": np.full(len(rows), None, dtype=object)}


class Averaged(Reducer):
    masked = True

    def __init__(self, batch):
        self.mask = batch.mask if self.masked else batch.mask | True

    def hidden(self, states):
        clean = states.float().masked_fill(~self.mask[:, :, None], 0)
        self.mean = clean.sum(1) / self.mask.sum(1, keepdim=True)

    def columns(self):
        return {"mean": self.mean.numpy()}


def test_what_conforms_passes():
    check_representation(Mean(), architectures=["llama"])
    check_representation(Counting("counted", spread=True), architectures=["llama"])
    assert "mean" not in registry.names()


class CountsPadding(Mean):
    def reducer(self, each, batch, setup):
        reducer = Averaged(batch)
        reducer.mask = batch.mask | True
        return reducer


class SaysNothing(Mean):
    def finish(self, rows, passed, setup):
        made = super().finish(rows, passed, setup)
        made["mean"][0] = np.nan
        return made


class SaysTooMuch(Mean):
    def finish(self, rows, passed, setup):
        made = super().finish(rows, passed, setup)
        made["mean_reason"][0] = "I felt like it"
        return made


class ForgetsAColumn(Mean):
    def fields(self, setup):
        return [pa.field("middle", pa.float32()), *super().fields(setup)]


class IsLong(Mean):
    def finish(self, rows, passed, setup):
        made = super().finish(rows, passed, setup)
        return {**made, "mean": 2 * made["mean"]}


class TakesAName(Mean):
    def fields(self, setup):
        return [pa.field("tokens", pa.float32()), *super().fields(setup)]


class LooksAtOthers(Mean):
    def finish(self, rows, passed, setup):
        made = super().finish(rows, passed, setup)
        mixed = made["mean"] + made["mean"].mean(0)
        return {**made, "mean": mixed / np.linalg.norm(mixed, axis=1, keepdims=True)}


class LosesOrder(Mean):
    def finish(self, rows, passed, setup):
        made = super().finish(rows, passed, setup)
        return {**made, "mean": made["mean"][np.argsort(made["mean"][:, 0])]}


class DrawsByChance(Centre):
    def run(self, fitting):
        for name in self.outputs():
            if name not in fitting.artifacts:
                fitting.keep(name, Artifact({"mean": np.random.default_rng().random(1)}))


class StartsAgain(Centre):
    def run(self, fitting):
        for name in self.outputs():
            fitting.keep(name, Artifact({"mean": np.float32([1])}))


class Learns(Counting):
    def __init__(self, fit):
        super().__init__("counted")
        self.fit = fit

    def fits(self, info, options):
        return (self.fit(8),)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (CountsPadding(), "mask padding"),
        (SaysNothing(), "row 0 is missing without a reason"),
        (SaysTooMuch(), "has a reason .* and every value"),
        (ForgetsAColumn(), r"finish gives .* fields"),
        (IsLong(), "not of unit length"),
        (TakesAName(), "has columns called tokens"),
        (LosesOrder(), "in another order"),
        (LooksAtOthers(), "among fewer rows"),
        (Learns(DrawsByChance), "other artifacts the second time"),
        (Learns(StartsAgain), "made centre/1, centre/2 again"),
    ],
)
def test_what_does_not_conform_is_named(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_representation(broken, architectures=["llama"])
