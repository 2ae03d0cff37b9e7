"""The layer of PyTorch, against masked dense layers; skipped where there is no PyTorch."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import mediswift  # noqa: E402
from mediswift import _openmp  # noqa: E402
from mediswift.torch import SparseLinear, sparsify  # noqa: E402

SHAPES = [(1, 1), (7, 13), (48, 32), (130, 70)]


def twins(in_features, out_features, sparsity=0.7, bias=True, dtype=torch.float32, **options):
    """A sparse layer, an empty row and column in it, and the dense weight that it stands for."""
    rng = np.random.default_rng(1)
    mask = rng.random((out_features, in_features)) >= sparsity
    if min(mask.shape) > 3:
        mask[2], mask[:, 3] = False, False
    torch.manual_seed(2)
    layer = SparseLinear(in_features, out_features, bias, mask=mask, dtype=dtype, **options)
    dense = layer.dense_weight().detach().double().requires_grad_()
    return layer, dense, torch.from_numpy(mask)


def close(found, expected, terms, unit=2.0**-24):
    assert found.dtype in (torch.float32, torch.bfloat16, torch.float16)
    difference = (found.double() - expected).abs().max() if found.numel() else 0.0
    assert difference <= 16 * unit * max(terms, 1), difference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [(), (1,), (33,), (2, 3, 5), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_a_masked_dense_layer(shape, tokens, bias):
    inputs, outputs = shape
    layer, dense, mask = twins(inputs, outputs, bias=bias)
    x = torch.randn(*tokens, inputs, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    y = layer(x)
    of_dense = nn.functional.linear(exact, dense, layer.bias.detach().double() if bias else None)
    assert y.shape == of_dense.shape
    close(y, of_dense, inputs)
    dy = torch.randn(y.shape)
    y.backward(dy)
    of_dense.backward(dy.double())
    count = max(1, x.numel() // inputs)
    close(x.grad, exact.grad, outputs)
    close(layer.weight.grad, dense.grad[mask], count)
    if bias:
        close(layer.bias.grad, dy.double().reshape(-1, outputs).sum(0), count)


def test_the_double_path_passes_a_gradient_check():
    layer, dense, _ = twins(6, 5, sparsity=0.4, dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.weight, layer.bias))
    close(layer.float()(x.float()), call(x, *(p.double() for p in layer.parameters())), 6)


def test_the_fast_path_passes_a_gradient_check():
    layer, _, _ = twins(6, 5, sparsity=0.4)
    x = torch.randn(3, 6, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    # The layer is linear in each, so that large steps are as exact as small ones.
    inputs = (x, layer.weight, layer.bias)
    with pytest.warns(UserWarning, match="not a double precision"):
        assert torch.autograd.gradcheck(call, inputs, eps=0.5, atol=1e-4, rtol=1e-4)


def test_rows_of_every_layout():
    layer, dense, _ = twins(48, 32)
    wide = torch.randn(3, 96, 10)
    x = wide[:, ::2].transpose(1, 2)
    assert not x.is_contiguous()
    y = layer(x)
    close(y, x.double() @ dense.T + layer.bias.double(), 48)
    # Gradients of a sum have no strides.
    x = torch.randn(20, 48, requires_grad=True)
    layer(x).sum().backward()
    close(x.grad, dense.sum(0).expand(20, 48), 32)
    one = torch.randn(48).expand(20, 48)
    assert torch.equal(layer(one), layer(one.contiguous()))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimisers_train_it(name):
    layer, _, _ = twins(32, 16)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.01, **options)
    x = torch.randn(64, 32)
    target = torch.randn(64, 16)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_changes_behind_autograds_back_are_seen():
    layer, _, _ = twins(32, 16, bias=False)
    x = torch.randn(8, 32)
    y = layer(x)
    layer.weight.data.mul_(2)
    assert torch.equal(layer(x), 2 * y)
    with torch.no_grad():
        assert torch.equal(layer(x), 2 * y)
        layer.weight.div_(2)
        assert torch.equal(layer(x), y)


def test_the_backward_pass_has_the_weights_of_its_forward_pass():
    layer, dense, _ = twins(32, 16, bias=False)
    x = torch.randn(8, 32, requires_grad=True)
    y = layer(x)
    # Another call with other weights comes between.
    torch.func.functional_call(layer, {"weight": 3 * layer.weight.detach()}, (x.detach(),))
    y.sum().backward()
    close(x.grad, dense.sum(0).expand(8, 32), 16)
    y = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("tokens", [1, 8])
def test_frozen_weights_that_changed_are_seen_on_the_way_back(tokens):
    layer, dense, _ = twins(32, 16, bias=False)
    layer.requires_grad_(False)
    layer(torch.randn(8, 32))
    layer.weight.mul_(2)
    x = torch.randn(tokens, 32, requires_grad=True)
    y = layer(x)
    close(y, 2 * x.double() @ dense.T, 64)
    y.sum().backward()
    close(x.grad, 2 * dense.sum(0).expand(tokens, 32), 32)


def test_a_graph_can_be_walked_twice_and_layers_shared():
    layer, _, _ = twins(16, 16)
    x = torch.randn(8, 16, requires_grad=True)
    loss = layer(layer(x)).square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in (x, *layer.parameters())]
    loss.backward()
    for grad, p in zip(first, (x, *layer.parameters())):
        assert torch.equal(2 * grad, p.grad)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_only_what_needs_a_gradient_gets_one():
    layer, _, _ = twins(16, 12)
    x = torch.randn(8, 16)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    x.requires_grad_()
    layer.zero_grad()
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None
    layer.bias.requires_grad_()
    layer(x.detach()).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((12,), 8.0)) and layer.weight.grad is None


def test_activation_checkpoints_and_hooks():
    from torch.utils.checkpoint import checkpoint

    layer, _, _ = twins(16, 16)
    x = torch.randn(8, 16, requires_grad=True)
    grads = []
    for reentrant in (None, False, True):
        layer.zero_grad()
        x.grad = None
        y = layer(x) if reentrant is None else checkpoint(layer, x, use_reentrant=reentrant)
        y.square().sum().backward()
        grads.append([x.grad, layer.weight.grad, layer.bias.grad])
    x.grad = None
    layer.zero_grad()
    with torch.autograd.graph.save_on_cpu():
        y = layer(x)
    y.square().sum().backward()
    grads.append([x.grad, layer.weight.grad, layer.bias.grad])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other))


@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_tensors_of_sixteen_bits(dtype, unit):
    layer, dense, mask = twins(48, 32, dtype=dtype)
    x = torch.randn(40, 48, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    exact = x.detach().double().requires_grad_()
    of_dense = nn.functional.linear(exact, dense, layer.bias.double())
    close(y, of_dense, 2, unit)
    y.sum().backward()
    of_dense.sum().backward()
    assert {x.grad.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype} == {dtype}
    close(x.grad, exact.grad, 2, unit)
    close(layer.weight.grad, dense.grad[mask], 40, unit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_multiplies_sixteen_bits(dtype):
    layer, dense, _ = twins(48, 32)
    x = torch.randn(40, 48, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        again = layer(x.detach().to(dtype))
    assert y.dtype == dtype and torch.equal(y, again)
    close(y, x.double() @ dense.T + layer.bias.double(), 4, 2.0**-8)
    y.float().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32
    close(x.grad, dense.sum(0).expand(40, 48), 4, 2.0**-8)


def test_precision_of_products_is_a_choice():
    layer, dense, _ = twins(48, 32, precision="bf16")
    x = torch.randn(40, 48)
    y = layer(x)
    assert y.dtype == torch.float32
    exact = x.bfloat16().double() @ dense.bfloat16().double().T + layer.bias.double()
    close(y, exact, 48)


def test_states_come_back_with_their_masks(tmp_path):
    layer, _, _ = twins(48, 32)
    other = SparseLinear(48, 32, sparsity=0.5)
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(8, 48)
    assert torch.equal(layer(x), other(x)) and layer.pattern == other.pattern
    other(x).sum().backward()
    before = other.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, other.weight)
    path = tmp_path / "state.pt"
    torch.save(layer.state_dict(), path)
    other.load_state_dict(torch.load(path))
    assert torch.equal(layer(x), other(x))
    torch.save(layer, tmp_path / "layer.pt")
    assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=False)(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), layer(x))
    with torch.no_grad():
        copied.weight.zero_()
    assert not torch.equal(copied(x), layer(x))


def test_broken_states_are_refused():
    layer, _, _ = twins(48, 32)
    x, before = torch.randn(8, 48), layer.state_dict()
    y = layer(x)
    for key, value, problem in [
        ("col_indices", before["col_indices"].flip(0), "indices must increase"),
        ("col_indices", before["col_indices"] + 40, "has column index"),
        ("col_indices", before["col_indices"][:-1], "last row offset"),
        ("crow_indices", before["crow_indices"][:-1], "row offsets"),
        ("crow_indices", before["crow_indices"].float(), "must be integers"),
        ("weight", torch.zeros(3), "size mismatch"),
    ]:
        with pytest.raises(RuntimeError, match=problem):
            layer.load_state_dict({**before, key: value})
        assert torch.equal(layer(x), y)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({})


def test_masks_change_and_optimisers_follow():
    layer, _, mask = twins(48, 32, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    x = torch.randn(8, 48)
    layer(x).square().sum().backward()
    optimizer.step()
    before, moments = layer.dense_weight().detach(), optimizer.state[layer.weight]["exp_avg"].clone()
    other = torch.from_numpy(np.random.default_rng(3).random((32, 48)) < 0.5)
    parameter = layer.weight
    layer.set_mask(other, optimizer=optimizer)
    assert layer.weight is parameter and layer.weight.numel() == other.sum()
    assert torch.equal(layer.dense_weight(), torch.where(other, before, 0))
    dense = torch.zeros(32, 48).masked_scatter(mask, moments)
    assert torch.equal(optimizer.state[parameter]["exp_avg"], dense[other])
    layer(x).square().sum().backward()
    optimizer.step()
    layer.set_mask("magnitude", sparsity=0.9)
    assert layer.nnz == 32 * 48 - round(0.9 * 32 * 48)
    layer.set_mask("random", sparsity=0.5, seed=7)
    assert layer.nnz == 768
    for bad in (torch.ones(3, 3), torch.full((32, 48), torch.nan), "none"):
        with pytest.raises(ValueError):
            layer.set_mask(bad, sparsity=0.5)


def test_dense_layers_come_and_go():
    linear = nn.Linear(48, 32)
    x = torch.randn(8, 48)
    whole = SparseLinear.from_dense(linear)
    assert whole.nnz == 48 * 32
    close(whole(x), linear(x).double(), 48)
    sparse = SparseLinear.from_dense(linear, "magnitude", sparsity=0.75)
    kept = sparse.dense_weight() != 0
    assert kept.sum() == 384
    assert linear.weight[kept].abs().min() >= linear.weight[~kept].abs().max()
    back = sparse.to_dense()
    assert torch.equal(back.weight, torch.where(kept, linear.weight, 0))
    close(back(x), sparse(x).double(), 48)
    masked = SparseLinear.from_dense(linear, kept)
    assert masked.pattern == sparse.pattern and torch.equal(masked(x), sparse(x))
    assert "sparsity=0.75" in repr(sparse)


def test_first_weights_follow_the_generator():
    def layer():
        torch.manual_seed(5)
        return SparseLinear(64, 64, sparsity=0.75)

    one, two = layer(), layer()
    assert one.pattern == two.pattern and torch.equal(one.weight, two.weight)
    three = SparseLinear(64, 64, sparsity=0.75)
    assert three.pattern != one.pattern
    assert three.nnz == 1024 and three.sparsity == 0.75
    y, dense = three(torch.randn(1000, 64)), nn.Linear(64, 64)(torch.randn(1000, 64))
    assert 0.8 < y.std() / dense.std() < 1.25


class Conv1D(nn.Module):
    """As in GPT-2: y = x · W + b, W [in, out]."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf, nx):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.block = nn.Sequential(nn.Linear(16, 32), nn.GELU(), Conv1D(16, 32))
        self.attention = nn.MultiheadAttention(16, 2)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight


