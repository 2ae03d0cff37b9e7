"""The products on NumPy arrays, against dense ones in double precision; and what is refused."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp

import mediswift
from mediswift import Pattern, SparseMatrix, Tiles, draw_mask

SHAPES = [(1, 1), (7, 13), (16, 16), (33, 50), (64, 128), (130, 70)]


def weights(rows, columns, sparsity, seed=1):
    """A dense matrix and its pattern, with an empty row and an empty column where there is room."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, columns)) >= sparsity
    if rows > 3 and columns > 3:
        mask[2], mask[:, 3] = False, False
    return (rng.standard_normal((rows, columns)) * mask).astype(np.float32), mask


def close(found, expected, terms, unit=2.0**-24):
    """Equal within what rounding of so many terms makes of sums of numbers about one."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=16 * unit * max(terms, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("tokens", [(), (1,), (5,), (16,), (2, 19)])
def test_products_are_those_of_the_dense_matrix(shape, sparsity, tokens):
    rows, columns = shape
    dense, mask = weights(rows, columns, sparsity)
    w = SparseMatrix.from_dense(dense, mask)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((*tokens, columns)).astype(np.float32)
    dy = rng.standard_normal((*tokens, rows)).astype(np.float32)
    bias = rng.standard_normal(rows).astype(np.float32)
    exact = dense.astype(np.float64)
    close(w.forward(x, bias=bias), x @ exact.T + bias, columns)
    close(w.input_gradient(dy), dy @ exact, rows)
    outer = dy.reshape(-1, rows).astype(np.float64).T @ x.reshape(-1, columns)
    close(w.weight_gradient(dy, x), outer[mask], int(np.prod(tokens)))


@pytest.mark.parametrize("precision, unit", [("bf16", 2.0**-9), ("f16", 2.0**-12)])
def test_products_of_sixteen_bits_round_their_operands(precision, unit):
    dense, mask = weights(64, 96, 0.75)
    w = SparseMatrix.from_dense(dense, mask, precision=precision)
    assert w.precision == precision and w.plan.startswith(precision)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 96)).astype(np.float32)
    dy = rng.standard_normal((40, 64)).astype(np.float32)
    close(w.forward(x), x @ dense.T, 96 / 4, unit)
    close(w.input_gradient(dy), dy @ dense, 64 / 4, unit)
    close(w.weight_gradient(dy, x), (dy.T @ x)[mask], 40, unit)


def test_half_precision_rows_are_taken_and_given():
    dense, mask = weights(32, 48, 0.5)
    w = SparseMatrix.from_dense(dense, mask)
    x = np.random.default_rng(3).standard_normal((20, 48)).astype(np.float16)
    y = w.forward(x)
    assert y.dtype == np.float16
    close(y, x.astype(np.float64) @ dense.T, 48, 2.0**-12)
    out = np.empty((20, 32), np.float32)
    assert w.forward(x, out=out) is out
    close(out, x.astype(np.float64) @ dense.T, 48)


def test_results_depend_on_no_thread():
    dense, mask = weights(130, 200, 0.7)
    w = SparseMatrix.from_dense(dense, mask)
    x = np.random.default_rng(4).standard_normal((300, 200)).astype(np.float32)
    before, results = mediswift.num_threads(), []
    try:
        for threads in (1, 2, 5):
            mediswift.set_num_threads(threads)
            assert mediswift.num_threads() == threads
            y = w.forward(x)
            results.append((y, w.input_gradient(y), w.weight_gradient(y, x)))
    finally:
        mediswift.set_num_threads(before)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))
    for threads in (0, 1025):
        with pytest.raises(ValueError, match="from 1 to 1024"):
            mediswift.set_num_threads(threads)


def test_arrays_of_every_layout_are_read():
    dense, mask = weights(24, 40, 0.5)
    w = SparseMatrix.from_dense(dense, mask)
    wide = np.random.default_rng(5).standard_normal((30, 80)).astype(np.float32)
    expected = w.forward(np.ascontiguousarray(wide[::2, ::2]))
    assert np.array_equal(w.forward(wide[::2, ::2]), expected)
    assert np.array_equal(w.forward(np.asfortranarray(wide[::2, ::2])), expected)
    backwards = np.ascontiguousarray(wide[::2, ::2][::-1])[::-1]
    assert np.array_equal(w.forward(backwards), expected)
    unaligned = np.frombuffer(b"x" + wide[::2, ::2].tobytes(), np.uint8)[1:].view(np.float32)
    assert np.array_equal(w.forward(unaligned.reshape(15, 40)), expected)
    fixed = np.ascontiguousarray(wide[::2, ::2])
    fixed.flags.writeable = False
    assert np.array_equal(w.forward(fixed), expected)


class Lent:
    """An array that can only be had by DLPack."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()


