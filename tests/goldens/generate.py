#!/usr/bin/env python3
"""Reference values for the GPT model, its gradients and its AdamW training loop.

Builds a tiny GPT-2/GPT-3-architecture language model in plain PyTorch, trains it
for ten steps and writes what an independent implementation has to reproduce:

    dense.safetensors           every linear weight dense
    sparse75.safetensors        the block linear weights masked at 75 % sparsity
    dense-bf16.safetensors      what comes of the same if the operands of linear layers
    sparse75-bf16.safetensors   and of the output head are rounded to bf16
    dense-bf16-attention.safetensors      and those of attention's products too
    sparse75-bf16-attention.safetensors

README.md beside this file says what the tensors are.

Usage
-----
    pip install torch numpy safetensors
    python generate.py                 write the files into this folder
    python generate.py --out DIR       write them somewhere else
    python generate.py --check         also train in float32, and with PyTorch's own
                                       fused attention, and compare; exit 1 on a miss

Made with Python 3.11.7, torch 2.15.0 (CPU), numpy 2.4.6, safetensors 0.8.0.

Precision and determinism
-------------------------
Initial parameters are rounded to float32.  The forward pass, the backward pass and the
optimizer then run in float64, and the results are rounded to float32 when they are
stored, so the files hold the true values rather than one library's float32 rounding.
One thread, fixed seeds, and a writer with a fixed order: two runs on one machine
give the same bytes.  On another CPU or torch version a value may still differ in its
last float32 bit.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

# Model.
VOCAB, D_MODEL, N_HEADS, D_FF, N_LAYERS, N_CTX = 101, 48, 3, 192, 2, 40
D_HEAD = D_MODEL // N_HEADS
LN_EPS = 1e-5

# Data: 37 tokens is no multiple of a tile or vector width, and less than N_CTX.
STEPS, BATCH, SEQ = 10, 3, 37

# Optimizer.
PEAK_LR, MIN_LR, WARMUP = 1e-2, 1e-3, 2
BETA1, BETA2, ADAM_EPS, WEIGHT_DECAY, CLIP = 0.9, 0.95, 1e-8, 0.1, 1.0

SEED_PARAMS, SEED_DATA, SEED_MASKS = 1, 2, 3
INIT_STD = 0.1


# --------------------------------------------------------------------------- inputs


def init_params():
    """Initial parameters, in a fixed order of drawing.

    Drawn in float64 and rounded to float32: torch's float32 normal numbers depend on
    the vector instructions of the CPU in their last bits.

    Larger than a usual initialization, with non-trivial biases and LayerNorm gains,
    so that every path through the model shows in the outputs and the gradients.
    """
    torch.manual_seed(SEED_PARAMS)
    params = {}

    def normal(name, *shape, mean=0.0, std=INIT_STD):
        values = mean + std * torch.randn(*shape, dtype=torch.float64)
        params[name] = values.to(torch.float32)

    def linear(name, n_out, n_in):
        normal(f"{name}.weight", n_out, n_in)
        normal(f"{name}.bias", n_out)

    def layer_norm(name):
        normal(f"{name}.weight", D_MODEL, mean=1.0, std=0.2)
        normal(f"{name}.bias", D_MODEL)

    normal("tok_embed.weight", VOCAB, D_MODEL)
    normal("pos_embed.weight", N_CTX, D_MODEL)
    for i in range(N_LAYERS):
        layer_norm(f"blocks.{i}.ln1")
        linear(f"blocks.{i}.attn.qkv", 3 * D_MODEL, D_MODEL)
        linear(f"blocks.{i}.attn.proj", D_MODEL, D_MODEL)
        layer_norm(f"blocks.{i}.ln2")
        linear(f"blocks.{i}.mlp.up", D_FF, D_MODEL)
        linear(f"blocks.{i}.mlp.down", D_MODEL, D_FF)
    layer_norm("ln_final")
    return params


def make_ids():
    """[STEPS, BATCH, SEQ + 1] token ids, a different random batch for every step.

    Token t has a probability proportional to 1 / (t + 5): enough skew for the loss
    to fall over ten steps.
    """
    torch.manual_seed(SEED_DATA)
    weights = 1.0 / (torch.arange(VOCAB, dtype=torch.float64) + 5.0)
    n = STEPS * BATCH * (SEQ + 1)
    ids = torch.multinomial(weights, n, replacement=True)
    return ids.reshape(STEPS, BATCH, SEQ + 1)


def make_masks(sparsity):
    """Fixed random masks (uint8, 1 = kept) of the block linear weights.

    Every part has exactly round((1 - sparsity) * rows * cols) ones; the parts of
    attn.qkv are its three [d, d] matrices q, k and v.
    """
    torch.manual_seed(SEED_MASKS)

    def part(rows, cols):
        mask = torch.zeros(rows * cols, dtype=torch.uint8)
        kept = round((1.0 - sparsity) * rows * cols)
        mask[torch.randperm(rows * cols)[:kept]] = 1
        return mask.reshape(rows, cols)

    masks = {}
    for i in range(N_LAYERS):
        qkv = [part(D_MODEL, D_MODEL) for _ in range(3)]
        masks[f"blocks.{i}.attn.qkv.weight"] = torch.cat(qkv)
        masks[f"blocks.{i}.attn.proj.weight"] = part(D_MODEL, D_MODEL)
        masks[f"blocks.{i}.mlp.up.weight"] = part(D_FF, D_MODEL)
        masks[f"blocks.{i}.mlp.down.weight"] = part(D_MODEL, D_FF)
    return masks


# ---------------------------------------------------------------------------- model


def attention(q, k, v):
    """Causal attention of [batch, heads, seq, d_head], written out."""
    seq = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(D_HEAD)
    future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def attention_torch(q, k, v):
    """The same by PyTorch's own function, for --check."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def bf16(x):
    """The nearest bf16, ties to even, of the nearest float32."""
    return x.to(torch.float32).to(torch.bfloat16).to(x.dtype)


