"""A GPT-2 of `transformers`, dense and with sparse layers: losses and seconds beside each other.

    python examples/gpt2.py
    python examples/gpt2.py --layers 12 --width 768 --heads 12 --batch 2 --context 512 --steps 200
    python examples/gpt2.py --text abstracts.jsonl.gz --sparsity 0.9 --plot losses.svg
    python examples/gpt2.py --models masked sparse --every 1

Three models start from the same weights and read the same batches in turns: the dense one; its sparse twin, made in one line
by `sparsify`; and a dense one whose weights are masked as those of the twin, which learns the same but gains no time. How far
the latter two come apart, by rounding alone, is printed at the end. Text is the `text`, or `title` and `abstract`, of JSONL
files, or plain text.
"""

import argparse
import copy
import gzip
import json
import pathlib
import statistics
import time

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import mediswift
from mediswift.torch import SparseLinear, sparsify

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ["dense", "masked", "sparse"]


def some_text():
    """Files of text that are there: abstracts of PubMed beside the repository, or the repository's documents."""
    abstracts = sorted((ROOT.parent / "shared/data/pubmed_abstracts").glob("*.jsonl.gz"))
    return abstracts[:1] or sorted((ROOT / "docs").glob("*.md"))


def documents(path):
    """The texts of a file."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        if ".jsonl" not in path.name:
            return [lines.read()]
        records = map(json.loads, lines)
        return [of.get("text") or f"{of.get('title', '')}\n{of.get('abstract', '')}" for of in records]


def tokens(paths, vocabulary, most):
    """All texts as one sequence of ids, and the size of the vocabulary that was learned of some."""
    texts = [text for path in paths for text in documents(path)]
    tokenizer = mediswift.Tokenizer.train(texts[:20_000], vocabulary)
    ids = []
    for first in range(0, len(texts), 1000):
        for of in tokenizer.encode_batch(texts[first : first + 1000]):
            ids += [*of, tokenizer.end_of_text]
        if len(ids) > most:
            break
    return np.array(ids, np.int64), tokenizer.vocab_size


def masked(dense, sparse):
    """A copy of a dense model with the masks of a sparse one, which its gradients keep."""
    model = copy.deepcopy(dense)
    for name, layer in sparse.named_modules():
        if not isinstance(layer, SparseLinear):
            continue
        twin = model.get_submodule(name)
        mask = torch.from_numpy(layer.pattern.to_mask())
        # GPT-2's Conv1D holds its weight as [in, out].
        mask = (mask if isinstance(twin, torch.nn.Linear) else mask.t()).to(twin.weight.dtype)
        weight = twin.weight
        with torch.no_grad():
            weight.mul_(mask)
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return model


@torch.no_grad()
def drift(sparse, masked, first):
    """Root mean squares of sparse weights: how far they are from those of the masked twin, and from the `first` ones."""
    apart, moved, count = 0.0, 0.0, 0
    for name, layer in sparse.named_modules():
        if not isinstance(layer, SparseLinear):
            continue
        twin = masked.get_submodule(name)
        dense = twin.weight if isinstance(twin, torch.nn.Linear) else twin.weight.t()
        apart += (layer.dense_weight() - dense).double().square().sum().item()
        moved += (layer.weight - first[name]).double().square().sum().item()
        count += layer.nnz
    return (apart / count) ** 0.5, (moved / count) ** 0.5


def step(model, optimizer, ids):
    """One optimiser step: loss and seconds."""
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, nargs="+", help="JSONL or text, plain or .gz")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="those that are trained")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, help="of PyTorch and of the sparse layers")
    parser.add_argument("--every", type=int, default=20, help="steps from line to line")
    parser.add_argument("--plot", metavar="FILE", help="draw the losses, with matplotlib")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
        mediswift.set_num_threads(options.threads)
    sequences = options.steps * options.batch
    ids, vocabulary = tokens(options.text or some_text(), options.vocabulary, sequences * options.context)
    if len(ids) <= options.context:
        parser.error("the text is shorter than one context")
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=options.context,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    dense = GPT2LMHeadModel(config)
    sparse = sparsify(copy.deepcopy(dense), options.sparsity)
    models = {"dense": dense, "masked": masked(dense, sparse), "sparse": sparse}
    models = {name: models[name] for name in MODELS if name in options.models}
    first = {name: layer.weight.clone() for name, layer in sparse.named_modules() if isinstance(layer, SparseLinear)}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=options.lr) for name, model in models.items()}

    print(f"{options.layers} × {options.width}, {options.batch} × {options.context} tokens, "
          f"{100 * options.sparsity:.0f} % sparse, {torch.get_num_threads()} threads\n")
    print("| step | " + " | ".join(f"{name} loss" for name in models) + " |")
    print("|---" * (len(models) + 1) + "|")
    rng = np.random.default_rng(1)
    losses = {name: [] for name in models}
    seconds = {name: [] for name in models}
    for at in range(1, options.steps + 1):
        starts = rng.integers(0, len(ids) - options.context, options.batch)
        batch = torch.from_numpy(np.stack([ids[start : start + options.context] for start in starts]))
        for name, model in models.items():
            loss, took = step(model, optimizers[name], batch)
            losses[name].append(loss)
            seconds[name].append(took)
        if at == 1 or at % options.every == 0:
            print(f"| {at} | " + " | ".join(f"{of[-1]:.6f}" for of in losses.values()) + " |", flush=True)
    medians = {name: statistics.median(of[1:] or of) for name, of in seconds.items()}
    print("\n| | " + " | ".join(models) + " |\n" + "|---" * (len(models) + 1) + "|")
    print("| seconds per step | " + " | ".join(f"{of:.3f}" for of in medians.values()) + " |\n")
    if {"dense", "sparse"} <= models.keys():
        print(f"The sparse model is {medians['dense'] / medians['sparse']:.2f} times as fast as the dense one.")
    if {"masked", "sparse"} <= models.keys():
        apart = max(abs(a - b) for a, b in zip(losses["masked"], losses["sparse"]))
        print(f"Its losses are those of the masked one within {apart:.1e}; its weights, which moved by "
              "{1:.1e}, are apart from those of that one by {0:.1e} (root mean squares)."
              .format(*drift(sparse, models["masked"], first)))
    if options.plot:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        for name, of in losses.items():
            axes.plot(np.cumsum(seconds[name]), of, label=name, linewidth=1)
        axes.set(xlabel="seconds of training", ylabel="loss (nats per token)")
        axes.legend()
        figure.savefig(options.plot)


if __name__ == "__main__":
    main()
