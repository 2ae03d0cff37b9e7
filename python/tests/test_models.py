"""Models: trained, interrupted, resumed and asked."""

import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import mediswift
from mediswift import Model, Tokenizer

SMALL = {
    "model.layers": 1,
    "model.d_model": 16,
    "model.heads": 2,
    "model.context": 64,
    "train.context": 32,
    "train.batch": 2,
    "train.micro_batch": 2,
    "train.steps": 8,
    "eval.every": 4,
    "eval.sequences": 2,
}


def texts(count):
    drugs = ["Aspirin", "Metformin", "Insulin", "Warfarin", "Digoxin", "Heparin"]
    return [f"{drugs[at % 6]} was given to group {at} of the patients." for at in range(count)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset of token ids and a run on it."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = Tokenizer.train(texts(200), 300)
    ids = [np.array(tokenizer.encode(text), np.int32) for text in texts(200)]
    counts = mediswift.write_dataset(folder / "data", tokenizer, ids[:180], ids[180:])
    assert counts["documents"] == 200 and counts["vocab_size"] == tokenizer.vocab_size
    assert counts["train_tokens"] == sum(len(of) + 1 for of in ids[:180])
    steps = []
    report = mediswift.train(
        folder / "data", folder / "run", preset="micro", sparsity=0.5, settings=SMALL,
        callback=steps.append,
    )
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert steps[0]["steps"] == 8 and steps[0]["val_loss"] is None
    assert steps[-1]["val_loss"] > 0 and all(step["loss"] > 0 for step in steps)
    assert report["step"] == 8 and not report["stopped"] and abs(report["sparsity"] - 0.5) < 0.01
    return folder, report


def test_the_tokenizer_speaks_as_it_was_taught(tmp_path):
    tokenizer = Tokenizer.train(texts(50), 300)
    ids = tokenizer.encode("Aspirin was given.")
    assert tokenizer.decode(ids) == "Aspirin was given."
    assert tokenizer.encode_batch(["Aspirin was given.", ""]) == [ids, []]
    assert len(tokenizer.tokens(ids)) == len(ids) and max(ids) < tokenizer.vocab_size
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).encode("Aspirin was given.") == ids
    for call, error, problem in [
        (lambda: tokenizer.decode([tokenizer.vocab_size]), ValueError, "is not in the vocabulary"),
        (lambda: tokenizer.decode([-1]), OverflowError, None),
        (lambda: Tokenizer.train([], 300), ValueError, None),
        (lambda: Tokenizer.train(texts(5), 300, kind="words"), ValueError, "must be byte-bpe"),
        (lambda: Tokenizer.load(tmp_path / "nowhere.json"), FileNotFoundError, "nowhere.json"),
    ]:
        with pytest.raises(error, match=problem):
            call()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json"):
        Tokenizer.load(tmp_path)


def test_a_model_scores_and_continues(world):
    folder, report = world
    model = Model.load(folder / "run")
    assert model.step == 8 and model.context == 64 and model.parameters == report["parameters"]
    assert "[train]" in model.settings and "step 8" in repr(model)
    text = "Aspirin was given to group 3 of the patients."
    ids = model.tokenizer.encode(text)
    score = model.score(text)
    assert score.ids == ids and len(score.logprobs) == len(ids) - 1 and not score.cut
    assert score.loglikelihood == pytest.approx(-model.loss(text) * (len(ids) - 1))
    assert model.loss(text) == pytest.approx(model.loss(ids)) == model.loss(np.array(ids))
    assert model.loss([ids, ids]) == pytest.approx(model.loss(ids), rel=1e-5)
    assert model.loss(np.array([ids, ids])) == model.loss([ids, ids])
    assert model.perplexity(ids) == math.exp(model.loss(ids))
    first, second = model.score(["Aspirin", "Insulin"], before="")
    assert len(first.logprobs) == len(first.ids) and len(second.logprobs) == len(second.ids)
    assert model.loss(ids * 20) > 0, "longer than its positions"
    assert model.evaluate(folder / "data") > 0

    one = model.generate("Aspirin", max_tokens=5, seed=3)
    assert len(one.ids) == 5 and one.finish == "max_tokens"
    assert one.text == model.tokenizer.decode(one.ids)
    assert model.generate("Aspirin", max_tokens=5, seed=3).ids == one.ids
    assert model.generate(model.tokenizer.encode("Aspirin"), max_tokens=5, seed=3).ids == one.ids
    several = model.generate("Aspirin", max_tokens=5, seed=3, samples=3)
    assert len(several) == 3 and several[0].ids == one.ids
    many = model.generate(["Aspirin", "Insulin"], max_tokens=2, temperature=0)
    assert len(many) == 2
    assert model.generate("", max_tokens=1000).finish in ("context_full", "end_token")
    again = Model.load(folder / "run", step=8)
    assert again.loss(ids) == model.loss(ids)