def test_models_are_made_sparse():
    torch.manual_seed(6)
    model = Tied().eval()
    dense = [model.block[0].weight.detach().clone(), model.block[2].weight.detach().T.clone()]
    assert sparsify(model, 0.75) is model
    for at, dense in zip((0, 2), dense):
        layer = model.block[at]
        assert type(layer) is SparseLinear and layer.nnz == 128 and not layer.training
        kept = torch.from_numpy(layer.pattern.to_mask())
        assert torch.equal(layer.dense_weight(), torch.where(kept, dense, 0))
    assert type(model.head) is nn.Linear, "it shares the embedding's weight"
    assert model.block[0].pattern.to_mask().sum() and type(model.attention.out_proj) is not SparseLinear
    count = len(list(model.parameters()))
    sparsify(model, 0.75)
    assert len(list(model.parameters())) == count
    three = lambda: nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))  # noqa: E731
    kinds = lambda model: [type(layer) is SparseLinear for layer in model]  # noqa: E731
    assert kinds(sparsify(three(), 0.5, skip=["1"])) == [True, False, True]
    assert kinds(sparsify(three(), 0.5, skip=["[01]"])) == [False, False, True]
    assert kinds(sparsify(three(), 0.5, skip=lambda name, _: name == "2")) == [True, True, False]
    assert type(sparsify(nn.Linear(16, 16), 0.5)) is SparseLinear
    shared = nn.Linear(16, 16).requires_grad_(False)
    twice = sparsify(nn.Sequential(shared, nn.GELU(), shared), 0.5)
    assert twice[0] is twice[2] and type(twice[0]) is SparseLinear
    assert not any(parameter.requires_grad for parameter in twice.parameters())
    with pytest.raises(ValueError, match="sparsity: is 1.5"):
        sparsify(three(), 1.5)


