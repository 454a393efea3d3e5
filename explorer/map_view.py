"""The map as a widget: points in WebGL, of which a lasso or a click says which are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .condition import among, within_lasso
from .explorer import Explorer

HEIGHT = 520
LIT, UNLIT = 8, 3
"""Sizes of points."""

_NOT_LIT = "others"

_NO_HIGHER_THAN_WIDE = f'[style*="height: {HEIGHT}px"] {{max-height: calc(100vw - 4.75rem)}}'
"""Style for narrow windows: jupyter-scatter fits a map to its height, and cuts it at the sides."""


class MapView:
    """The map of an explorer, drawn by jupyter-scatter.

    Args:
        explorer: whose rows are the points.
        on_lasso: receives the condition of a lasso that was drawn, None once there is none.
        on_point: receives the id of a row whose point was clicked.

    Attributes:
        widget: to be shown, an anywidget.
    """

    def __init__(
        self,
        explorer: Explorer,
        on_lasso: Callable[[str | None], Any],
        on_point: Callable[[str], Any],
    ) -> None:
        import jscatter

        self._explorer, self._on_lasso, self._on_point = explorer, on_lasso, on_point
        points = explorer.points
        self._scatter = jscatter.Scatter(
            x=points[:, 0],
            y=points[:, 1],
            x_scale=[-1, 1],
            y_scale=[-1, 1],
            height=HEIGHT,
            axes=False,
            legend=True,
            tooltip=False,
            mouse_mode="lasso",
            background_color=(1.0, 1.0, 1.0, 0.0),
            transition_points=False,
            lasso_min_dist=6,
        )
        self._scatter.options(regl_scatterplot_options={"height": "auto"})  # that of its box
        self.widget: Any = self._scatter.widget
        style = getattr(self.widget, "_css", None)  # private: without it the map may be cut
        if isinstance(style, str):
            self.widget._css = f"{style}\n{_NO_HIGHER_THAN_WIDE}"
        self.widget.observe(self._points_chosen, names=["selection"])
        self.widget.observe(self._lasso_drawn, names=["lasso_selection_polygon"])

    def draw(self, colour: str, lit: str | None = None) -> None:
        """Colour the points by a column, and make those of a coreset large."""
        import pandas as pd

        explorer, scatter = self._explorer, self._scatter
        column = explorer.column(colour)
        if column.number:
            values = explorer.numbers(column)
            present = values[np.isfinite(values)]
            low, high = np.quantile(present, [0.01, 0.99]) if len(present) else (0.0, 1.0)
            shown = np.where(np.isfinite(values), values, low).clip(low, high)
            scatter.color(by=shown, map="viridis", norm=(low, max(high, low + 1e-9)))
        else:
            names = explorer.categories(column)
            scatter.color(by=pd.Categorical(names), map="auto")  # pyright: ignore[reportArgumentType]
        if lit is None:
            scatter.size(default=UNLIT, by=None)
        else:
            chosen = np.zeros(len(explorer.map.ids), bool)
            chosen[explorer.members(lit)] = True
            of = pd.Categorical(np.where(chosen, lit, _NOT_LIT), categories=[_NOT_LIT, lit])
            scatter.size(by=of, map=[UNLIT, LIT])  # pyright: ignore[reportArgumentType]

    def show_only(self, points: np.ndarray | None) -> None:
        """Show some of the points, all for None."""
        self._scatter.filter(points)

    def _points_chosen(self, change: Any) -> None:
        """A click on a point chooses it alone; a lasso says what it holds by its polygon."""
        numbers = change["new"]
        if len(numbers) == 1:
            self._on_point(self._explorer.map.ids[int(numbers[0])])

    def _lasso_drawn(self, change: Any) -> None:
        """A lasso, or none: the polygon is in the units of `Explorer.points`."""
        polygon = change["new"]
        if polygon is None or np.size(polygon) < 6:  # three corners
            self._on_lasso(None)
            return
        corners = self._explorer.in_map_units(np.asarray(polygon).reshape(-1, 2))
        columns = self._explorer.map_columns
        if columns is not None:
            self._on_lasso(within_lasso(columns, corners.tolist()))
            return
        # Places that the store does not keep are in no condition; the rows themselves are.
        inside = polygon_holds(self._explorer.map.places, corners)
        self._on_lasso(
            among([self._explorer.map.ids[at] for at in np.flatnonzero(inside).tolist()])
        )


def polygon_holds(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether places (N, 2) are within a polygon (k, 2), (N,) bool; as the macro `inside` says."""
    x, y = places[:, 0].astype(np.float64), places[:, 1].astype(np.float64)
    crossed = np.zeros(len(places), np.int64)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        between = (y1 > y) != (y2 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossed += between & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return crossed % 2 == 1