def test_dlpack_is_read_without_a_copy_and_refused_from_elsewhere():
    dense, mask = weights(24, 40, 0.5)
    w = SparseMatrix.from_dense(Lent(dense), Lent(mask))
    x = np.random.default_rng(6).standard_normal((30, 40)).astype(np.float32)
    assert np.array_equal(w.forward(Lent(x)), w.forward(x))
    with pytest.raises(ValueError, match="x: lies on DLPack's device 2"):
        w.forward(Lent(x, (2, 0)))


def test_tiles_go_from_layer_to_layer():
    first = SparseMatrix.from_dense(*weights(50, 40, 0.5))
    second = SparseMatrix.from_dense(*weights(30, 50, 0.5))
    x = np.random.default_rng(7).standard_normal((21, 40)).astype(np.float32)
    bias = np.ones(50, np.float32)
    tiles = Tiles.of_rows(x, 40)
    assert tiles.shape == (21, 40)
    y = second.forward(first.forward(tiles, bias=bias))
    rows = np.empty((21, 30), np.float32)
    y.write_rows(rows)
    assert np.array_equal(rows, second.forward(first.forward(x, bias=bias)))
    dx = np.empty((21, 50), np.float32)
    second.input_gradient(y).write_rows(dx)
    assert np.array_equal(dx, second.input_gradient(rows))
    assert np.array_equal(first.weight_gradient(dx, tiles), first.weight_gradient(dx, x))
    for wrong in (lambda: second.forward(tiles), lambda: second.input_gradient(tiles)):
        with pytest.raises(ValueError, match="has 40 features"):
            wrong()
    with pytest.raises(ValueError, match="21 tokens"):
        first.weight_gradient(dx[:5], tiles)
    with pytest.raises(ValueError, match="out: has no meaning"):
        first.forward(tiles, out=rows)


def test_scipy_matrices_come_and_go():
    dense, mask = weights(20, 30, 0.8)
    for form in (sp.csr_matrix, sp.csr_array, sp.csc_matrix, sp.coo_array):
        w = SparseMatrix.from_scipy(form(dense))
        assert w.nnz == mask.sum()
        assert np.array_equal(w.to_scipy().toarray(), dense)
        assert np.array_equal(w.to_dense(), dense)
    # A zero that is written down is a weight.
    zero = sp.csr_array((np.zeros(1, np.float32), [2], [0, 1]), shape=(1, 3))
    assert SparseMatrix.from_scipy(zero).nnz == 1
    empty = SparseMatrix.from_scipy(sp.csr_array((3, 5), dtype=np.float32))
    assert np.array_equal(empty.forward(np.ones((2, 5), np.float32)), np.zeros((2, 3)))
    assert empty.weight_gradient(np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)).size == 0


def test_broken_scipy_matrices_are_refused():
    def csr(data, indices, indptr, shape=(2, 3)):
        matrix = sp.csr_matrix((2, 3), dtype=np.float32)
        matrix.data, matrix._shape = np.asarray(data, np.float32), shape
        matrix.indices, matrix.indptr = np.asarray(indices), np.asarray(indptr)
        return matrix

    for matrix, problem in [
        (csr([1, 2], [2, 0], [0, 2, 2]), "indices must increase"),
        (csr([1, 2], [1, 1], [0, 2, 2]), "indices must increase"),
        (csr([1], [3], [0, 1, 1]), "has column index 3"),
        (csr([1], [-1], [0, 1, 1]), "is -1 at 0"),
        (csr([1, 2], [0, 1], [0, 2, 1]), "must not decrease"),
        (csr([1], [0], [1, 1, 1]), "start at 1"),
        (csr([1], [0], [0, 1]), "2 row offsets"),
        (csr([1], [0], [0, 1, 9]), "last row offset is 9"),
        (csr([1], [0.0], [0, 1, 1]), "must have integers"),
        (csr([1, 2], [0], [0, 1, 1]), "2 elements, but must have 1"),
        (csr([1], [0], [0, 1, 1], (2**40, 3)), "does not fit 32-bit"),
        (sp.csr_matrix(np.eye(2, dtype=complex)), "complex128"),
    ]:
        with pytest.raises(ValueError, match=problem):
            SparseMatrix.from_scipy(matrix)
    with pytest.raises(TypeError, match="must be a SciPy"):
        SparseMatrix.from_scipy(np.eye(2))


