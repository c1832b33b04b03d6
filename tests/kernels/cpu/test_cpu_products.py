"""Every kernel against the same product in float64, and what may not reach a result."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import nmsim
from kernels import cpu
from kernels.cpu import compiled

PATTERNS = ("2:4", "4:8", "8:16", "16:32")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDOFF = 2.0**-24


def made(dtype, rows, k, tokens, seed=0):
    """Weights and tokens without a single zero."""
    rng = np.random.default_rng([seed, rows, k, tokens])
    w = rng.standard_normal((rows, k)).astype(np.float32)
    return (w + np.sign(w)).astype(DTYPES[dtype]), rng.standard_normal((tokens, k)).astype(np.float32)


def gate(y, dense, x):
    """Refuse a result that is further from the exact one than float32 sums of K terms can be."""
    w, x = dense.astype(np.float64), x.astype(np.float64)
    error = np.abs(y.astype(np.float64) - x @ w.T)
    bound = x.shape[-1] * ROUNDOFF * (np.abs(x) @ np.abs(w).T)
    assert (error <= bound).all(), f"largest error is {np.max(error / bound):.3g} of the bound"


TOKENS = (1, 2, 3, 4, 5, 8, 16)


def cases(per_case):
    """Every pattern, encoding and dtype; the numbers of tokens take turns."""
    every = list(itertools.product(PATTERNS, ENCODINGS, DTYPES))
    return [
        (*case, tuple(TOKENS[(turn + 3 * i) % len(TOKENS)] for i in range(per_case)))
        for turn, case in enumerate(every)
    ]


@pytest.mark.parametrize(("pattern", "encoding", "dtype", "tokens"), cases(2))
@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_products_are_as_exact_as_float32_sums(isa, pattern, encoding, dtype, tokens):
    for count, (rows, k), threads in zip(tokens, ((7, 100), (66, 256)), (1, 2), strict=True):
        dense, x = made(dtype, rows, k, count)
        w = cpu.compress(dense, f"{pattern}/{encoding}")
        out = np.full((count, rows), np.nan, np.float32)
        assert cpu.matmul(x, w, isa=isa, threads=threads, out=out) is out
        gate(out, cpu.decompress(w), x)


@pytest.mark.parametrize(("pattern", "encoding", "dtype", "tokens"), cases(1))
def test_what_avx512_does_is_right_in_generic_instructions(pattern, encoding, dtype, tokens):
    dense, x = made(dtype, 7, 100, tokens[0])
    w = cpu.compress(dense, f"{pattern}/{encoding}")
    out = np.full((7, tokens[0]), np.nan, np.float32)
    compiled.sparse(w, x, "generic")(slice(0, 7), out)
    gate(out.T, cpu.decompress(w), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_dense_products(isa, dtype):
    for rows, k, tokens, threads in (
        (1, 5, 1, 1),
        (7, 100, 2, 2),
        (70, 64, 4, 2),
        (9, 33, 5, 1),
        (33, 48, 16, 2),
    ):
        dense, x = made(dtype, rows, k, tokens)
        gate(cpu.dense_matmul(x, dense, isa=isa, threads=threads), dense, x)


@pytest.mark.parametrize("pattern", ["1:1", "1:2", "3:7", "5:32", "1:4", "16:31"])
def test_any_pattern_up_to_32_is_multiplied(pattern):
    dense, x = made("float16", 5, 50, 3)
    for encoding in ENCODINGS:
        w = cpu.compress(dense, f"{pattern}/{encoding}")
        gate(cpu.matmul(x, w, threads=2), cpu.decompress(w), x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 3), (4, 17), (257, 16)])
def test_odd_shapes(shape):
    dense, x = made("float32", *shape, 1)
    w = cpu.compress(dense, "8:16/index")
    y = cpu.matmul(x[0], w, threads=2)
    assert y.shape == shape[:1]
    gate(y, cpu.decompress(w), x[0])


@pytest.mark.parametrize("tokens", [17, 37])
def test_more_tokens_than_a_kernel_takes_and_none(tokens):
    dense, x = made("bfloat16", 9, 96, tokens)
    w = cpu.compress(dense, "4:8/bitmask")
    gate(cpu.matmul(x, w), cpu.decompress(w), x)
    assert cpu.matmul(x[:0], w).shape == (0, 9)
    assert cpu.dense_matmul(x[:0], dense).shape == (0, 9)


def test_x_of_the_weights_type_and_of_any_memory_order():
    dense, x = made("bfloat16", 6, 64, 4)
    w = cpu.compress(dense, "8:16")
    narrow = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(cpu.matmul(narrow, w), cpu.matmul(narrow.astype(np.float32), w))
    wide = np.repeat(x, 2, axis=1)
    assert np.array_equal(cpu.matmul(wide[:, ::2], w), cpu.matmul(x, w))
    assert np.array_equal(cpu.matmul(np.asfortranarray(x), w), cpu.matmul(x, w))
    raw = np.zeros(x.nbytes + 4, np.uint8)
    shifted = raw[1 : 1 + x.nbytes].view(np.float32).reshape(x.shape)
    shifted[:] = x
    assert np.array_equal(cpu.matmul(shifted, w), cpu.matmul(x, w))
    assert np.array_equal(cpu.matmul(shifted[0], w), cpu.matmul(x[0], w))


def test_addresses_are_those_of_numpy():
    array = np.ones((3, 5), np.float32)
    fixed, shifted = array.copy(), np.zeros(61, np.uint8)[1:].view(np.float32)
    fixed.flags.writeable = False
    for each in (array, array[1:], array[:, 1:], fixed, shifted, array.astype(ml_dtypes.bfloat16)):
        assert compiled.address(each) == each.ctypes.data


def test_products_of_other_weights_in_the_same_place_are_their_own():
    for seed in range(4):
        dense, x = made("float32", 8, 64, 1, seed)
        gate(cpu.matmul(x, cpu.compress(dense, "8:16")), cpu.decompress(cpu.compress(dense, "8:16")), x)


def test_threads_do_not_change_a_bit():
    dense, x = made("float16", 301, 96, 8)
    w = cpu.compress(dense, "2:4/combinatorial")
    assert np.array_equal(cpu.matmul(x, w, threads=1), cpu.matmul(x, w, threads=3))


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(
    ("pattern", "encoding"), [("2:4", "bitmask"), ("4:8", "index"), ("8:16", "bitmask"), ("16:32", "index")]
)
@pytest.mark.parametrize("isa", [*cpu.instruction_sets(), "generic"])
def test_a_dropped_element_of_x_may_be_anything(isa, pattern, encoding, tokens):
    dense, x = made("float32", 5, 90, tokens)
    dense[1:] = dense[0]  # one mask for all rows
    w = cpu.compress(dense, f"{pattern}/{encoding}")
    dropped = ~nmsim.prune(dense, pattern)[0]
    odd, plain = x.copy(), x.copy()
    odd[:, dropped] = np.resize(np.array([np.inf, np.nan, -np.inf, 1e-45, -0.0], np.float32), dropped.sum())
    plain[:, dropped] = 0
    if isa == "generic":
        results = []
        for part in (odd, plain):
            results.append(np.empty((5, tokens), np.float32))
            compiled.sparse(w, part, isa)(slice(0, 5), results[-1])
    else:
        results = [cpu.matmul(part, w, isa=isa) for part in (odd, plain)]
    assert np.isfinite(results[0]).all()
    assert np.array_equal(*results)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_values_go_through_arithmetic(isa, dtype):
    dense = np.zeros((4, 32), DTYPES[dtype])
    tiny = (
        np.finfo(np.float16).smallest_subnormal if dtype == "float16" else ml_dtypes.finfo(DTYPES[dtype]).tiny
    )
    dense[0, 3], dense[1, 9], dense[2, 31], dense[3, 0] = tiny, np.inf, np.nan, -0.0
    for encoding in ENCODINGS:
        w = cpu.compress(dense, f"8:16/{encoding}", mask=nmsim.prune(dense, "8:16", bit_order=True))
        y = cpu.matmul(np.ones(32, np.float32), w, isa=isa)
        assert y[0] == np.float32(tiny)
        assert y[1] == np.inf
        assert np.isnan(y[2])
        assert y[3] == 0
        kept = cpu.matmul(np.full(32, np.inf, np.float32), w, isa=isa)
        assert np.isnan(kept).all()  # a stored zero times infinity, as anywhere


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_the_gate_sees_one_wrong_code_and_one_wrong_value(isa):
    dense, x = made("float32", 8, 64, 1)
    w = cpu.compress(dense, "8:16/bitmask")
    truth = cpu.decompress(w)
    gate(cpu.matmul(x, w, isa=isa), truth, x)
    metadata, values = w.metadata.copy(), w.values.copy()
    metadata[3, :2] = metadata[3, :2][::-1] if metadata[3, 0] != metadata[3, 1] else [0x0F, 0xF0]
    values[5, 7] *= 1.001
    for wrong in ((values, w.metadata), (w.values, metadata)):
        broken = cpu.SparseWeights(*wrong, w.format, w.shape)
        with pytest.raises(AssertionError, match="of the bound"):
            gate(cpu.matmul(x, broken, isa=isa), truth, x)
