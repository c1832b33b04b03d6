"""Least traffic of each family beside the bytes of real arrays, packed by nmsim or counted one by one."""

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.families import FAMILIES, Rows
from nmsim import compress

M, N, K = 3, 32, 96
HALF, SINGLE = np.float16, np.float32


def rows_of(dtype, pattern, density, **sizes):
    cells = {
        "M": M,
        "N": N,
        "K": K,
        "dtype": dtype,
        "pattern": pattern,
        "density": density,
        "l2_state": "warm",
    }
    return Rows(pd.DataFrame([cells | sizes]), hwmodels.load_machine("a100"), constants.load())


def weights(type_, columns=K):
    return np.random.default_rng(0).standard_normal((N, columns)).astype(type_)


def others_bytes(type_, columns=K):
    """X[M, columns] and Y[M, N], which has 32 bits for 32-bit values and else 16."""
    return np.zeros((M, columns), type_).nbytes + np.zeros((M, N), SINGLE if type_ is SINGLE else HALF).nbytes


def packed_bytes(matrix):
    packed = compress(matrix, "2:4/index")
    return packed.values.nbytes + packed.metadata.nbytes


def windows_of(row, half):
    """Lift a row: windows of 4 elements, 2 apart, over each group of 2 `half` elements."""
    lifted = []
    for start in range(0, len(row), 2 * half):
        group = row[start : start + 2 * half]
        lifted += [group[2 * place : 2 * place + 4] for place in range(half - 1)]
    return np.concatenate(lifted)


def test_dense_bytes_are_those_of_three_arrays():
    for dtype, type_ in (("fp16", HALF), ("fp32", SINGLE)):
        found = rows_of(dtype, None, 1.0).dense_bytes().item()
        assert found == weights(type_).nbytes + others_bytes(type_)


@pytest.mark.parametrize("columns", [96, 98])
def test_the_library_reads_a_packed_2_4_matrix(columns):
    """98 is no multiple of 4: the last group is whole in the packed matrix, and in the formula."""
    found = FAMILIES["library"](rows_of("fp16", "2:4", 0.5, K=columns)).sparse_bytes.item()
    assert found == packed_bytes(weights(HALF, columns)) + others_bytes(HALF, columns)


@pytest.mark.parametrize(("pattern", "half"), [("4:6", 3), ("6:8", 4), ("14:16", 8)])
def test_sliding_windows_read_a_longer_packed_matrix_and_a_longer_operand(pattern, half):
    lifted = np.stack([windows_of(row, half) for row in weights(HALF)])
    found = FAMILIES["sliding"](rows_of("fp16", pattern, 1 - 1 / half)).sparse_bytes.item()
    assert found == packed_bytes(lifted) + others_bytes(HALF, lifted.shape[1])


def test_chosen_columns_shorten_the_weights_and_not_the_other_operand():
    """V:2:8 keeps 4 of 8 columns of a block of rows, then 2:4 among them."""
    chosen = weights(HALF).reshape(N, K // 8, 8)[:, :, :4].reshape(N, K // 2)
    found = FAMILIES["column-nm"](rows_of("fp16", "2:8", 0.25)).sparse_bytes.item()
    assert found == packed_bytes(chosen) + others_bytes(HALF)


def kept(type_, density):
    """A matrix with exactly this share of elements other than 0."""
    flat = weights(type_).ravel()
    flat[np.random.default_rng(1).permutation(flat.size)[int(density * flat.size) :]] = 0
    return flat.reshape(N, K)


def test_csr_has_an_index_of_16_bits_per_value():
    matrix = kept(SINGLE, 0.125)
    columns = np.nonzero(matrix)[1].astype(np.uint16)
    found = FAMILIES["csr"](rows_of("fp32", None, 0.125)).sparse_bytes.item()
    assert found == matrix[matrix != 0].nbytes + columns.nbytes + others_bytes(SINGLE)


def test_deltas_are_half_a_byte_per_value():
    matrix = kept(HALF, 0.5)
    halves = sum(1 for value in matrix.ravel() if value)
    found = FAMILIES["delta-gemv"](rows_of("fp16", None, 0.5)).sparse_bytes.item()
    assert found == matrix[matrix != 0].nbytes + halves / 2 + others_bytes(HALF)


def test_vector_masks_store_the_kept_values():
    values = weights(SINGLE).reshape(N, K // 4, 4)[:, :, :1]
    found = FAMILIES["vector-nm"](rows_of("fp32", "1:4", 0.25)).sparse_bytes.item()
    assert found == values.nbytes + others_bytes(SINGLE)


@pytest.mark.parametrize("family", ["auto", "software"])
def test_own_kernels_move_what_predict_counts(family):
    packed = compress(weights(HALF), "8:16/combinatorial")
    cells = {
        "M": M, "N": N, "K": K, "dtype": "fp16", "baseline_dtype": "fp16", "pattern": "8:16", "kernel_family": family,
        "density": 0.5, "l2_state": "", "phase": "decode", "encoding": "combinatorial", "packing": "bitstream",
        "sparse_operand": "weights",
    }  # fmt: skip
    found = hwmodels.predict_rows(pd.DataFrame([cells]), "a100").iloc[0]
    assert found["sparse_bytes"] == packed.values.nbytes + packed.metadata.nbytes + others_bytes(HALF)
    assert found["dense_bytes"] == weights(HALF).nbytes + others_bytes(HALF)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_cache_spares_the_memory_and_no_traffic(family):
    """Least traffic is what the kernel reads and writes, wherever it lies."""
    dtype = "fp32" if family in ("csr", "vector-nm") else "fp16"
    warm = rows_of(dtype, "2:4", 0.5)
    cold = rows_of(dtype, "2:4", 0.5, l2_state="")
    assert FAMILIES[family](warm).sparse_bytes == FAMILIES[family](cold).sparse_bytes > 0