def test_wrong_arguments_are_named():
    dense, mask = weights(24, 40, 0.5)
    w = SparseMatrix.from_dense(dense, mask)
    x = np.ones((3, 40), np.float32)
    for call, error, problem in [
        (lambda: w.forward(x[:, :39]), ValueError, r"x: has shape \(3, 39\)"),
        (lambda: w.forward(np.ones((), np.float32)), ValueError, "x: has "),
        (lambda: w.forward(x.astype(np.float64)), ValueError, "x: has elements of float64"),
        (lambda: w.forward(x.astype(">f4")), ValueError, "x: has elements of >f4"),
        (lambda: w.forward(x.astype(np.uint16)), ValueError, "x: has elements of uint16"),
        (lambda: w.forward([[1.0] * 40]), TypeError, "x: is a list"),
        (lambda: w.forward(None), TypeError, "x: is a NoneType"),
        (lambda: w.forward(x, bias=np.ones(23, np.float32)), ValueError, "bias: has 23 elements"),
        (lambda: w.forward(x, out=np.ones((3, 25), np.float32)), ValueError, "out: has shape"),
        (lambda: w.forward(x, out=np.ones((3, 24))), ValueError, "out: has elements of float64"),
        (
            lambda: w.forward(x, out=np.ones((24, 3), np.float32).T),
            ValueError,
            "out: is not contiguous",
        ),
        (lambda: w.input_gradient(x), ValueError, r"dy: has shape \(3, 40\)"),
        (
            lambda: w.weight_gradient(np.ones((4, 24), np.float32), x),
            ValueError,
            r"x: has tokens \(3,\), but dy has \(4,\)",
        ),
        (lambda: SparseMatrix(w.pattern, np.ones(3)), ValueError, "values: has 3 elements"),
        (lambda: SparseMatrix(w.pattern, w.values, precision="f64"), ValueError, "unknown precision"),
        (lambda: SparseMatrix(w.pattern, w.values, plan="fast"), ValueError, "'fast' is no plan"),
        (lambda: SparseMatrix.from_dense(dense[0]), ValueError, "weights: has 1 dimensions"),
    ]:
        with pytest.raises(error, match=problem):
            call()
    fixed = np.ones((3, 24), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        w.forward(x, out=fixed)
    square = SparseMatrix.from_dense(np.eye(8, dtype=np.float32))
    both = np.ones((3, 8), np.float32)
    with pytest.raises(ValueError, match="shares its memory"):
        square.forward(both, out=both)
    # Two arrays of one memory that know nothing of each other.
    memory = bytearray(8 * 4)
    one, other = (np.frombuffer(memory, np.float32).reshape(1, 8) for _ in range(2))
    with pytest.raises(ValueError, match="shares its memory"):
        square.forward(one, out=other)


def test_masks():
    for name in mediswift.mask_names():
        pattern = draw_mask(name, 64, 128, 0.75, seed=3)
        assert pattern.shape == (64, 128) and pattern.nnz == 2048 and pattern.sparsity == 0.75
        assert pattern == draw_mask(name, 64, 128, 0.75, seed=3)
        assert pattern == Pattern.of_mask(pattern.to_mask())
        assert pattern == Pattern(64, 128, pattern.row_offsets, pattern.column_indices)
    assert draw_mask("random", 64, 128, 0.75, seed=3) != draw_mask("random", 64, 128, 0.75, seed=4)
    dense = np.ones((4, 4), np.float32)
    mask = np.ones((4, 4), np.float32)
    mask[1, 2] = np.nan
    for bad, problem in [
        (mask, r"NaN at \(1, 2\)"),
        (np.ones((4, 3)), r"mask: has shape \(4, 3\)"),
        (np.ones(4), "1 dimensions"),
        (np.full((4, 4), "a"), "must have booleans"),
    ]:
        with pytest.raises(ValueError, match=problem):
            SparseMatrix.from_dense(dense, bad)
    for arguments, problem in [
        (("nonsense", 4, 4, 0.5), "must be one of random"),
        (("random", 4, 4, 1.0), r"must lie in \[0, 1\)"),
        (("random", 4, 4, float("nan")), r"must lie in \[0, 1\)"),
        (("random", 2**40, 4, 0.5), "must be at most"),
        (("random", 2**20, 2**20, 0.5), "32-bit indices"),
    ]:
        with pytest.raises(ValueError, match=problem):
            draw_mask(*arguments)
    with pytest.raises(OverflowError):
        draw_mask("random", -1, 4, 0.5)


def test_plans_are_names_that_can_be_kept(tmp_path):
    dense, mask = weights(48, 64, 0.75)
    tuned = SparseMatrix.from_dense(dense, mask, plan="tuned")
    again = SparseMatrix.from_dense(dense, mask, plan=tuned.plan)
    assert again.plan == tuned.plan
    x = np.random.default_rng(8).standard_normal((50, 64)).astype(np.float32)
    assert np.array_equal(tuned.forward(x), again.forward(x))
    assert SparseMatrix.from_dense(dense, mask, plan="csr/csr/csr").plan == "csr/csr/csr"
    path = tmp_path / "plans.toml"
    mediswift.save_plans(path, [tuned])
    assert mediswift.load_plans(path) == {f"48x64@{tuned.nnz}": tuned.plan}
    with pytest.raises(FileNotFoundError, match="nowhere.toml"):
        mediswift.load_plans(tmp_path / "nowhere.toml")
    path.write_text("[[[")
    with pytest.raises(ValueError, match="plans.toml"):
        mediswift.load_plans(path)


def test_values_can_be_changed():
    dense, mask = weights(48, 64, 0.75)
    w = SparseMatrix.from_dense(dense, mask)
    x = np.random.default_rng(9).standard_normal((50, 64)).astype(np.float32)
    y = w.forward(x)
    w.values = 2 * w.values
    assert np.array_equal(w.forward(x), 2 * y)
    assert np.array_equal(w.to_dense(), 2 * dense)
    again = pickle.loads(pickle.dumps(w))
    assert again.plan == w.plan and np.array_equal(again.forward(x), w.forward(x))


def test_threads_may_call_at_once_and_arrays_change_meanwhile():
    dense, mask = weights(256, 256, 0.75)
    w = SparseMatrix.from_dense(dense, mask)
    x = np.random.default_rng(10).standard_normal((256, 256)).astype(np.float32)
    expected, failures, stop = w.forward(x), [], threading.Event()

    def call():
        for _ in range(40):
            if not np.array_equal(w.forward(x), expected):
                failures.append("another result")

    scribbled = x.copy()

    def scribble():
        while not stop.is_set():
            scribbled[:] = np.nan
            scribbled[:] = 1.0

    writer = threading.Thread(target=scribble)
    writer.start()
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        w.weight_gradient(w.forward(scribbled), scribbled)
    for thread in threads:
        thread.join()
    stop.set()
    writer.join()
    assert not failures


def test_one_array_is_written_by_one_call_at_a_time():
    w = SparseMatrix.from_dense(*weights(512, 512, 0.5))
    x = np.ones((512, 512), np.float32)
    out, expected = np.empty_like(x), w.forward(x)
    refused = []

    def call():
        for _ in range(20):
            try:
                w.forward(x, out=out)
            except ValueError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("shares its memory" in problem for problem in refused)
    assert np.array_equal(out, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_computes_with_threads_of_its_own():
    w = SparseMatrix.from_dense(*weights(64, 64, 0.5))
    x = np.ones((40, 64), np.float32)
    expected = w.forward(x)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map_async(forward_of, [(w.to_dense(), x)] * 4).get(timeout=60)
    assert all(np.array_equal(y, expected) for y in results)
    assert np.array_equal(w.forward(x), expected)


def forward_of(arguments):
    dense, x = arguments
    return SparseMatrix.from_dense(dense).forward(x)


def test_a_wrong_instruction_set_is_an_exception():
    code = "import mediswift; mediswift.instruction_set()"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MEDISWIFT_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1 and "ValueError: unknown instruction set 'mmx'" in ran.stderr


def test_ten_thousand_calls_hold_no_memory():
    resource = pytest.importorskip("resource")
    w = SparseMatrix.from_dense(*weights(64, 64, 0.75))
    x = np.ones((128, 64), np.float32)

    def calls(count):
        for _ in range(count):
            y = w.forward(x)
            w.input_gradient(y)
            w.weight_gradient(y, x)
            Tiles.of_rows(x, 64)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = calls(500)
    # In KiB: one array of every call would be 320 MB and more.
    assert calls(2500) - before < 8 << 10
