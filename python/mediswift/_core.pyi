"""The compiled part of the package: strict about what it is handed. Use it by way of the package."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Pattern:
    """Which weights of a layer exist: the structure of a CSR matrix of `rows` outputs and `columns` inputs.

    Row `r` has the columns `column_indices[row_offsets[r]:row_offsets[r + 1]]`, which increase. It never changes.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        row_offsets: NDArray[np.int64],
        column_indices: NDArray[np.int64],
    ) -> None: ...
    @staticmethod
    def of_mask(mask: NDArray[np.bool_]) -> Pattern:
        """The pattern of the elements of a matrix `[rows, columns]` that are true."""

    @staticmethod
    def draw(name: str, rows: int, columns: int, sparsity: float, seed: int) -> Pattern:
        """Draws a mask of the family `name` that leaves out the fraction `sparsity`, in [0, 1)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns): outputs and inputs of the layer."""

    @property
    def nnz(self) -> int:
        """Weights that are there."""

    @property
    def sparsity(self) -> float:
        """The fraction of weights that is not."""

    @property
    def row_offsets(self) -> NDArray[np.int64]:
        """Where each row begins among the column indices, and their number: `[rows + 1]`."""

    @property
    def column_indices(self) -> NDArray[np.int64]:
        """The column of every weight, row by row: `[nnz]`."""

    def to_mask(self) -> NDArray[np.bool_]:
        """A matrix `[rows, columns]`: true where a weight is."""

    def __eq__(self, other: object) -> bool: ...

class Tiles:
    """Activations in the layout of the kernels: tiles of sixteen tokens, `[tile][feature][16]`."""

    @staticmethod
    def of_rows(rows: NDArray[np.float32], features: int) -> Tiles:
        """Tiles of rows `[tokens, features]`."""

    def write_rows(self, rows: NDArray[np.float32]) -> None:
        """Writes the rows into an array `[tokens, features]`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, features)."""

class Layer:
    """A pattern and a plan of the products of its weights, packed with those that came last."""

    def __init__(self, pattern: Pattern, precision: str, plan: str) -> None: ...
    @property
    def pattern(self) -> Pattern: ...
    @property
    def plan(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def key(self) -> str: ...
    def values(self) -> NDArray[np.float32]: ...
    def pack(self, values: NDArray[np.float32]) -> None: ...
    def forward(
        self,
        values: NDArray[np.float32] | None,
        x: NDArray[Any],
        y: NDArray[Any],
        bias: NDArray[np.float32] | None,
        keep: bool,
    ) -> tuple[int | None, Tiles | None]: ...
    def backward(
        self,
        values: NDArray[np.float32] | None,
        generation: int | None,
        dy: NDArray[Any],
        x: NDArray[Any] | Tiles | None,
        dx: NDArray[Any] | None,
        dw: NDArray[np.float32] | None,
        db: NDArray[np.float32] | None,
    ) -> None: ...
    def forward_tiles(
        self, values: NDArray[np.float32] | None, x: Tiles, bias: NDArray[np.float32] | None
    ) -> Tiles: ...
    def input_gradient_tiles(self, values: NDArray[np.float32] | None, dy: Tiles) -> Tiles: ...

class Tokenizer:
    """Turns texts into token ids, and back."""

    @staticmethod
    def load(path: str | PathLike[str]) -> Tokenizer:
        """Loads a `tokenizer.json`, or the one in the folder of a run or a dataset."""

    @staticmethod
    def import_from(vocabulary: str | PathLike[str], merges: str | PathLike[str]) -> Tokenizer:
        """Imports GPT-2's or BioGPT's vocabulary and merges."""

    @staticmethod
    def train(
        texts: Sequence[str], vocab_size: int, *, kind: str = "byte-bpe", min_frequency: int = 2
    ) -> Tokenizer:
        """Learns a vocabulary of at most `vocab_size` tokens; `kind` is `byte-bpe` or `moses-bpe`."""

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a `tokenizer.json`."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens that are typed in it are ordinary characters."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, in parallel."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The token strings of ids, as files write them."""

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""

    @property
    def end_of_text(self) -> int:
        """The id of the token between documents."""

class Model:
    """The model of a run."""

    @staticmethod
    def load(run: str, step: int | None) -> Model: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def step(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def settings(self) -> str: ...
    @property
    def skipped(self) -> list[str]: ...
    def score(
        self, texts: list[str], before: str | None
    ) -> list[tuple[list[int], NDArray[np.float64], bool, bool]]: ...
    def generate(
        self,
        prompts: list[str | NDArray[np.int64]],
        samples: int,
        max_tokens: int,
        temperature: float,
        top_k: int | None,
        top_p: float,
        seed: int,
        stop: list[str],
        past_context: bool,
    ) -> list[tuple[list[int], str, str, float]]: ...
    def loss(self, sequences: list[NDArray[np.int64]]) -> tuple[float, int]: ...
    def evaluate(self, data: str) -> tuple[float, int]: ...

def bench_layer(
    patterns: list[Pattern],
    tokens: int,
    precision: str,
    plan: str,
    products: list[str],
    rounds: int | None,
) -> list[list[dict[str, Any]]]: ...
def instruction_set() -> str:
    """The instruction set in use: MEDISWIFT_ISA, or the best that this CPU has."""

def mask_names() -> list[str]:
    """The names of the masks that can be drawn."""

def num_threads() -> int:
    """Threads that compute."""

def read_plans(path: str) -> dict[str, str]: ...
def set_num_threads(n: int) -> None:
    """Lets all computing of this process use `n` threads, from 1 to 1024."""

def write_plans(path: str, plans: dict[str, str]) -> None: ...
def prepare_dataset(
    inputs: list[str], out: str, vocab_size: int, tokenizer: str | None, validation: float
) -> dict[str, Any]: ...
def write_dataset(
    out: str,
    tokenizer: Tokenizer,
    train: list[NDArray[np.int64]],
    validation: list[NDArray[np.int64]],
) -> dict[str, Any]: ...
def train(
    data: str,
    out: str,
    preset: str | None,
    config: str | None,
    settings: list[str],
    resume: bool,
    callback: Callable[[dict[str, Any]], Any] | None,
) -> dict[str, Any]: ...
