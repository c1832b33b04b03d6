"""What `kernels.ops.sparse_linear` does on the CPU: the roads of a product, and memory that kernels may read beyond its end."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import cpu
from kernels.cpu import SparseWeights
from kernels.stored.rows import SLACK_BYTES, STEP_ELEMS, aligned
from kernels.stored.tensors import as_tensor
from nmsim.units import ceil_div

MANY_TOKENS = 512
"""From so many on the weights are unpacked and multiplied by torch. On one Zen 3 core the two roads met there for 16:32
and 8:16 (4096 in, 2048 out features, float32); for 2:4 the kernels were still 1.2 times as fast."""
MANY_TOKENS_PORTABLE = 32
"""The same where plain loops serve: no AVX2, or a pattern without a kernel of its own. On that core the roads met there
for 1:4; for 8:16 without AVX2 unpacking was twice as fast already."""
SERIAL_MACS = 1 << 17
"""Smaller products stay on the calling thread: on that machine, waking another took 70 microseconds, as long as these."""
PAGE_BYTES = 4096
"""Memory is readable or not by whole pages of at least so many bytes."""


def multiply(tokens: Tensor, weights: SparseWeights) -> Tensor:
    """Choose the road, kernels or torch: float32 [T, K] -> float32 [T, N]."""
    many = len(tokens) >= MANY_TOKENS
    if not many and len(tokens) >= MANY_TOKENS_PORTABLE:
        many = weights.pattern not in STEP_ELEMS or cpu.instruction_sets()[0] == "portable"
    if many:
        return torch.nn.functional.linear(tokens, dense(weights).float())
    return torch.from_numpy(_multiply_arrays(tokens.numpy(), weights))


def dense(weights: SparseWeights) -> Tensor:
    """Unpack: -> [N, K], kept values bit for bit."""
    return as_tensor(cpu.unpack(weights, threads=torch.get_num_threads()))


def _multiply_arrays(x: NDArray[Any], weights: SparseWeights) -> NDArray[np.float32]:
    """Multiply by the kernels of `kernels.cpu`, which read some bytes behind the last row.

    A tensor's memory may end with its last byte. Then the last rows are copied to where there is room.
    """
    macs = len(x) * weights.values.size
    threads = 1 if macs < SERIAL_MACS else torch.get_num_threads()
    stored = (weights.values, weights.metadata)
    if all(_same_page_goes_on(part) for part in stored):
        return cpu.matmul(x, weights, threads=threads)
    last = max(ceil_div(SLACK_BYTES, max(1, part[0].nbytes)) for part in stored)
    rows = weights.shape[0]
    split = max(0, rows - last)
    y = np.empty((len(x), rows), np.float32)
    if split:
        y[:, :split] = cpu.matmul(x, _some_rows(weights, *(part[:split] for part in stored)), threads=threads)
    y[:, split:] = cpu.matmul(x, _some_rows(weights, *(_with_room(part[split:]) for part in stored)))
    return y


def _same_page_goes_on(part: NDArray[Any]) -> bool:
    """Whether what kernels read behind the last byte lies in the same page of memory, and so is readable."""
    end = part.ctypes.data + part.nbytes
    return (end - 1) // PAGE_BYTES == (end + SLACK_BYTES - 1) // PAGE_BYTES


def _some_rows(weights: SparseWeights, values: NDArray[Any], metadata: NDArray[np.uint8]) -> SparseWeights:
    return replace(weights, values=values, metadata=metadata, shape=(len(values), weights.shape[1]))


def _with_room(part: NDArray[Any]) -> NDArray[Any]:
    copy = aligned(part.shape, part.dtype)
    copy[:] = part
    return copy
