"""What each neuron of a row added to a coverage when the row was taken (METHODS 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.errors import BackboneError
from ...selectors.coverage import gain_tables
from ...selectors.keys import KeySet, keys_of
from ..features import Feature
from ..methods import Method
from ..scanning.reducers import Block
from ..scanning.set_scan import scan_sets

if TYPE_CHECKING:
    import polars as pl

    from ...store.store import Store

VALUES = "mads_values"
"""MADS's own name of the column that holds the activations of the neurons in a row's set."""

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")
"""What configurations call the units of a layer's feed-forward network."""


def neuron_gains(
    store: Store,
    feature: Feature,
    method: Method,
    row: str,
    before: Sequence[str],
    *,
    version: int,
    where: str | None = None,
    target_units: np.ndarray | None = None,
) -> pl.DataFrame:
    """The parts of a row's gain, neuron by neuron, the greatest first.

    Args:
        feature: the sets that are covered.
        method: with the options of `coverage`.
        row: id of a row that has a set.
        before: ids of the rows that were taken before it, for the same target where one asks.
        version: of the pool.
        where: the filter that said which rows count for `weights=idf`.
        target_units: neurons of the target's examples, for `weights=target`.

    Returns:
        A row for each neuron: `neuron`, `layer` and `unit` in it (null where the model's folder
        does not say them), `value` (its activation, null where none is kept), `held` (rows
        before that hold it), `weight`, `gain`; gains add up to the row's score.
    """
    import polars as pl

    assert feature.representation.sets is not None
    column = feature.columns[feature.representation.sets]
    value_column = feature.columns.get(VALUES)
    own = store.take([row], [column, *([value_column] if value_column else [])], version)
    units = own[column].combine_chunks().flatten().to_numpy()
    held = _held(store, column, units, before, version)
    weights = _weights(
        store, column, method.options["weights"], units, version, where, target_units
    )
    gains = weights * gain_tables(method.options["g"], method.options["cap"])(held)
    layer, unit = _places(store, units)
    values = own[value_column].to_pylist()[0] if value_column else [None] * len(units)
    frame = pl.DataFrame(
        {
            "neuron": units,
            "layer": layer,
            "unit": unit,
            "value": pl.Series(values, dtype=pl.Float32),
            "held": held,
            "weight": weights,
            "gain": gains,
        }
    )
    return frame.sort(["gain", "neuron"], descending=[True, False])


def _held(
    store: Store, column: str, units: np.ndarray, before: Sequence[str], version: int
) -> np.ndarray:
    """How many of the rows before hold each unit, (n,) int64."""
    order = np.argsort(units)
    counts = np.zeros(len(units), np.int64)
    for part in store.stream(before, [column], version):
        found = part[column].combine_chunks().flatten().to_numpy()
        places = np.searchsorted(units[order], found).clip(max=max(len(units) - 1, 0))
        hit = units[order][places] == found
        counts += np.bincount(places[hit], minlength=len(units))
    result = np.empty_like(counts)
    result[order] = counts
    return result


def _weights(
    store: Store,
    column: str,
    option: str,
    units: np.ndarray,
    version: int,
    where: str | None,
    target_units: np.ndarray | None,
) -> np.ndarray:
    """The weight of each unit, (n,) float64, as the selection had it."""
    if option == "target":
        assert target_units is not None
        return np.isin(units, target_units).astype(np.float64)
    if option == "one":
        return np.ones(len(units))
    counting = _Holding(units)
    eligible = None
    if where is not None:
        from ...store.filter import eligible_ids

        eligible = KeySet(keys_of(eligible_ids(store, where, version)))
    seen = scan_sets(store.dataset("pool", version), column, [counting], eligible)
    return np.log(max(seen.scored, 1) / np.maximum(counting.counts, 1))


class _Holding:
    """Counts the rows that hold each of some units."""

    def __init__(self, units: np.ndarray) -> None:
        self._units = units
        self.counts = np.zeros(len(units), np.int64)

    def feed(self, block: Block) -> None:
        assert block.sets is not None
        found = np.bincount(block.sets.flatten().to_numpy(), minlength=int(self._units.max()) + 1)
        self.counts += found[self._units]

    def held_elements(self) -> int:
        return len(self.counts)

    def result(self) -> np.ndarray:
        return self.counts


def _places(store: Store, units: np.ndarray) -> tuple[list[int | None], list[int | None]]:
    """Layer and unit within it of each neuron, where the model's folder says how many there are."""
    width = _units_per_layer(store)
    if width is None:
        return [None] * len(units), [None] * len(units)
    return (units // width).tolist(), (units % width).tolist()


def _units_per_layer(store: Store) -> int | None:
    """Of a dense model whose configuration gives one number for all layers."""
    from ...ingest.models.model_folder import model_folder, read_settings

    try:
        folder = model_folder(str(store.config["backbone"]["name"]))
    except BackboneError:
        return None
    settings = read_settings(folder / "config.json")
    sizes = settings.get("text_config") or settings
    if any("expert" in name for name in sizes):
        return None
    width = next((sizes[name] for name in _WIDTHS if sizes.get(name)), None)
    return width if isinstance(width, int) else None
