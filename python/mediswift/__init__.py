"""Sparse layers that are faster than dense ones on CPUs, and sparse GPTs: the MediSwift engine.

=====================  ==============================================================================
`SparseMatrix`         the three products of a sparse linear layer on NumPy arrays and DLPack
`Pattern`              which weights exist: from SciPy, from masks, or drawn by name
`mediswift.torch`      `SparseLinear` for PyTorch, and `sparsify` for whole models
`mediswift.bench`      measured against theoretical speedup of layers
`Model`                a trained model: `score`, `generate`, `loss`, `perplexity`
`train`                trains one; `prepare` and `write_dataset` make what it trains on; `Tokenizer`
=====================  ==============================================================================

Everything computes on threads of the engine's own (`set_num_threads`), without Python's lock, with the best
instruction set of the CPU (`instruction_set`; the environment variable MEDISWIFT_ISA forces one). Results do
not depend on the number of threads.
"""

from . import bench
from ._core import (
    Pattern,
    Tiles,
    Tokenizer,
    instruction_set,
    mask_names,
    num_threads,
    set_num_threads,
)
from ._masks import draw_mask
from ._matrix import SparseMatrix, load_plans, save_plans
from ._models import Generation, Model, Score, prepare, train, write_dataset

__all__ = [
    "Generation",
    "Model",
    "Pattern",
    "Score",
    "SparseMatrix",
    "Tiles",
    "Tokenizer",
    "bench",
    "draw_mask",
    "instruction_set",
    "load_plans",
    "mask_names",
    "num_threads",
    "prepare",
    "save_plans",
    "set_num_threads",
    "train",
    "write_dataset",
]
