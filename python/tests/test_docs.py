"""The Python of the documents runs as it stands there, and so do the examples of docstrings."""

import doctest
import importlib
import pathlib

import pytest

import mediswift

ROOT = pathlib.Path(__file__).parents[2]


def blocks(path):
    """The blocks of Python in a document."""
    parts = path.read_text(encoding="utf-8").split("```python\n")[1:]
    return [part.split("```")[0] for part in parts]


@pytest.mark.parametrize("name", ["README.md", "docs/python.md", "python/README.md"])
def test_documents_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / name)
    assert found, "the check must see some"
    names, skipped = {}, 0
    for block in found:
        if "torch" in block:
            try:
                import torch  # noqa: F401
            except ImportError:
                skipped += 1
                continue
        exec(compile(block, name, "exec"), names)
    if skipped:
        pytest.skip(f"PyTorch is not installed: {skipped} of {len(found)} blocks left out")


@pytest.mark.parametrize("name", ["_matrix", "torch"])
def test_docstrings_run(name):
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    module = importlib.import_module(f"mediswift.{name}")
    failed, tried = doctest.testmod(module)
    assert tried > 0 and failed == 0


def test_everything_public_is_explained():
    for name in mediswift.__all__:
        assert getattr(mediswift, name).__doc__, name