class RoundedProduct(torch.autograd.Function):
    """x @ w.T, and its gradients, of operands rounded to bf16; sums are not rounded."""

    @staticmethod
    def forward(ctx, x, w):
        x, w = bf16(x), bf16(w)
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx, dy):
        (x, w), dy = ctx.saved_tensors, bf16(dy)
        return dy @ w, dy.flatten(0, -2).T @ x.flatten(0, -2)


class RoundedAttention(torch.autograd.Function):
    """Causal attention whose products, and those of its gradient, have operands rounded to bf16.

    Scores are exponentiated below their maximum, and divided by their exact sum after
    they met the values. The gradient's weights are divided before they are rounded.
    """

    @staticmethod
    def forward(ctx, q, k, v):
        q, k, v = bf16(q), bf16(k), bf16(v)
        seq = q.shape[-2]
        scores = q @ k.transpose(-1, -2) / math.sqrt(D_HEAD)
        future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        y = bf16(weights) @ v / weights.sum(-1, keepdim=True)
        ctx.save_for_backward(q, k, v, scores.softmax(-1), y)
        return y

    @staticmethod
    def backward(ctx, dy):
        q, k, v, weights, y = ctx.saved_tensors
        correction = (dy * y).sum(-1, keepdim=True)
        dy = bf16(dy)
        dv = bf16(weights).transpose(-1, -2) @ dy
        ds = bf16(weights * (dy @ v.transpose(-1, -2) - correction) / math.sqrt(D_HEAD))
        return ds @ k, ds.transpose(-1, -2) @ q, dv


def forward(p, ids, attend=attention, product=F.linear):
    """Logits [batch, seq, vocab] of token ids [batch, seq], parameters p by name."""

    def linear(name, x):
        return product(x, p[f"{name}.weight"]) + p[f"{name}.bias"]

    def layer_norm(name, x):
        return F.layer_norm(
            x, (D_MODEL,), p[f"{name}.weight"], p[f"{name}.bias"], LN_EPS
        )

    batch, seq = ids.shape
    x = p["tok_embed.weight"][ids] + p["pos_embed.weight"][:seq]
    for i in range(N_LAYERS):
        block = f"blocks.{i}"
        # Rows of attn.qkv are q | k | v; within each, head h has the rows
        # h * d_head .. (h + 1) * d_head.
        qkv = linear(f"{block}.attn.qkv", layer_norm(f"{block}.ln1", x))
        q, k, v = (
            t.reshape(batch, seq, N_HEADS, D_HEAD).transpose(1, 2)
            for t in qkv.split(D_MODEL, dim=-1)
        )
        heads = attend(q, k, v).transpose(1, 2).reshape(batch, seq, D_MODEL)
        x = x + linear(f"{block}.attn.proj", heads)
        h = linear(f"{block}.mlp.up", layer_norm(f"{block}.ln2", x))
        x = x + linear(f"{block}.mlp.down", F.gelu(h, approximate="tanh"))
    # Tied output head, no bias.
    return product(layer_norm("ln_final", x), p["tok_embed.weight"])


