"""`SparseMatrix`: the products of a sparse linear layer on NumPy arrays and DLPack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import _core
from ._arrays import as_array, as_numbers, as_rows, out_rows, out_vector
from ._core import Pattern, Tiles
from ._masks import as_pattern


class SparseMatrix:
    """A sparse weight W `[rows, columns]` (outputs × inputs) and the products of a linear layer with it.

    Activations have their features last, as in PyTorch: x is `[..., columns]`, y and dy are `[..., rows]`. They are
    NumPy arrays, or anything with DLPack on the CPU, of float32 or float16; sums are float32 always. Turning rows
    into the kernels' tiles and back is part of every call; hand `Tiles` over to leave it out.

    Calls give up Python's lock, and may come from several threads. Raises ValueError for wrong shapes, elements or
    memory, TypeError for what is no array.

    >>> import numpy as np
    >>> w = SparseMatrix.from_dense(np.array([[0, 2, 0], [0, 0, 3]], np.float32))
    >>> w.forward(np.array([[1, 10, 100]], np.float32))
    array([[ 20., 300.]], dtype=float32)
    """

    def __init__(
        self, pattern: Pattern, values: Any, *, precision: str = "f32", plan: str = "auto"
    ) -> None:
        """A matrix of these weights, row by row in the order of `pattern`.

        `precision` is what operands are rounded to: `f32` (not at all), `bf16` or `f16`. `plan` says how the
        products are computed: `auto` asks a cost model, `tuned` measures all ways first, and a name, such as `plan`
        of another matrix, is used as it is, precision included.
        """
        self._layer = _core.Layer(pattern, precision, plan)
        self.values = values

    @classmethod
    def from_scipy(cls, matrix: Any, *, precision: str = "f32", plan: str = "auto") -> SparseMatrix:
        """The weights of a SciPy sparse matrix or array. Explicit zeros are weights that may change.

        Raises ValueError if indices of a CSR matrix are unsorted, repeated or out of range.
        """
        if not hasattr(matrix, "tocsr"):
            kind = type(matrix).__name__
            raise TypeError(f"matrix: is a {kind}, but must be a SciPy sparse matrix")
        csr = matrix.tocsr()
        offsets, indices = (_indices(name, getattr(csr, name)) for name in ("indptr", "indices"))
        try:
            pattern = Pattern(*csr.shape, offsets, indices)
        except ValueError as error:
            advice = "sum_duplicates() sorts and joins the indices"
            raise ValueError(f"matrix: {error}: {advice}") from error
        return cls(pattern, csr.data, precision=precision, plan=plan)

    @classmethod
    def from_dense(
        cls, weights: Any, mask: Any = None, *, precision: str = "f32", plan: str = "auto"
    ) -> SparseMatrix:
        """The elements of a dense matrix `[rows, columns]` that `mask` keeps: a `Pattern`, or an array that is not
        zero there. Without a mask, those that are not zero."""
        weights = as_numbers("weights", weights)
        if weights.ndim != 2:
            raise ValueError(f"weights: has {weights.ndim} dimensions, but must have 2")
        pattern = as_pattern(weights != 0 if mask is None else mask, weights.shape)
        matrix = cls.__new__(cls)
        matrix._layer = _core.Layer(pattern, precision, plan)
        matrix.values = weights[row_indices(pattern), pattern.column_indices]
        return matrix

    def to_scipy(self) -> Any:
        """The matrix as a SciPy CSR array of float32."""
        from scipy.sparse import csr_array

        pattern = self.pattern
        parts = (self.values, pattern.column_indices, pattern.row_offsets)
        return csr_array(parts, shape=pattern.shape)

    def to_dense(self) -> np.ndarray:
        """The matrix `[rows, columns]` with its zeros."""
        pattern = self.pattern
        dense = np.zeros(pattern.shape, np.float32)
        dense[row_indices(pattern), pattern.column_indices] = self.values
        return dense

    @property
    def pattern(self) -> Pattern:
        """Which weights there are."""
        return self._layer.pattern

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns): outputs and inputs."""
        return self._layer.pattern.shape

    @property
    def nnz(self) -> int:
        """Weights that are there."""
        return self._layer.pattern.nnz

    @property
    def plan(self) -> str:
        """How the products are computed: a name to hand to another matrix. It decides the order of sums, and so
        the last bits of results."""
        return self._layer.plan

    @property
    def precision(self) -> str:
        """What operands are rounded to."""
        return self._layer.precision

    @property
    def values(self) -> np.ndarray:
        """A copy of the weights, row by row: float32 `[nnz]`. Assign to change them."""
        return self._layer.values()

    @values.setter
    def values(self, values: Any) -> None:
        values = as_numbers("values", values)
        if values.ndim != 1:
            raise ValueError(f"values: has {values.ndim} dimensions, but must have 1")
        self._layer.pack(values)

    def forward(self, x: Any, *, bias: Any = None, out: Any = None) -> Any:
        """y = x · Wᵀ + bias: `[..., columns]` → `[..., rows]`, of x's element unless `out` has another.

        `bias` is float32 `[rows]`. `out` is written in place and must be contiguous. 2 · nnz FLOPs per token.
        Of `Tiles`, the result is `Tiles`.
        """
        rows, columns = self.shape
        bias = None if bias is None else as_numbers("bias", bias)
        if isinstance(x, Tiles):
            _no_out(out)
            return self._layer.forward_tiles(None, x, bias)
        x, before = as_rows("x", x, columns)
        y, result = out_rows(out, (*before, rows), x.dtype)
        self._layer.forward(None, x, y, bias, False)
        return result

    def input_gradient(self, dy: Any, *, out: Any = None) -> Any:
        """dx = dy · W: `[..., rows]` → `[..., columns]`. 2 · nnz FLOPs per token. Of `Tiles`, the result is `Tiles`."""
        rows, columns = self.shape
        if isinstance(dy, Tiles):
            _no_out(out)
            return self._layer.input_gradient_tiles(None, dy)
        dy, before = as_rows("dy", dy, rows)
        dx, result = out_rows(out, (*before, columns), dy.dtype)
        self._layer.backward(None, None, dy, None, dx, None, None)
        return result

    def weight_gradient(self, dy: Any, x: Any, *, out: Any = None) -> np.ndarray:
        """dw = Σ over tokens of dy · x at the weights that are there: float32 `[nnz]`, in the order of `values`.

        2 · nnz FLOPs per token. x may be the `Tiles` that `forward` was given.
        """
        rows, columns = self.shape
        dy, before = as_rows("dy", dy, rows)
        if not isinstance(x, Tiles):
            x, of_x = as_rows("x", x, columns)
            if of_x != before:
                raise ValueError(f"x: has tokens {of_x}, but dy has {before}")
        dw = out_vector(out, self.nnz)
        self._layer.backward(None, None, dy, x, None, dw, None)
        return dw

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.pattern, self.values, self.precision, self.plan)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"SparseMatrix({rows} × {columns}, {self.nnz} weights, {self.plan})"


def _restored(
    kind: type[SparseMatrix], pattern: Pattern, values: np.ndarray, precision: str, plan: str
) -> SparseMatrix:
    """A matrix that was pickled."""
    return kind(pattern, values, precision=precision, plan=plan)


def save_plans(path: str | os.PathLike[str], matrices: Iterable[SparseMatrix]) -> None:
    """Writes the plans of matrices to a TOML file, which `load_plans` and `mediswift pretrain --plans` read."""
    _core.write_plans(os.fspath(path), {matrix._layer.key: matrix.plan for matrix in matrices})


def load_plans(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """Reads a file of plans: a dictionary from `OUTxIN@nnz` to the plan of such layers."""
    return _core.read_plans(os.fspath(path))


def row_indices(pattern: Pattern) -> np.ndarray:
    """The row of every weight."""
    return np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.row_offsets))


def _indices(name: str, array: Any) -> np.ndarray:
    array = as_array(name, array)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: has elements of {array.dtype}, but must have integers")
    return np.array(array, np.int64)


def _no_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out: has no meaning for tiles, which come as new ones")
