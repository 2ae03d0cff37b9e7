"""Sparse linear layers for PyTorch that are faster than dense ones on CPUs, forward and backward.

>>> import torch
>>> from mediswift.torch import SparseLinear
>>> layer = SparseLinear(1024, 4096, sparsity=0.75)
>>> layer(torch.randn(2, 128, 1024)).shape
torch.Size([2, 128, 4096])
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import _core, _openmp
from ._core import Pattern, num_threads
from ._masks import as_pattern
from ._matrix import row_indices

__all__ = ["SparseLinear", "sparsify"]

#: What a tensor's elements are multiplied as.
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class SparseLinear(nn.Module):
    """y = x · Wᵀ + b with a W `[out_features, in_features]` of which most elements are not there.

    `weight` is a flat Parameter of the elements that are, row by row, `[nnz]`: any optimiser works on it. Where they
    are say the buffers `crow_indices` and `col_indices`, as in a CSR tensor; all of it is in the `state_dict`.

    x is `[..., in_features]` on the CPU, with W's element. Float32 is multiplied in `precision`: `f32`, `bf16` or
    `f16`; tensors of bfloat16 or float16, and all under `torch.autocast("cpu")`, in their own. Sums are float32.
    Float64 goes a slow way by PyTorch's own operators, for gradient checks. 2 · nnz FLOPs per token forward, 4 · nnz
    backward; x is kept for the backward pass as the kernels' tiles.

    At first, weights are uniform with the variance that makes outputs as large as those of a dense `nn.Linear`.
    `mask` is a name of `mediswift.mask_names()`, which `sparsity` and `seed` belong to; a `Pattern`; or an array
    that is not zero where a weight is. Without a seed, PyTorch's generator draws one. `plan` is as for
    `mediswift.SparseMatrix`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    crow_indices: Tensor
    col_indices: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparsity: float = 0.75,
        mask: Any = "random",
        seed: int | None = None,
        precision: str = "f32",
        plan: str = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        shape = (out_features, in_features)
        pattern = as_pattern(_shared(mask), shape, sparsity=sparsity, seed=seed)
        self.in_features = in_features
        self.out_features = out_features
        self.precision = precision
        self.plan = plan
        dtype = dtype or torch.get_default_dtype()
        self.weight = nn.Parameter(torch.empty(pattern.nnz, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None
        self._adopt(pattern)
        self._layer(precision)
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        mask: Any = None,
        *,
        sparsity: float | None = None,
        seed: int = 1,
        precision: str = "f32",
        plan: str = "auto",
    ) -> SparseLinear:
        """A sparse layer with the weights of a dense one that `mask` keeps: an array that is not zero there, a
        `Pattern`, or with `sparsity` a name, of which `magnitude` keeps the largest. Without a mask, those that are
        not zero."""
        return cls._of(linear.weight, linear.bias, mask, sparsity, seed, precision, plan)

    @classmethod
    def _of(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        mask: Any,
        sparsity: float | None,
        seed: int,
        precision: str,
        plan: str,
    ) -> SparseLinear:
        """The layer of a dense weight `[out, in]`; what needs no gradient there needs none here."""
        _check_cpu("weight", weight)
        needs_gradient = weight.requires_grad
        weight = weight.detach()
        out_features, in_features = weight.shape
        if mask is None:
            mask = weight != 0
        magnitudes = weight.float().numpy() if isinstance(mask, str) and mask == "magnitude" else None
        shape = (out_features, in_features)
        pattern = as_pattern(
            _shared(mask), shape, sparsity=sparsity, seed=seed, weights=magnitudes
        )
        has_bias = bias is not None
        layer = cls(
            in_features,
            out_features,
            has_bias,
            mask=pattern,
            seed=0,
            precision=precision,
            plan=plan,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(weight.reshape(-1)[layer._places()])
            layer.weight.requires_grad_(needs_gradient)
            if bias is not None:
                layer.bias.copy_(bias)
                layer.bias.requires_grad_(bias.requires_grad)
        return layer

    def to_dense(self) -> nn.Linear:
        """A dense layer with the same weights, and zeros where there is none."""
        has_bias = self.bias is not None
        linear = nn.Linear(
            self.in_features, self.out_features, has_bias, dtype=self.weight.dtype
        )
        with torch.no_grad():
            linear.weight.copy_(self.dense_weight())
            if has_bias:
                linear.bias.copy_(self.bias)
        return linear

    def dense_weight(self) -> Tensor:
        """W `[out_features, in_features]` with its zeros; gradients flow back to `weight`."""
        zeros = self.weight.new_zeros(self.out_features * self.in_features)
        dense = zeros.index_put((self._places(),), self.weight)
        return dense.view(self.out_features, self.in_features)

    def set_mask(
        self,
        mask: Any,
        *,
        sparsity: float | None = None,
        seed: int = 1,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Gives the layer another mask. Weights that stay keep their values, new ones are zero.

        `weight` stays the same Parameter, with another length and no gradient. What an optimiser holds for it of
        the old length must follow: hand the optimiser over, and it does. `magnitude` with a sparsity keeps the
        largest weights.
        """
        magnitudes = None
        if isinstance(mask, str) and mask == "magnitude":
            magnitudes = self.dense_weight().detach().float().numpy()
        shape = (self.out_features, self.in_features)
        pattern = as_pattern(
            _shared(mask), shape, sparsity=sparsity, seed=seed, weights=magnitudes
        )
        before, nnz = self._places(), self.weight.numel()
        self._adopt(pattern)
        after = self._places()
        # Both increase, so that the place of each new weight among the old ones is found by bisection.
        at = torch.searchsorted(before, after).clamp(max=max(nnz - 1, 0))
        stays = before[at] == after if nnz else torch.zeros_like(after, dtype=torch.bool)

        def carry(values: Tensor) -> Tensor:
            carried = values.new_zeros(after.numel())
            carried[stays] = values[at[stays]]
            return carried

        with torch.no_grad():
            self.weight.grad = None
            self.weight.data = carry(self.weight.data)
        state = {} if optimizer is None else optimizer.state.get(self.weight, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == (nnz,):
                state[key] = carry(value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws weights and bias anew."""
        inputs = self.in_features * (1.0 - self.pattern.sparsity)
        bound = 1.0 / math.sqrt(inputs) if inputs > 0 else 0.0
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            bound = 1.0 / math.sqrt(self.in_features) if self.in_features else 0.0
            self.bias.uniform_(-bound, bound)

    @property
    def pattern(self) -> Pattern:
        """Which weights there are."""
        if self._pattern is None:
            self._pattern = _pattern_of(
                self.crow_indices, self.col_indices, self.out_features, self.in_features
            )
        return self._pattern

    @property
    def nnz(self) -> int:
        """Weights that are there."""
        return self.weight.numel()

    @property
    def sparsity(self) -> float:
        """The fraction of weights that is not."""
        return self.pattern.sparsity

    def forward(self, x: Tensor) -> Tensor:
        """y `[..., out_features]` of x `[..., in_features]`."""
        return _product(self, x)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, sparsity={self.sparsity:.3g}, precision={self.precision}"
        )

    def _adopt(self, pattern: Pattern) -> None:
        """Takes a pattern; the weight is the caller's business."""
        # Plans and packed weights of the pattern, by precision.
        self._layers: dict[str, _core.Layer] = {}
        self._pattern: Pattern | None = pattern
        index = torch.int32 if pattern.nnz < 2**31 else torch.int64
        crow = torch.from_numpy(pattern.row_offsets).to(index)
        col = torch.from_numpy(pattern.column_indices).to(index)
        self.register_buffer("crow_indices", crow)
        self.register_buffer("col_indices", col)

    def _layer(self, precision: str) -> _core.Layer:
        """The planned layer of a precision."""
        if precision not in self._layers:
            own = precision == self.precision or self.plan == "tuned"
            plan = self.plan if own else "auto"
            self._layers[precision] = _core.Layer(self.pattern, precision, plan)
        return self._layers[precision]

    def _places(self) -> Tensor:
        """Where in the flattened W each weight is: increasing."""
        pattern = self.pattern
        places = row_indices(pattern) * self.in_features + pattern.column_indices
        return torch.from_numpy(places)

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own plans.
        return {**self.__dict__, "_layers": {}}

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        crow, col = (state_dict.get(prefix + name) for name in ("crow_indices", "col_indices"))
        if crow is not None and col is not None:
            try:
                pattern = _pattern_of(crow, col, self.out_features, self.in_features)
            except ValueError as error:
                error_msgs.append(f"{prefix or 'SparseLinear'}: {error}")
                return
            if pattern != self.pattern:
                self._adopt(pattern)
                self.weight.data = self.weight.data.new_zeros(pattern.nnz)
                self.weight.grad = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def sparsify(
    model: nn.Module,
    sparsity: float = 0.75,
    *,
    skip: Sequence[str] | Callable[[str, nn.Module], bool] = ("lm_head",),
    mask: str = "random",
    seed: int = 1,
    precision: str = "f32",
) -> nn.Module:
    """Replaces the linear layers of a model by sparse ones that keep some of their weights; returns the model.

    Linear layers are `nn.Linear` and the `Conv1D` of `transformers`' GPT-2. `skip` names those that stay dense, by
    names or patterns such as `"*.attn.*"`, or decides on each; layers that share their weight with another module,
    such as a tied output head, stay so too, and so do those whose weight is computed from others, as by pruning. `mask` is a name of `mediswift.mask_names()`, or `magnitude`, which keeps
    the largest weights; every layer has a seed of its own. Optimisers must be made after this.

    >>> from torch import nn
    >>> model = sparsify(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), 0.75)
    >>> type(model[0]).__name__, model[0].nnz
    ('SparseLinear', 4096)
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1

    def stays(name: str, module: nn.Module) -> bool:
        if owners.get(id(module.weight), 2) > 1:
            return True
        if callable(skip):
            return skip(name, module)
        last = name.rpartition(".")[2]
        return any(fnmatch.fnmatch(name, of) or last == of for of in skip)

    # A module in two places is one afterwards, too.
    made: dict[int, SparseLinear] = {}
    places = model.named_modules(remove_duplicate=False)
    for name, module in [(name, module) for name, module in places if _is_linear(module)]:
        if id(module) not in made:
            if stays(name, module):
                continue
            # A Conv1D holds its weight as [in, out].
            weight = module.weight if isinstance(module, nn.Linear) else module.weight.t()
            own_seed = seed + len(made)
            sparse = SparseLinear._of(
                weight, module.bias, mask, sparsity, own_seed, precision, "auto"
            )
            made[id(module)] = sparse.train(module.training)
        if not name:
            return made[id(module)]
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[id(module)])
    return model


def _is_linear(module: nn.Module) -> bool:
    # Not of classes derived from it: who has one may read its weight.
    kind = type(module)
    is_conv1d = kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
    return kind is nn.Linear or is_conv1d


@torch.compiler.disable
def _product(module: SparseLinear, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check_cpu(name, tensor)
    if x.dim() == 0 or x.shape[-1] != module.in_features:
        found, needed = tuple(x.shape), module.in_features
        raise ValueError(f"x: has shape {found}, but must end with {needed} features")
    result = x.dtype
    if torch.is_autocast_enabled("cpu") and x.dtype in _PRECISIONS:
        result = torch.get_autocast_dtype("cpu")
    elif x.dtype != weight.dtype:
        raise ValueError(f"x: has elements of {x.dtype}, but the weights are {weight.dtype}")
    if x.dtype == torch.float64:
        return nn.functional.linear(x, module.dense_weight(), bias)
    if x.dtype not in _PRECISIONS:
        raise ValueError(f"x: has elements of {x.dtype}, but must have floating-point numbers")
    precision = _PRECISIONS[result]
    layer = module._layer(module.precision if precision == "f32" else precision)
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
    ):
        return _Product.apply(x, weight, bias, layer, result)
    return _forward(x, weight, bias, layer, result, False)[0]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, layer, result):
        keep = ctx.needs_input_grad[1] and not _hooked()
        y, ctx.generation, tiles = _forward(x, weight, bias, layer, result, keep)
        saved = x if ctx.needs_input_grad[1] else None
        if tiles is not None:
            # Held by a saved tensor, so that they go when those do: after the backward pass.
            saved = torch.empty(0)
            saved.tiles = tiles
        ctx.save_for_backward(weight, saved)
        ctx.layer, ctx.x = layer, (x.shape, x.dtype)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        weight, saved = ctx.saved_tensors
        shape, dtype = ctx.x
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        outputs, inputs = dy.shape[-1], shape[-1]
        dx = torch.empty(shape, dtype=dtype) if needs_x else None
        dw = torch.empty(weight.numel(), dtype=torch.float32) if needs_weight else None
        db = torch.empty(outputs, dtype=torch.float32) if needs_bias else None
        x = getattr(saved, "tiles", None)
        if x is None and saved is not None:
            x = _rows(saved.detach(), inputs)
        arguments = (
            _array(weight.detach().float()),
            ctx.generation,
            _rows(dy, outputs),
            x,
            None if dx is None else _rows(dx, inputs),
            None if dw is None else _array(dw),
            None if db is None else _array(db),
        )
        _alone(weight.numel(), dy)
        ctx.layer.backward(*arguments)
        return (
            dx,
            None if dw is None else dw.to(weight.dtype),
            None if db is None else db.to(ctx.bias_dtype),
            None,
            None,
        )


def _hooked() -> bool:
    """Whether somebody asked for saved tensors, as activation checkpointing does: then x is saved as it is."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(False) is not None


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    layer: _core.Layer,
    result: torch.dtype,
    keep: bool,
) -> tuple[Tensor, int | None, _core.Tiles | None]:
    """y, the number of the packed weights that it was made with, and x as tiles if it is to be kept."""
    outputs, inputs = layer.pattern.shape
    y = torch.empty(*x.shape[:-1], outputs, dtype=result)
    arguments = (
        _array(weight.detach().float()),
        _rows(x.detach(), inputs),
        _rows(y, outputs),
        None if bias is None else _array(bias.detach().float()),
        keep,
    )
    _alone(weight.numel(), x)
    generation, tiles = layer.forward(*arguments)
    return y, generation, tiles


def _alone(nnz: int, rows: Tensor) -> None:
    """Clears the CPUs for a product of so many weights, unless it is small."""
    threads = num_threads()
    tokens = math.prod(rows.shape[:-1])
    if threads > 1 and nnz * tokens >= threads * _openmp.WORTH_IT:
        _openmp.send_home()


def _rows(tensor: Tensor, features: int) -> np.ndarray:
    """A tensor `[..., features]` as an array of rows, by a copy where they do not follow each other."""
    tokens = math.prod(tensor.shape[:-1])
    return _array(tensor.reshape(tokens, features))


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array that shares its memory if it is contiguous; bfloat16 as bits."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _pattern_of(crow: Tensor, col: Tensor, rows: int, columns: int) -> Pattern:
    """The pattern of the index tensors of a CSR matrix."""
    for name, tensor in (("crow_indices", crow), ("col_indices", col)):
        if tensor.dtype not in (torch.int32, torch.int64) or tensor.dim() != 1:
            raise ValueError(f"{name}: must be integers in one dimension")
    return Pattern(rows, columns, *(tensor.cpu().long().numpy() for tensor in (crow, col)))


def _shared(mask: Any) -> Any:
    """A mask that is a tensor, as an array."""
    if isinstance(mask, Tensor):
        _check_cpu("mask", mask)
        return mask.detach().float().numpy() if mask.is_floating_point() else mask.numpy()
    return mask


def _check_cpu(name: str, tensor: Tensor) -> None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        found = f"{tensor.device}" if tensor.layout == torch.strided else f"{tensor.layout}"
        raise ValueError(f"{name}: is on {found}, but must be a dense tensor on the CPU")
