"""The examples run, on little."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run(name, arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_bench_layer(tmp_path):
    arguments = ["--shapes", "48x32", "--sparsities", 0.5, "--threads", 1, "--tokens", 40, "--rounds", 2]
    try:
        import matplotlib  # noqa: F401

        arguments += ["--plot", tmp_path / "layer.svg"]
    except ImportError:
        pass
    out = run("bench_layer.py", arguments)
    assert "| 1 | 48 × 32 | 50 % |" in out
    assert "--plot" not in arguments or (tmp_path / "layer.svg").stat().st_size > 1000


def test_gpt2(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    text = tmp_path / "text.txt"
    text.write_text("Aspirin inhibits platelets, and so does clopidogrel. " * 200)
    sizes = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "batch": 2, "context": 16, "steps": 5}
    arguments = [part for name, size in sizes.items() for part in (f"--{name}", size)]
    out = run("gpt2.py", [*arguments, "--text", text, "--every", 5])
    assert "seconds per step" in out and float(out.split("within ")[1].split(";")[0]) < 1e-4
    out = run("gpt2.py", [*arguments, "--text", text, "--models", "dense"])
    assert "| step | dense loss |" in out and "within" not in out
