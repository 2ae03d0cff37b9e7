"""Scores of random predictions by scikit-learn: writes metrics.json beside this file."""

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

random = np.random.default_rng(20240301)
CLASSES = ["yes", "no", "maybe", "failed"]


def single(examples, truth_classes, answer_classes):
    """One label each; classes may be missing from truths or answers."""
    truth = [CLASSES[i] for i in random.integers(0, truth_classes, examples)]
    answers = [CLASSES[i] for i in random.integers(0, answer_classes, examples)]
    return {
        "truth": truth,
        "answers": answers,
        "accuracy": accuracy_score(truth, answers),
        "macro_f1": f1_score(truth, answers, average="macro", zero_division=0),
    }


def multi(examples, labels, rate):
    """Any number of labels each, as 0 and 1."""
    truth = (random.random((examples, labels)) < rate).astype(int)
    answers = np.where(random.random(truth.shape) < 0.7, truth, 1 - truth)
    answers[: examples // 4] = 0
    labelled = truth.sum(axis=1) > 0
    right = (truth & answers).sum(axis=1)[labelled]
    given, true = answers.sum(axis=1)[labelled], truth.sum(axis=1)[labelled]
    precision = np.divide(right, given, out=np.zeros(len(right)), where=given > 0).mean()
    recall = (right / true).mean()
    return {
        "truth": truth.tolist(),
        "answers": answers.tolist(),
        "micro_f1": f1_score(truth, answers, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, answers, average="macro", zero_division=0),
        "example_based_f1": 2 * precision * recall / (precision + recall),
    }


goldens = {
    "single": [
        single(n, truth, answers)
        for n, truth, answers in [(1, 3, 3), (7, 3, 3), (40, 3, 3), (40, 2, 3), (40, 3, 1), (60, 3, 4)]
    ],
    "multi": [multi(*shape) for shape in [(4, 3, 0.5), (20, 10, 0.2), (30, 10, 0.05), (20, 11, 0.3)]],
}
Path(__file__).with_name("metrics.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