def test_what_a_model_refuses(world, tmp_path):
    folder, _ = world
    model = Model.load(folder / "run")
    vocabulary = model.tokenizer.vocab_size
    for call, error, problem in [
        (lambda: model.loss([1]), ValueError, "no token to predict"),
        (lambda: model.loss([1, 10**6]), ValueError, "outside the vocabulary"),
        (lambda: model.loss([1, -2]), ValueError, "is -2 at 1"),
        (lambda: model.loss([0.5, 1.0]), (ValueError, TypeError), None),
        (lambda: model.loss(np.array([0.5, 1.0])), ValueError, "must have token ids"),
        (lambda: model.loss(np.ones((2, 2, 2), int)), ValueError, "2 dimensions"),
        (lambda: model.generate("a", temperature=-1), ValueError, "temperature: is -1"),
        (lambda: model.generate("a", top_k=0), ValueError, "top_k: is 0"),
        (lambda: model.generate("a", top_p=2), ValueError, "top_p: is 2"),
        (lambda: model.generate("a", samples=0), ValueError, "samples: must be"),
        (lambda: model.generate([1] * 100), ValueError, "64 positions"),
        (lambda: model.generate([vocabulary + 5]), ValueError, "outside the vocabulary"),
        (lambda: Model.load(tmp_path), FileNotFoundError, "holds no run"),
        (lambda: Model.load(folder / "run", step=5), (ValueError, OSError), "5"),
        (lambda: model.evaluate(tmp_path), ValueError, None),
    ]:
        with pytest.raises(error, match=problem):
            call()


def test_what_training_refuses(world, tmp_path):
    folder, _ = world
    data, tokenizer = folder / "data", Tokenizer.load(folder / "data")

    def train(out=tmp_path / "refused", preset="micro", settings=(), **options):
        return mediswift.train(data, out, preset=preset, settings={**SMALL, **dict(settings)}, **options)

    for call, error, problem in [
        (lambda: train(preset="huge"), ValueError, "unknown preset 'huge'|huge"),
        (lambda: train(preset=None), ValueError, "preset: is missing"),
        (lambda: train(settings={"train.stepz": 1}), ValueError, "did you mean 'steps'|train.steps"),
        (lambda: train(settings={"train.steps": "many"}), ValueError, "train.steps"),
        (lambda: train(settings={"train.steps": None}), TypeError, "None"),
        (lambda: train(sparsity=1.5), ValueError, "sparsity"),
        (lambda: train(settings={"train.lr": float("nan")}), ValueError, "lr"),
        (lambda: train(out=folder / "run"), FileExistsError, "holds a run already"),
        (lambda: mediswift.train(tmp_path / "none", tmp_path / "x", preset="micro"), ValueError, None),
        (lambda: mediswift.train(data, tmp_path / "x", resume=True), FileNotFoundError, "holds no run"),
        (
            lambda: mediswift.write_dataset(tmp_path / "d", tokenizer, [[10**6]], []),
            ValueError,
            "not in the vocabulary",
        ),
        (lambda: mediswift.write_dataset(tmp_path / "d", tokenizer, [], []), ValueError, None),
        (lambda: mediswift.write_dataset(data, tokenizer, [[1]], []), ValueError, "--force|exists"),
        (lambda: mediswift.prepare(tmp_path / "none", tmp_path / "d"), (ValueError, OSError), "none"),
    ]:
        with pytest.raises(error, match=problem):
            call()
    assert not (tmp_path / "d").exists()


