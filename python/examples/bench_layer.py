"""One layer, forward and backward, against the others that PyTorch offers on CPUs.

    python examples/bench_layer.py
    python examples/bench_layer.py --threads 1 --shapes 1024x1024 --sparsities 0.75 --plot layer.svg

Tensors go in and come out as PyTorch has them: turning rows into tiles and back is part of our times, as is the packing of
weights, which change before every step. Contestants take turns in one process: `nn.Linear` in float32, this engine's
`SparseLinear`, a CSR tensor of PyTorch's (its transpose made beforehand, which is not counted), and SparseLab where it is
installed. Prints a Markdown table of the medians of forward + backward, which is dx, dw and db.
"""

import argparse
import gc
import platform
import statistics
import time
import warnings

import torch
from torch import nn

import mediswift
from mediswift.torch import SparseLinear

SHAPES = [(1024, 1024), (3072, 1024), (4096, 1024), (1024, 4096), (4096, 4096)]


class Csr(torch.autograd.Function):
    """The three products by PyTorch's CSR tensors."""

    @staticmethod
    def forward(ctx, x, values, bias, w, wt, zeros):
        ctx.save_for_backward(x)
        ctx.parts = wt, zeros
        return torch.sparse.mm(w, x.t()).t() + bias

    @staticmethod
    def backward(ctx, dy):
        (x,), (wt, zeros) = ctx.saved_tensors, ctx.parts
        dx = torch.sparse.mm(wt, dy.t()).t()
        dw = torch.sparse.sampled_addmm(zeros, dy.t().contiguous(), x, beta=0.0)
        return dx, dw.values(), dy.sum(0), None, None, None


class CsrLinear(nn.Module):
    """A layer of a CSR tensor with the weights of a sparse one."""

    def __init__(self, sparse):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dense = sparse.dense_weight().detach()
            self.w = dense.to_sparse_csr()
            self.wt = dense.t().contiguous().to_sparse_csr()
            zeros = torch.zeros_like(self.w.values())
            indices = self.w.crow_indices(), self.w.col_indices()
            self.zeros = torch.sparse_csr_tensor(*indices, zeros, dense.shape)
        self.values = nn.Parameter(self.w.values().clone())
        self.bias = nn.Parameter(sparse.bias.detach().clone())

    def forward(self, x):
        return Csr.apply(x, self.values, self.bias, self.w, self.wt, self.zeros)


def contestants(outputs, inputs, sparsity):
    """The layers by name; those that PyTorch or SparseLab cannot make are left out."""
    sparse = SparseLinear(inputs, outputs, sparsity=sparsity)
    layers = {"dense": nn.Linear(inputs, outputs), "mediswift": sparse, "torch CSR": CsrLinear(sparse)}
    try:
        import sparselab
    except ImportError:
        return layers
    layers["SparseLab"] = sparselab.SparseLinear(inputs, outputs, sparsity=sparsity)
    return layers


def step(layer, x, dy):
    """Seconds of forward and of backward."""
    layer.zero_grad()
    x.grad = None
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.0001)
    start = time.perf_counter()
    y = layer(x)
    middle = time.perf_counter()
    y.backward(dy)
    return middle - start, time.perf_counter() - middle


def measure(shape, sparsity, tokens, rounds, seconds):
    """Median seconds (forward, backward) of each contestant, in turns; slow ones stop when they have had theirs."""
    outputs, inputs = shape
    layers = contestants(outputs, inputs, sparsity)
    x = torch.randn(tokens, inputs, requires_grad=True)
    dy = torch.randn(tokens, outputs)
    times = {name: [] for name in layers}
    for layer in layers.values():
        step(layer, x, dy)
    for _ in range(rounds):
        for name, layer in layers.items():
            if len(times[name]) < 3 or sum(map(sum, times[name])) < seconds:
                times[name].append(step(layer, x, dy))
    del layers
    gc.collect()
    return {name: [statistics.median(part) for part in zip(*of)] for name, of in times.items()}


def cpu():
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def draw(rows, path):
    """Speedup of each contestant over the dense layer, against sparsity: a picture for each number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads = sorted({row["threads"] for row in rows})
    figure, places = pyplot.subplots(1, len(threads), figsize=(1 + 4 * len(threads), 4), layout="constrained",
                                     sharey=True, squeeze=False)
    for axes, count in zip(places[0], threads):
        rows_of = [row for row in rows if row["threads"] == count]
        for name in dict.fromkeys(name for row in rows_of for name in row["times"] if name != "dense"):
            points = {}
            for row in rows_of:
                total = {of: sum(parts) for of, parts in row["times"].items()}
                if name in total:
                    points.setdefault(row["sparsity"], []).append(total["dense"] / total[name])
            means = {s: statistics.geometric_mean(of) for s, of in sorted(points.items())}
            axes.plot(list(means), list(means.values()), "o-", label=name)
        axes.axhline(1.0, color="gray", linewidth=1, label="nn.Linear")
        axes.set(yscale="log", xlabel="sparsity", title=f"{count} thread{'s' if count > 1 else ''}")
        axes.set_xticks(sorted({row["sparsity"] for row in rows_of}))
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:g}×")
        axes.yaxis.set_minor_formatter("{x:g}×")
    places[0][0].set_ylabel("speedup of forward + backward (geometric mean)")
    places[0][0].legend()
    figure.savefig(path)


def main():
    shape = lambda text: tuple(map(int, text.split("x")))  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=shape, nargs="+", default=SHAPES, metavar="OUTxIN")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.75, 0.9])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9, help="most turns of each contestant")
    parser.add_argument("--seconds", type=float, default=6.0, help="most seconds of each, after 3 turns")
    parser.add_argument("--plot", metavar="FILE", help="draw the speedups, with matplotlib")
    options = parser.parse_args()

    torch.manual_seed(1)
    rows = []
    print(f"{cpu()}, {mediswift.instruction_set()}, PyTorch {torch.__version__}, {options.tokens} tokens\n")
    print("| threads | out × in | sparsity | dense ms | ours ms (forward + backward) | × dense | torch CSR ms | "
          "SparseLab ms | × best of these |")
    print("|---|---|---|---|---|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        mediswift.set_num_threads(threads)
        for outputs, inputs in options.shapes:
            for sparsity in options.sparsities:
                times = measure((outputs, inputs), sparsity, options.tokens, options.rounds, options.seconds)
                rows.append({"threads": threads, "sparsity": sparsity, "times": times})
                total = {name: 1e3 * sum(parts) for name, parts in times.items()}
                ours = total["mediswift"]
                forward, backward = (1e3 * part for part in times["mediswift"])
                others = {name: total[name] for name in ("torch CSR", "SparseLab") if name in total}
                cells = [f"{others[name]:.1f}" if name in others else "–" for name in ("torch CSR", "SparseLab")]
                print(
                    f"| {threads} | {outputs} × {inputs} | {100 * sparsity:.0f} % | {total['dense']:.1f} | "
                    f"{ours:.1f} ({forward:.1f} + {backward:.1f}) | {total['dense'] / ours:.2f} | {cells[0]} | "
                    f"{cells[1]} | {min(others.values()) / ours:.2f} |",
                    flush=True,
                )
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