def learning_rate(step):
    """Linear warm-up, then a cosine to MIN_LR (10 % of the peak); step from 0."""
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    t = (step - WARMUP) / (STEPS - WARMUP)
    return MIN_LR + 0.5 * (PEAK_LR - MIN_LR) * (1.0 + math.cos(math.pi * t))


def train(
    params, masks, ids, dtype=torch.float64, attend=attention, product=F.linear
):
    """Ten AdamW updates from `params` (float32, masked); returns what is recorded."""
    p = {n: t.to(dtype).requires_grad_(True) for n, t in params.items()}
    masks = {n: m.to(dtype) for n, m in masks.items()}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [t for t in p.values() if t.ndim >= 2],
                "weight_decay": WEIGHT_DECAY,
            },
            {"params": [t for t in p.values() if t.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(BETA1, BETA2),
        eps=ADAM_EPS,
        foreach=False,
    )
    out = {"losses": [], "lrs": [], "grad_norms": []}
    for step in range(STEPS):
        inputs, targets = ids[step, :, :-1], ids[step, :, 1:]
        # The mask multiplies the weight in the forward pass, which also makes
        # autograd multiply the weight's gradient by it.
        masked = {n: t * masks[n] if n in masks else t for n, t in p.items()}
        logits = forward(masked, inputs, attend, product)
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach().clone()
            out["grad"] = {n: t.grad.clone() for n, t in p.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(p.values()), CLIP, foreach=False)
        lr = learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        out["losses"].append(loss.item())
        out["lrs"].append(lr)
        out["grad_norms"].append(norm.item())
    out["final"] = {n: t.detach().clone() for n, t in p.items()}
    # A masked-out weight starts at zero and must never leave it.
    for n, m in masks.items():
        for kind in ("grad", "final"):
            assert not torch.any(out[kind][n][m == 0]), (kind, n)
    return out


# --------------------------------------------------------------------------- output


def write_safetensors(path, tensors, metadata):
    """A safetensors file with a fixed byte order of everything.

    The library's own writer keeps the metadata in a hash map, in no fixed order.
    Wider types come first, so that every tensor is aligned.
    """
    dtypes = {"float32": "F32", "int32": "I32", "uint8": "U8"}
    header, chunks, offset = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        array = np.ascontiguousarray(tensors[name])
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": dtypes[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(chunks))

    # Read it back through the library.
    with safe_open(path, framework="np") as f:
        assert sorted(f.keys()) == sorted(tensors) and f.metadata() == metadata
        for name, array in tensors.items():
            back = f.get_tensor(name)
            assert back.dtype == array.dtype and np.array_equal(back, array), name


def given(params, masks, ids):
    """What a run starts from, as numpy arrays."""
    tensors = {f"param.{n}": t.numpy() for n, t in params.items()}
    tensors |= {f"mask.{n}": m.numpy() for n, m in masks.items()}
    return tensors | {"ids": ids.to(torch.int32).numpy()}


def results(ref, rounds_attention=False):
    """What comes of it, as numpy arrays."""

    def f32(values):
        return torch.as_tensor(values, dtype=torch.float64).to(torch.float32).numpy()

    tensors = {}
    for name, grad in ref["grad"].items():
        if name.endswith("attn.qkv.bias") and not rounds_attention:
            # Zero in exact arithmetic (see README.md): drop the float64 residue.
            grad = grad.clone()
            assert grad[D_MODEL : 2 * D_MODEL].abs().max() < 1e-15
            grad[D_MODEL : 2 * D_MODEL] = 0.0
        tensors[f"grad.{name}"] = f32(grad)
    tensors |= {f"final.{n}": f32(t) for n, t in ref["final"].items()}
    for name in ("logits", "losses", "lrs", "grad_norms"):
        tensors[name] = f32(ref[name])
    return tensors


def metadata(variant, precision="float64"):
    computed = {
        "float64": "in float64",
        "bf16": "in float64 with operands of linear layers and head rounded to bf16",
        "bf16-attention": "in float64 with operands of linear layers, head and attention "
        "rounded to bf16",
    }
    return {
        "description": "Tiny GPT reference: parameters, logits, gradients and ten "
        f"AdamW updates; computed {computed[precision]}, stored as float32",
        "variant": variant,
        "torch": torch.__version__.split("+")[0],
        "model": f"layers={N_LAYERS} d_model={D_MODEL} heads={N_HEADS} d_ff={D_FF} "
        f"context={N_CTX} vocab={VOCAB} ln_eps={LN_EPS} gelu=tanh head=tied",
        "optimizer": f"adamw beta1={BETA1} beta2={BETA2} eps={ADAM_EPS} "
        f"weight_decay={WEIGHT_DECAY} (ndim >= 2) clip={CLIP}",
        "schedule": f"peak={PEAK_LR} min={MIN_LR} warmup={WARMUP} steps={STEPS} cosine",
    }


# ---------------------------------------------------------------------------- check


def check(variant, params, masks, ids, ref):
    """Compare the float64 reference with two other runs; True if they agree."""

    def rel(a, b):
        return max(abs(x - y) / abs(y) for x, y in zip(a, b))

    def rel_l2(a, b):
        return ((a.to(torch.float64) - b).norm() / b.norm()).item()

    def key_bias(name):
        return name.endswith("attn.qkv.bias")

    def without_key(name, t):
        # The key third of attn.qkv.bias has no gradient; see README.md.
        if key_bias(name):
            return torch.cat([t[:D_MODEL], t[2 * D_MODEL :]])
        return t

    ok = True
    runs = {
        "float64, fused attention": (torch.float64, attention_torch, 1e-12, 1e-10),
        "float32": (torch.float32, attention, 1e-5, 1e-4),
    }
    for label, (dtype, attend, loss_tol, grad_tol) in runs.items():
        run = train(params, masks, ids, dtype, attend)
        loss = rel(run["losses"], ref["losses"])
        norm = rel(run["grad_norms"], ref["grad_norms"])
        logits = (run["logits"].to(torch.float64) - ref["logits"]).abs().max().item()
        worst = {
            kind: max(
                (rel_l2(without_key(n, run[kind][n]), without_key(n, t)), n)
                for n, t in ref[kind].items()
            )
            for kind in ("grad", "final")
        }
        largest = max(
            (without_key(n, run["final"][n]).to(torch.float64) - without_key(n, t))
            .abs()
            .max()
            .item()
            for n, t in ref["final"].items()
        )
        key = max(
            (run["final"][n].to(torch.float64) - t).abs().max().item()
            for n, t in ref["final"].items()
            if key_bias(n)
        )
        good = loss <= loss_tol and worst["grad"][0] <= grad_tol
        ok &= good
        print(f"  check {variant}: {label}: {'ok' if good else 'MISS'}")
        print(f"    losses     max relative  {loss:.1e}")
        print(f"    grad_norms max relative  {norm:.1e}")
        print(f"    logits     max absolute  {logits:.1e}")
        for kind, (value, name) in worst.items():
            print(f"    {kind + '.*':10} max rel. L2    {value:.1e}  ({name})")
        print(f"    final.*    max absolute  {largest:.1e}  (key bias {key:.1e})")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--out", type=pathlib.Path, default=here)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    ids = make_ids()
    ok = True
    for variant, masks in {"dense": {}, "sparse75": make_masks(0.75)}.items():
        params = init_params()
        for name, mask in masks.items():
            params[name] = params[name] * mask
        ref = train(params, masks, ids)
        path = args.out / f"{variant}.safetensors"
        tensors = given(params, masks, ids) | results(ref)
        write_safetensors(path, tensors, metadata(variant))
        print(f"{path.name}: {path.stat().st_size} bytes")
        print("  losses    ", " ".join(f"{x:.6f}" for x in ref["losses"]))
        print("  grad_norms", " ".join(f"{x:.6f}" for x in ref["grad_norms"]))
        print("  lrs       ", " ".join(f"{x:.6f}" for x in ref["lrs"]))
        attentions = {"bf16": attention, "bf16-attention": RoundedAttention.apply}
        for precision, attend in attentions.items():
            product = RoundedProduct.apply
            rounded = train(params, masks, ids, attend=attend, product=product)
            path = args.out / f"{variant}-{precision}.safetensors"
            tensors = results(rounded, attend is not attention)
            write_safetensors(path, tensors, metadata(variant, precision))
            print(f"{path.name}: {path.stat().st_size} bytes")
            print("  losses    ", " ".join(f"{x:.6f}" for x in rounded["losses"]))
        if args.check:
            ok &= check(variant, params, masks, ids, ref)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
