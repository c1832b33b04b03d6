"""What the tests of foreign formats share: the tool whose bytes count, and weights with exactly N non-zeros per group."""

import warnings

import ml_dtypes
import numpy as np
import pytest

TORCH_OF = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "I8": "int8", "F8_E4M3": "float8_e4m3fn"}


@pytest.fixture(scope="session")
def ct():
    """compressed-tensors 0.14.0.1; torch warns of its own deprecations when it is imported."""
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("compressed_tensors")


@pytest.fixture(scope="session")
def make_weight():
    """A function that makes weights [rows, columns] of a safetensors dtype with at most N non-zeros per M."""

    def make(rows, columns, *, n=2, m=4, dtype="F16", seed=0, empty=False):
        draw = np.random.default_rng(seed)
        order = np.argsort(draw.random((rows, -(-columns // m), m)), axis=2)
        mask = (order < n).reshape(rows, -1)[:, :columns]
        # Magnitudes that no type rounds to zero, all different within a group as far as eight bits allow.
        magnitude = draw.permuted(np.tile(np.arange(1, 17), (rows, -(-columns // 16))), axis=1)[:, :columns]
        values = magnitude * draw.choice([-1, 1], (rows, columns)) * mask
        if empty:
            values[:, : 2 * m] = 0
        kinds = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "I8": np.int8}
        return values.astype(kinds.get(dtype, ml_dtypes.float8_e4m3fn))

    return make


def to_torch(array):
    """The tensor with the same bytes."""
    import torch

    codes = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}
    kind = codes.get(array.dtype.name)
    if kind is None:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.view(f"u{array.dtype.itemsize}").copy()).view(kind)


@pytest.fixture(scope="session")
def as_torch():
    """`to_torch`, for tests."""
    return to_torch
