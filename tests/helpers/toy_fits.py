"""Representations that learn something, small enough to follow by hand; for tests of fitting."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from coresetdb.ingest.fits.fit import Fit
from coresetdb.ingest.passes.reducer import Pass, PassInputs, Reducer
from coresetdb.ingest.representations.representation import Representation
from coresetdb.schemas.errors import UsageError
from coresetdb.store.catalog import Artifact


class Centre(Fit):
    """The mean length of the sample's prompts, in two steps that are kept one by one."""

    name = "centre"
    ran: list[list[str]] = []  # noqa: RUF012 (what each run learned from; tests clear it)
    stop_after: str | None = None

    def __init__(self, rows: int, seed: int = 0):
        self.rows, self.seed = rows, seed

    def spec(self):
        return {"rows": self.rows, "seed": self.seed}

    def outputs(self):
        return ("centre/1", "centre/2")

    def sample_rows(self, total):
        return min(self.rows, total)

    def run(self, fitting):
        if len(fitting.sample) < 3:
            raise UsageError(f"centre needs 3 rows, not {len(fitting.sample)}")
        type(self).ran.append(list(fitting.sample.ids))
        lengths = [
            len(instruction.messages[0].content) for instruction in fitting.sample.instructions
        ]
        for name in self.outputs():
            if name not in fitting.artifacts:
                fitting.report(0.5, "loss 1.0")
                mean = Artifact({"mean": np.float32([np.mean(lengths)])}, {"name": name})
                fitting.keep(name, mean)
            if name == type(self).stop_after:
                raise KeyboardInterrupt


class Spread(Fit):
    """Needs the centre."""

    name = "spread"

    def __init__(self, centre: Centre):
        self.centre = centre

    def spec(self):
        return {"seed": self.centre.seed}

    def outputs(self):
        return ("spread",)

    def sample_rows(self, total):
        return min(2, total)

    def needs(self):
        return (self.centre,)

    def run(self, fitting):
        mean = fitting.artifacts["centre/2"].arrays["mean"]
        if "spread" not in fitting.artifacts:
            fitting.keep("spread", Artifact({"spread": mean * 2}))


class Counting(Representation):
    """`<name>`: tokens of a row plus what was learned; shares its fit with its siblings."""

    version = 1
    defaults = {"rows": 8, "seed": 0}  # noqa: RUF012

    def __init__(self, name: str, spread: bool = False):
        self.name, self.spread = name, spread  # type: ignore[misc]

    def fits(self, info, options):
        centre = Centre(options["rows"], options["seed"])
        return (Spread(centre),) if self.spread else (centre,)

    def fields(self, setup):
        return [pa.field(self.name, pa.float32()), pa.field(f"{self.name}_reason", pa.string())]

    def passes(self, setup):
        return {Pass(): PassInputs(hidden=True)}

    def reducer(self, each, batch, setup):
        return Count(batch)

    def finish(self, rows, passed, setup):
        learned = setup.artifacts["spread" if self.spread else "centre/2"]
        (value,) = learned.arrays.values()
        reason = np.full(len(rows), None, dtype=object)
        return {self.name: passed[Pass()]["n"] + value[0], f"{self.name}_reason": reason}


class Count(Reducer):
    def __init__(self, batch):
        self.n = batch.mask.sum(1).float().numpy()

    def hidden(self, states): ...

    def columns(self):
        return {"n": self.n}


REPRESENTATIONS = {"counted": Counting("counted"), "spreading": Counting("spreading", spread=True)}


def register(monkeypatch) -> None:
    """Register them as another package would."""
    from coresetdb.ingest.representations import registry

    class Point:
        def __init__(self, name):
            self.name = name

        def load(self):
            return REPRESENTATIONS[self.name]

    monkeypatch.setattr(registry, "entry_points", lambda group: map(Point, REPRESENTATIONS))
    registry.forget_installed()
    monkeypatch.setattr(Centre, "ran", [])
    monkeypatch.setattr(Centre, "stop_after", None)
