"""What callers hand over, as NumPy arrays that the compiled part can work on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: DLPack's devices whose memory the CPU reads: its own, and such that is pinned for a GPU.
_CPU = (1, 3)

_ROWS = (np.dtype(np.float32), np.dtype(np.float16))


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array that shares its memory: an array, or anything with DLPack on the CPU.

    Raises TypeError if it is neither, ValueError if it lies elsewhere or cannot be shared.
    """
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        kind = type(value).__name__
        raise TypeError(f"{name}: is a {kind}, but must be a NumPy array or have DLPack")
    device = value.__dlpack_device__()[0]
    if device not in _CPU:
        raise ValueError(f"{name}: lies on DLPack's device {int(device)}, but must be on the CPU")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: cannot be shared: {error}") from error


def as_rows(name: str, value: Any, features: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Activations `[..., features]` as contiguous rows `[tokens, features]`, with the extents before the last.

    A copy is made where the elements do not follow each other.
    """
    array = as_array(name, value)
    if array.dtype not in _ROWS:
        raise ValueError(
            f"{name}: has elements of {array.dtype}, but must have float32 or float16: "
            "astype(numpy.float32) converts"
        )
    if array.ndim == 0 or array.shape[-1] != features:
        raise ValueError(f"{name}: has shape {array.shape}, but must end with {features} features")
    before = array.shape[:-1]
    rows = np.require(array, requirements=["C", "A"])
    return rows.reshape(math.prod(before), features), before


def out_rows(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Where a result `[..., features]` goes: rows to write, and what to return. Without `out`, a new array."""
    array = np.empty(shape, dtype) if out is None else as_array("out", out)
    if array.dtype not in _ROWS:
        raise ValueError(f"out: has elements of {array.dtype}, but must have float32 or float16")
    return _whole(array, shape).reshape(math.prod(shape[:-1]), shape[-1]), array


def out_vector(out: Any, length: int) -> np.ndarray:
    """Where `length` numbers go. Without `out`, a new array."""
    array = np.empty(length, np.float32) if out is None else as_array("out", out)
    if array.dtype != np.float32:
        raise ValueError(f"out: has elements of {array.dtype}, but must have float32")
    return _whole(array, (length,))


def _whole(out: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if out.shape != shape:
        raise ValueError(f"out: has shape {out.shape}, but must have {shape}")
    if not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError("out: is not contiguous, so that its rows cannot be written in place")
    if not out.flags.writeable:
        raise ValueError("out: is read-only")
    return out


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Weights as contiguous float32; those of float64 are rounded."""
    array = as_array(name, value)
    if array.dtype not in (np.float32, np.float64, np.float16):
        raise ValueError(f"{name}: has elements of {array.dtype}, but must have float32")
    return np.require(array, np.float32, ["C", "A"])