def test_a_gpt2_of_transformers_trains():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(7)
    config = transformers.GPT2Config(
        vocab_size=100, n_positions=32, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0,
    )
    model = sparsify(transformers.GPT2LMHeadModel(config), 0.5)
    assert sum(type(module) is SparseLinear for module in model.modules()) == 8
    assert type(model.lm_head) is nn.Linear
    # The same, dense, with zeros in place of what is not there.
    dense = copy.deepcopy(model)
    for name, module in list(dense.named_modules()):
        if type(module) is SparseLinear:
            parent, _, last = name.rpartition(".")
            setattr(dense.get_submodule(parent), last, module.to_dense())
    ids = torch.randint(100, (2, 32))
    loss, of_dense = (model(ids, labels=ids).loss for model in (model, dense))
    assert abs(loss.item() - of_dense.item()) < 1e-5
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.generate(ids[:1, :4], max_new_tokens=4, do_sample=False).shape == (1, 8)


def test_wrong_arguments_are_named():
    layer, _, _ = twins(16, 12)
    for call, problem in [
        (lambda: layer(torch.randn(3, 15)), r"x: has shape \(3, 15\)"),
        (lambda: layer(torch.tensor(1.0)), r"x: has shape \(\)"),
        (lambda: layer(torch.randn(3, 16).double()), "x: has elements of torch.float64"),
        (lambda: layer(torch.ones(3, 16, dtype=torch.int32)), "x: has elements of torch.int32"),
        (lambda: layer(torch.randn(3, 16, device="meta")), "x: is on meta"),
        (lambda: layer(torch.randn(3, 16).to_sparse()), "x: is on torch.sparse_coo"),
        (lambda: SparseLinear(4, 4, sparsity=-0.1), r"sparsity: is -0.1"),
        (lambda: SparseLinear(4, 4, mask=torch.ones(4, 5)), "mask: has shape"),
        (lambda: SparseLinear(4, 4, precision="f8"), "unknown precision 'f8'"),
        (lambda: SparseLinear(4, 4, plan="best"), "'best' is no plan"),
        (lambda: SparseLinear.from_dense(nn.Linear(4, 4), "random"), "sparsity: is missing"),
    ]:
        with pytest.raises(ValueError, match=problem):
            call()
    layer.weight = nn.Parameter(torch.randn(5))
    with pytest.raises(ValueError, match="values: has 5 elements"):
        layer(torch.randn(3, 16))


