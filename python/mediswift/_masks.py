"""Masks: which weights of a layer to keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import as_array
from ._core import Pattern, mask_names


def draw_mask(
    name: str, rows: int, columns: int, sparsity: float, *, seed: int = 1
) -> Pattern:
    """Draws a mask `[rows, columns]` (outputs × inputs) that leaves out the fraction `sparsity`, in [0, 1).

    `name` is one of `mask_names()`: `random` is uniform; others are uneven or have structure. The same seed draws
    the same mask.
    """
    return Pattern.draw(name, rows, columns, sparsity, seed)


def as_pattern(
    mask: Any,
    shape: tuple[int, int],
    *,
    sparsity: float | None = None,
    seed: int = 1,
    weights: np.ndarray | None = None,
) -> Pattern:
    """A pattern of that shape: a `Pattern`, an array that is not zero where a weight stays, the name of a mask to
    be drawn, or `magnitude`, which keeps the largest of `weights`.

    Raises ValueError for other shapes, NaN, unknown names, or a name without a sparsity.
    """
    if isinstance(mask, str):
        if sparsity is None:
            raise ValueError(f"sparsity: is missing: how much does the mask '{mask}' leave out?")
        if mask == "magnitude" and weights is not None:
            return _largest(weights, sparsity)
        if mask not in mask_names():
            known = ", ".join(mask_names() + (["magnitude"] if weights is not None else []))
            raise ValueError(f"mask: is '{mask}', but must be one of {known}")
        return Pattern.draw(mask, *shape, sparsity, seed)
    pattern = mask if isinstance(mask, Pattern) else _of_array(as_array("mask", mask))
    if pattern.shape != tuple(shape):
        raise ValueError(f"mask: has shape {pattern.shape}, but must have {tuple(shape)}")
    return pattern


def _of_array(mask: np.ndarray) -> Pattern:
    if mask.ndim != 2:
        raise ValueError(f"mask: has {mask.ndim} dimensions, but must have 2")
    if mask.dtype.kind not in "bfiu":
        raise ValueError(f"mask: has elements of {mask.dtype}, but must have booleans or numbers")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        row, column = np.argwhere(np.isnan(mask))[0]
        raise ValueError(f"mask: is NaN at ({row}, {column}): neither kept nor left out")
    return Pattern.of_mask(np.ascontiguousarray(mask != 0))


def _largest(weights: np.ndarray, sparsity: float) -> Pattern:
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity: is {sparsity}, but must lie in [0, 1)")
    if np.isnan(weights).any():
        raise ValueError("weights: some are NaN, which are neither large nor small")
    kept = weights.size - round(sparsity * weights.size)
    mask = np.zeros(weights.size, bool)
    if kept:
        mask[np.argpartition(np.abs(weights), weights.size - kept, axis=None)[-kept:]] = True
    return Pattern.of_mask(mask.reshape(weights.shape))
