#!/usr/bin/env python3
"""Compares a run with what transformers and the gguf package make of its exports.

    pip install torch transformers safetensors gguf
    python check.py RUN --data DATASET --texts ABSTRACTS.jsonl.gz
    python check.py RUN --data DATASET --texts ABSTRACTS.jsonl.gz --hf DIR

For the run RUN and a dataset made with its tokenizer, checks that

* GPT2LMHeadModel, loaded from `export hf`, or from DIR, which RUN was imported from, has the
  validation loss that `eval` prints, on the same windows (1e-4);
* it gives each token of twenty texts the log-likelihood that `score` prints (1e-3), and the
  tokenizer in the folder the same ids;
* with the rows of a soft prompt among its `inputs_embeds`, it gives each token of a text after a
  context the log-likelihood that `score --soft-prompt` prints (1e-3);
* the tensors of `export gguf` are those of `export hf`, each element equal (without a soft prompt);
* importing and exporting again gives the same files.

The texts are lines of JSON with `text`, or with `title` and `abstract`.  Exit status 1 on a miss.

Last used with Python 3.11, torch 2.15, transformers 5.24, safetensors 0.8, gguf 0.19.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

TEXTS = 20
MICRO_BATCH = 4
LOSS_TOLERANCE, LOGPROB_TOLERANCE = 1e-4, 1e-3

PARTS = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path, required=True)
    parser.add_argument("--hf", type=pathlib.Path, help="the folder that the run was imported from")
    parser.add_argument("--program", default="mediswift")
    options = parser.parse_args()

    def mediswift(*arguments):
        command = [options.program, "--json", *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(done.stdout)

    checks = []

    def check(name, holds, found):
        checks.append(holds)
        print(f"{'ok  ' if holds else 'MISS'} {name}: {found}")

    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        scratch = pathlib.Path(scratch)
        exported = scratch / "hf"
        mediswift("export", "hf", options.run, "--out", exported)
        folder = options.hf or exported
        model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True).float().eval()

        ours = mediswift("eval", options.run, "--data", options.data)
        context = tomllib.loads((options.run / "config.toml").read_text())["train"]["context"]
        theirs = validation_loss(model, options.data, context, ours["tokens"])
        difference = abs(ours["val_loss"] - theirs)
        found = f"{ours['val_loss']:.6f} here, {theirs:.6f} there, over {ours['tokens']} tokens"
        check("validation loss", difference <= LOSS_TOLERANCE, found)

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        worst, equal, count = 0.0, True, 0
        for text in texts(options.texts, model.config.n_positions, tokenizer):
            scored = mediswift("score", options.run, "--text", text)
            ids = scored["ids"]
            equal &= ids == tokenizer.encode(text, add_special_tokens=False)
            logits = model(torch.tensor([ids])).logits[0, :-1]
            theirs = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            ours = torch.tensor(scored["token_logprobs"][-len(theirs):])
            worst = max(worst, (ours - theirs).abs().max().item())
            count += len(theirs)
        found = f"at most {worst:.2e} apart, over {count} tokens"
        check("log-likelihoods", worst <= LOGPROB_TOLERANCE, found)
        check("token ids", equal, "equal" if equal else "different")

        if (folder / "soft_prompt.safetensors").exists():
            worst, count = steered(mediswift, options, model, tokenizer, folder)
            found = f"at most {worst:.2e} apart, over {count} tokens"
            check("soft prompt", worst <= LOGPROB_TOLERANCE, found)
        else:
            mediswift("export", "gguf", options.run, "--out", scratch / "model.gguf")
            tensors = gguf.GGUFReader(scratch / "model.gguf").tensors
            weights = load_file(exported / "model.safetensors")
            equal = sum(same(weights, tensor) for tensor in tensors)
            found = f"{equal} of {len(tensors)} tensors equal"
            check("GGUF", equal == len(tensors) == len(weights), found)

        mediswift("import", "hf", exported, "--out", scratch / "back")
        mediswift("export", "hf", scratch / "back", "--out", scratch / "again")
        names = [path.name for path in exported.iterdir() if path.suffix == ".safetensors"]
        equal = all(
            (exported / name).read_bytes() == (scratch / "again" / name).read_bytes()
            for name in names
        )
        check("round trip", equal, ", ".join(sorted(names)))
    sys.exit(0 if all(checks) else 1)


def steered(mediswift, options, model, tokenizer, folder):
    """Largest difference of log-likelihoods of texts after their own first half and the prompt."""
    prompt = load_file(folder / "soft_prompt.safetensors")["prompt_embeddings"]
    worst, count = 0.0, 0
    for text in texts(options.texts, model.config.n_positions // 2, tokenizer):
        at = text.index(" ", len(text) // 2)
        context, rest = text[:at], text[at:]
        arguments = ("--context", context, "--text", rest, "--soft-prompt")
        ours = torch.tensor(mediswift("score", options.run, *arguments)["token_logprobs"])
        before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (context, rest))
        before = [model.config.eos_token_id, *before]
        rows = [model.transformer.wte(torch.tensor(ids)) for ids in (before, after)]
        logits = model(inputs_embeds=torch.cat([rows[0], prompt, rows[1]])[None]).logits[0]
        logits = logits[len(before) + len(prompt) - 1 : -1]
        theirs = logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None])[:, 0]
        worst = max(worst, (ours - theirs).abs().max().item())
        count += len(after)
    return worst, count


def validation_loss(model, dataset, context, count):
    """Mean loss over the first `count` targets, window by window."""
    ids = np.concatenate([shard(path) for path in sorted(dataset.glob("validation-*.bin"))])
    ids = torch.from_numpy(ids[: count + 1].astype(np.int64))
    whole = count // context * context
    windows = list(zip(ids[:whole].view(-1, context).split(MICRO_BATCH),
                       ids[1 : whole + 1].view(-1, context).split(MICRO_BATCH)))
    if whole < count:
        windows.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    total = 0.0
    for inputs, targets in windows:
        logits = model(inputs).logits.double().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
        total += loss.item()
    return total / count


def shard(path):
    """Tokens of a shard: 128 bytes of header, then the ids."""
    raw = path.read_bytes()
    assert raw[:8] == b"MSWTOK1\0", path
    width = int.from_bytes(raw[12:16], "little")
    tokens = int.from_bytes(raw[16:24], "little")
    return np.frombuffer(raw, {2: np.uint16, 4: np.uint32}[width], tokens, 128)


def texts(path, limit, tokenizer):
    """The first texts of a file that fit the model's positions."""
    found = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            text = record.get("text") or f"{record['title']}\n{record['abstract']}"
            if 1 < len(tokenizer.encode(text, add_special_tokens=False)) <= limit:
                found.append(text)
            if len(found) == TEXTS:
                break
    return found


def same(weights, tensor):
    """Whether a GGUF tensor is the one of the folder."""
    matches = []
    for name, weight in weights.items():
        *path, kind = name.removeprefix("transformer.").split(".")
        block = f"blk.{path[1]}." if path[0] == "h" else ""
        part = ".".join(path[2:] if block else path)
        if f"{block}{PARTS[part]}.{kind}" == tensor.name:
            is_conv1d = bool(block) and weight.dim() == 2
            matches.append(weight.T if is_conv1d else weight)
    [weight] = matches
    expected = weight.contiguous().numpy()
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return shape == expected.shape and np.array_equal(tensor.data.reshape(shape), expected)


if __name__ == "__main__":
    main()
