"""The measurement of layers: what it returns, not how fast."""

import pytest

import mediswift


def test_a_table_and_a_figure():
    report = mediswift.bench.layer([(64, 64)], [0.5, 0.75], tokens=64, rounds=1)
    rows = report.table if isinstance(report.table, list) else report.table.to_dict("records")
    assert [row["product"] for row in rows] == ["forward", "dx", "dw", "step"] * 2
    assert rows[0]["theory"] == 2.0 and rows[4]["theory"] == 4.0
    assert all(row["speedup"] > 0 and row["sparse_seconds"] > 0 for row in rows)
    if report.figure is not None:
        assert report.figure.axes[0].get_xlabel() == "theoretical speedup"


def test_wrong_arguments_are_named():
    for arguments, problem in [
        ({"tokens": 0}, "tokens: is 0"),
        ({"rounds": 0}, "rounds: must be"),
        ({"products": ["backward"]}, "must be one of forward"),
        ({"plan": "bf16:csr/csr/csr"}, "strategy 'csr' does not multiply|is of bf16"),
        ({"mask": "none"}, "must be one of random"),
    ]:
        with pytest.raises(ValueError, match=problem):
            mediswift.bench.layer([(8, 8)], [0.5], **{"tokens": 16, **arguments})