def test_a_callback_stops_and_the_run_goes_on_with_the_same_bits(world, tmp_path):
    folder, report = world
    for name, stop in [("false", lambda step: step["step"] < 3), ("raised", None)]:
        out = tmp_path / name

        def raising(step):
            if step["step"] == 5:
                raise LookupError("enough")

        options = {"preset": "micro", "sparsity": 0.5, "settings": SMALL}
        if stop is None:
            with pytest.raises(LookupError, match="enough"):
                mediswift.train(folder / "data", out, callback=raising, **options)
            assert Model.load(out).step == 5
        else:
            stopped = mediswift.train(folder / "data", out, callback=stop, **options)
            assert stopped == {"step": 3, "stopped": True}
        rest = []
        resumed = mediswift.train(folder / "data", out, resume=True, callback=rest.append)
        assert rest[-1]["step"] == 8
        assert resumed["weights_hash"] == report["weights_hash"]


def test_a_callback_shares_a_layer_with_another_thread(world, tmp_path):
    folder, _ = world
    # In a process of its own, for there is one thread alone that computes, and it must not wait for itself.
    code = """
import sys, threading, mediswift, numpy as np
mediswift.set_num_threads(1)
w = mediswift.SparseMatrix.from_dense(np.ones((64, 64), np.float32))
x, done, found = np.ones((256, 64), np.float32), threading.Event(), set()
def use():
    while not done.is_set():
        found.add(float(w.forward(x).max()))
def change(step):
    w.values = np.full(64 * 64, step["step"], np.float32)
    assert w.forward(x).max() == 64 * step["step"]
users = [threading.Thread(target=use) for _ in range(2)]
[user.start() for user in users]
settings = eval(sys.argv[3]) | {"train.steps": 40}
report = mediswift.train(sys.argv[1], sys.argv[2], preset="micro", settings=settings, callback=change)
done.set()
[user.join() for user in users]
assert report["step"] == 40 and found <= {64.0 * step for step in range(41)}, found
"""
    arguments = [str(folder / "data"), str(tmp_path / "run"), repr(SMALL)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=300)


@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
def test_ctrl_c_saves(world, tmp_path):
    folder, _ = world
    # A background shell's children ignore the signal, and theirs too, unless they ask for it.
    code = """
import signal, sys, mediswift
signal.signal(signal.SIGINT, signal.default_int_handler)
def told(step):
    print(step["step"], flush=True)
settings = eval(sys.argv[3]) | {"train.steps": 1_000_000, "eval.every": 0}
mediswift.train(sys.argv[1], sys.argv[2], preset="micro", settings=settings, callback=told)
"""
    arguments = [str(folder / "data"), str(tmp_path / "run"), repr(SMALL)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "1\n"
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        process.send_signal(signal.SIGINT)
        reader.join(timeout=60)
        assert process.wait(timeout=60) != 0
        assert "KeyboardInterrupt" in process.stderr.read()
    finally:
        process.kill()
    process.stderr.close(), process.stdout.close()
    assert Model.load(tmp_path / "run").step >= 1


def test_texts_are_prepared(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    lines = (json.dumps({"id": at, "text": text * 3}) for at, text in enumerate(texts(300)))
    corpus.write_text("\n".join(lines))
    counts = mediswift.prepare(corpus, tmp_path / "data", vocab_size=300, validation=0.1)
    assert counts["documents"] > 0 and counts["validation_tokens"] > 0
    assert Tokenizer.load(tmp_path / "data").vocab_size == counts["vocab_size"]
