"""Models: trained here or by `mediswift pretrain`, asked here."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array
from ._core import Tokenizer

_Path = str | os.PathLike[str]


class Score(NamedTuple):
    """What a model thinks of a text."""

    #: The text's token ids.
    ids: list[int]
    #: Log-likelihoods of the last `len(logprobs)` of them, in nats: of all, or of all but the first, which has
    #: nothing before it.
    logprobs: np.ndarray
    #: Whether every token scored is the one that greedy decoding takes.
    is_greedy: bool
    #: Whether the text is longer than the model's positions, and was read in windows.
    cut: bool

    @property
    def loglikelihood(self) -> float:
        """Log-likelihood of all tokens scored, in nats."""
        return float(self.logprobs.sum())


class Generation(NamedTuple):
    """A continuation."""

    #: Token ids that were added, without the one that ends a text.
    ids: list[int]
    #: Their text.
    text: str
    #: `max_tokens`, `end_token`, `stop_string` or `context_full`.
    finish: str
    tokens_per_second: float


class Model:
    """A trained model, of a run folder. For research only, not for clinical use."""

    def __init__(self, core: _core.Model) -> None:
        self._core = core

    @classmethod
    def load(cls, run: _Path, *, step: int | None = None) -> Model:
        """Loads the newest whole checkpoint of a run folder, or the one after `step` optimiser steps.

        Warns of newer ones that are damaged. Raises FileNotFoundError if there is none, ValueError if it is damaged.
        """
        model = cls(_core.Model.load(os.fspath(run), step))
        for problem in model._core.skipped:
            warnings.warn(problem, stacklevel=2)
        return model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens it was trained on."""
        return self._core.tokenizer

    @property
    def step(self) -> int:
        """Optimiser steps before its checkpoint."""
        return self._core.step

    @property
    def context(self) -> int:
        """Positions that it has learned."""
        return self._core.context

    @property
    def parameters(self) -> int:
        """Parameters that are there."""
        return self._core.parameters

    @property
    def settings(self) -> str:
        """All settings of its run, as TOML."""
        return self._core.settings

    def score(self, texts: str | Sequence[str], *, before: str | None = None) -> Any:
        """The `Score` of a text, or a list of those of many texts.

        With `before`, texts are what comes after it, and only their own tokens are scored; an empty one stands for
        the end of another document.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        scores = [Score(*score) for score in self._core.score(many, before)]
        return scores[0] if isinstance(texts, str) else scores

    def generate(
        self,
        prompt: Any,
        *,
        max_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        samples: int | None = None,
        past_context: bool = False,
    ) -> Any:
        """Continues a prompt, a text or token ids: a `Generation`, with `samples` a list of so many. Of a list of
        texts, a list: all samples of the first one, then those of the next.

        A temperature of 0 takes the likeliest token always. Results depend on the seed, not on threads or on what is
        generated beside. Ctrl-C stops.
        """
        single = isinstance(prompt, str) or _is_ids(prompt)
        prompts = [prompt] if single else list(prompt)
        prompts = [of if isinstance(of, str) else _ids("prompt", of) for of in prompts]
        made = self._core.generate(
            prompts,
            1 if samples is None else samples,
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
            [stop] if isinstance(stop, str) else list(stop),
            past_context,
        )
        made = [Generation(*of) for of in made]
        return made[0] if single and samples is None else made

    def loss(self, tokens: Any) -> float:
        """Mean loss in nats per token of a text, of token ids `[tokens]`, or of sequences of ids: `[sequences, tokens]`
        or a list of them. The first token of each has nothing before it, and is not predicted; longer sequences
        than the model has positions are read in windows that overlap by half."""
        sequences = self._sequences(tokens)
        nats, count = self._core.loss(sequences)
        if count == 0:
            raise ValueError("tokens: there is no token to predict: at least 2 are needed")
        return nats / count

    def perplexity(self, tokens: Any) -> float:
        """exp of `loss`."""
        return math.exp(self.loss(tokens))

    def evaluate(self, data: _Path) -> float:
        """Mean loss in nats per token on all of the validation split of a dataset folder."""
        return self._core.evaluate(os.fspath(data))[0]

    def _sequences(self, tokens: Any) -> list[np.ndarray]:
        if isinstance(tokens, str):
            tokens = self.tokenizer.encode(tokens)
        if _is_ids(tokens):
            return [_ids("tokens", tokens)]
        return [_ids("tokens", of) for of in tokens]

    def __repr__(self) -> str:
        return f"Model({self.parameters} parameters, {self.context} positions, step {self.step})"


def prepare(
    inputs: _Path | Sequence[_Path],
    out: _Path,
    *,
    vocab_size: int = 8192,
    tokenizer: _Path | None = None,
    validation: float = 0.03,
) -> dict[str, Any]:
    """Makes a dataset folder of texts, as `mediswift data prepare` does: files, or folders of them, of PubMed XML,
    JATS, JSONL or plain text. Without the file of a tokenizer, one of `vocab_size` tokens is learned. Returns counts."""
    many = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    tokenizer = None if tokenizer is None else os.fspath(tokenizer)
    paths = [os.fspath(path) for path in many]
    return _core.prepare_dataset(paths, os.fspath(out), vocab_size, tokenizer, validation)


def write_dataset(
    out: _Path, tokenizer: Tokenizer, train: Sequence[Any], validation: Sequence[Any]
) -> dict[str, Any]:
    """Makes a dataset folder of token ids of one's own: documents, each an array or a list of ids without the token
    that ends it. Returns counts. Raises ValueError for ids that the tokenizer does not have."""
    documents = [[_ids(name, of) for of in split] for name, split in
                 (("train", train), ("validation", validation))]
    return _core.write_dataset(os.fspath(out), tokenizer, *documents)


def train(
    data: _Path,
    out: _Path,
    *,
    preset: str | None = None,
    config: _Path | None = None,
    sparsity: float | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Trains a GPT on a dataset folder in the run folder `out`, as `mediswift pretrain` does; returns a report.

    `preset` is a size (`micro` to `xl`), or `config` a TOML file; `sparsity` is the fraction of the linear layers'
    weights to leave out; `settings` change single keys, such as `{"train.steps": 200, "train.lr": 1e-3}`.
    `resume=True` goes on with the run that is there, with the bits of one that was never interrupted.

    `callback` is called after every optimiser step with a dictionary of `step`, `steps`, `loss`, `val_loss` (the last
    one measured, or None), `lr`, `grad_norm`, `tokens`, `seconds` and `tokens_per_second`. If it returns False or raises,
    or on Ctrl-C, the run is saved and ends: with a report whose `stopped` is true, what it raised, or
    KeyboardInterrupt. A step under way is given up then, at most one micro-batch later.
    """
    if preset is None and config is None and not resume:
        raise ValueError("preset: is missing: which size is the model to have?")
    if preset is not None and config is not None:
        raise ValueError("config: a file names its preset itself: give one of the two")
    changes = dict(settings or {})
    if sparsity is not None:
        changes["sparsity.sparsity"] = float(sparsity)
    assignments = [f"{key}={_toml(value)}" for key, value in changes.items()]
    config = None if config is None else os.fspath(config)
    return _core.train(
        os.fspath(data), os.fspath(out), preset, config, assignments, resume, callback
    )


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"settings: {value!r} is no boolean, number, text or list of them")


def _is_ids(tokens: Any) -> bool:
    """Whether it is one sequence of ids, not several."""
    if isinstance(tokens, np.ndarray) or hasattr(tokens, "__dlpack__"):
        return as_array("tokens", tokens).ndim == 1
    return all(isinstance(token, int | np.integer) for token in tokens)


def _ids(name: str, ids: Any) -> np.ndarray:
    if not hasattr(ids, "__dlpack__"):
        ids = np.array(ids) if len(ids) else np.empty(0, np.int64)
    array = as_array(name, ids)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: has elements of {array.dtype}, but must have token ids")
    if array.ndim != 1:
        raise ValueError(f"{name}: has {array.ndim} dimensions, but ids follow each other in 1")
    return np.require(array, np.int64, ["C", "A"])