def test_threads_may_train_at_once():
    layer, dense, _ = twins(64, 64, bias=False)
    failures = []

    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(20):
            x = torch.randn(50, 64, generator=generator, requires_grad=True)
            y = layer(x)
            (grad,) = torch.autograd.grad(y.sum(), x)
            expected = (x.detach().double() @ dense.detach().T, dense.detach().sum(0).expand(50, 64))
            for found, expected in zip((y, grad), expected):
                if (found.double() - expected).abs().max() > 1e-3:
                    failures.append(seed)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_two_pools_are_apart():
    before, of_torch = mediswift.num_threads(), torch.get_num_threads()
    layer, _, _ = twins(64, 64)
    x = torch.randn(64, 64)
    y = layer(x)
    try:
        mediswift.set_num_threads(3)
        assert torch.get_num_threads() == of_torch
        assert torch.equal(layer(x), y)
        torch.set_num_threads(1)
        assert mediswift.num_threads() == 3
        assert torch.equal(layer(x), y)
    finally:
        mediswift.set_num_threads(before)
        torch.set_num_threads(of_torch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_computes():
    layer, _, _ = twins(64, 64)
    x = torch.ones(40, 64)
    with torch.no_grad():
        expected = layer(x).numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        with torch.no_grad():
            queue.put(layer(x).numpy())

    process = context.Process(target=child)
    process.start()
    assert np.array_equal(queue.get(timeout=60), expected)
    process.join(timeout=60)


def threads():
    """How many threads the process has, once that stays so: those that end are there for a little longer."""
    found, since = len(os.listdir("/proc/self/task")), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.01)
        now = len(os.listdir("/proc/self/task"))
        if now != found:
            found, since = now, time.monotonic()
    return found


