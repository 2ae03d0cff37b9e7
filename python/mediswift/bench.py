"""Measured against theoretical speedup of sparse layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _core


class Report(NamedTuple):
    """What was measured."""

    #: One row per layer and product: a pandas.DataFrame, or a list of dictionaries where there is no pandas.
    table: Any
    #: A matplotlib figure of measured against theoretical speedup, or None where there is no matplotlib.
    figure: Any


def layer(
    shapes: Sequence[tuple[int, int]] = ((1024, 1024), (3072, 1024), (4096, 1024), (1024, 4096)),
    sparsities: Sequence[float] = (0.5, 0.75, 0.9),
    *,
    tokens: int = 2048,
    mask: str = "random",
    precision: str = "f32",
    plan: str = "auto",
    products: Sequence[str] = ("forward", "dx", "dw", "step"),
    rounds: int | None = None,
    seed: int = 1,
) -> Report:
    """Times sparse layers of `shapes` (outputs × inputs) in turns with the best dense code that the engine knows.

    Everything stays in tiles: this is what the kernels do, without Python's side. A `step` is all three products
    and the packing of changed weights. `mask` is one of `mediswift.mask_names()`; `plan` is as for `SparseMatrix`;
    `rounds` turns are made, or as many as a few seconds have room for. Speedups are ratios of medians, theory is
    weights of the dense layer for each that is there. Ctrl-C stops.
    """
    patterns = [
        _core.Pattern.draw(mask, *shape, sparsity, seed)
        for shape in shapes
        for sparsity in sparsities
    ]
    measured = _core.bench_layer(patterns, tokens, precision, plan, list(products), rounds)
    rows = [row for of_pattern in measured for row in of_pattern]
    return Report(_table(rows), _figure(rows))


def _table(rows: list[dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def _figure(rows: list[dict[str, Any]]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for product in dict.fromkeys(row["product"] for row in rows):
        points = [(row["theory"], row["speedup"]) for row in rows if row["product"] == product]
        axes.plot(*zip(*sorted(points)), "o", label=product)
    if rows:
        most = max(row["theory"] for row in rows)
        axes.plot([1, most], [1, most], "k--", linewidth=1, label="theory")
        axes.legend()
    axes.set(xscale="log", yscale="log", xlabel="theoretical speedup", ylabel="measured speedup")
    return figure
