"""A plan: what features will cost, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PlannedColumn:
    """A column of the pool; `bytes_per_row` is `measured` on the trial or known from the type."""

    column: str
    feature: str
    type: str
    bytes_per_row: float
    measured: bool


@dataclass(frozen=True)
class PlannedPass:
    """A run of the model, or what a representation does by itself, and what it takes."""

    what: str
    features: list[str]
    seconds_per_1000_rows: float
    seconds: float


@dataclass(frozen=True)
class PlannedFit:
    """Something to learn first; its time is told from trials (see `seconds_on`)."""

    fit: str
    rows: int
    artifacts: list[str]
    bytes: int
    seconds: float


def seconds_on(rows: int, large: tuple[int, float], small: tuple[int, float] | None) -> float:
    """What a fit takes on `rows`, from what it took on fewer.

    Two trials make a line: what the fit takes in any case, and what each row adds. A row adds no
    less than nothing, and no more than its share of the larger trial.

    Args:
        large, small: rows and seconds of the trials; where there is no second one, or it had as
            many rows, time is taken to be in proportion to the rows.
    """
    tried, seconds = large
    each = seconds / tried
    if small and small[0] < tried:
        each = min(each, max(0.0, (seconds - small[1]) / (tried - small[0])))
    return seconds + each * (rows - tried)


@dataclass(frozen=True)
class Plan:
    """The cost of some features over some files.

    Attributes:
        records: in the files; `exact` when they were counted, else told from `read` of them.
        rows: those the pool lacks: what is featurized and stored.
        tokens_per_row, trial_rows: of the trial.
        notes: what is not in the figures.
    """

    features: list[str]
    records: int
    rows: int
    read: int
    exact: bool
    trial_rows: int
    tokens_per_row: float
    columns: list[PlannedColumn]
    passes: list[PlannedPass]
    fits: list[PlannedFit]
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_per_row(self) -> float:
        """Of all columns together, as they lie in memory."""
        return sum(each.bytes_per_row for each in self.columns)

    @property
    def gigabytes(self) -> float:
        """What the rows add to the store, before the encodings of Lance."""
        return (self.bytes_per_row * self.rows + sum(each.bytes for each in self.fits)) / 1e9

    @property
    def seconds(self) -> float:
        """Fits and passes, on this machine."""
        return sum(each.seconds for each in (*self.fits, *self.passes))

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        totals = ("bytes_per_row", "gigabytes", "seconds")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}