def test_threads_of_pytorch_are_gone_while_a_large_layer_computes(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_openmp, "_found", None)
    if not _openmp._pauses():
        pytest.skip("PyTorch's threads are not GNU OpenMP's, or cannot be ended")
    layer, _, _ = twins(64, 64)
    x, of_ours, of_torch = torch.ones(40, 64), mediswift.num_threads(), torch.get_num_threads()
    try:
        mediswift.set_num_threads(2)
        torch.set_num_threads(1)
        expected = layer(x)
        torch.set_num_threads(4)
        numbers = torch.ones(1 << 20)
        numbers.relu()
        busy = threads()
        # The layer is small: they may wait as they like.
        assert torch.equal(layer(x), expected) and threads() == busy
        monkeypatch.setattr(_openmp, "WORTH_IT", 0)
        assert torch.equal(layer(x), expected) and threads() == busy - 3
        numbers.relu()
        assert threads() == busy
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        assert not _openmp._pauses()
    finally:
        mediswift.set_num_threads(of_ours)
        torch.set_num_threads(of_torch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("first", ["import mediswift.torch", "pass"])
def test_a_fork_waits_for_no_thread_of_pytorch(first):
    script = f"""
import os, torch
torch.set_num_threads(4)
{first}
torch.ones(1 << 20).relu()
child = os.fork()
if child == 0:
    import mediswift
    from mediswift import _openmp
    from mediswift.torch import SparseLinear
    _openmp.WORTH_IT = 0
    mediswift.set_num_threads(2)
    with torch.no_grad():
        SparseLinear(64, 64)(torch.ones(40, 64))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("worth_it", [_openmp.WORTH_IT, 0], ids=["small", "as if large"])
def test_training_steps_hold_no_memory(monkeypatch, worth_it):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(_openmp, "WORTH_IT", worth_it)
    layer, _, _ = twins(64, 64)
    # As much as several threads of PyTorch's share among themselves.
    x = torch.randn(1024 if worth_it == 0 else 128, 64, requires_grad=True)

    def steps(count):
        for _ in range(count):
            layer(x).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = steps(300)
    assert steps(2000) - before < 8 << 10
