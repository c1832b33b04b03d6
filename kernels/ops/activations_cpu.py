"""What `kernels.ops.activations` does on the CPU: numpy's pruning and packing, torch's statistics and product."""

import torch
from torch import Tensor

import nmsim
from kernels import cpu
from kernels.stored.nm_weight import as_sparse
from kernels.stored.tensors import as_array, as_tensor
from nmsim.pattern import Pattern

LEAST_VARIANCE = 1e-9
"""The variance of what is kept counts as at least so much, as in the authors' code."""


def prune_on_cpu(
    x: Tensor,
    pattern: Pattern,
    encoding: str,
    shift: str,
    constant: float,
    channels: Tensor | None,
    vector: Tensor | None,
    variance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prune tokens [T, K], T at least 1: values, metadata, eta [T], v [T]."""
    eta = x.new_full((len(x),), constant, dtype=torch.float32)
    if shift == "mean":
        eta = x.mean(dim=1, dtype=torch.float32)
    elif shift == "median":
        eta = x.float().median(dim=1).values
    moved = stored = x
    if shift != "none":
        moved = x.float() - (eta[:, None] if channels is None else channels)
        stored = moved.to(x.dtype)
    keys = moved
    if shift != "none" or vector is not None:
        keys = moved.float() if vector is None else moved.float() * vector
        keys = keys.masked_fill(keys.isnan(), torch.nan)
    mask = nmsim.prune(as_array(keys), pattern)
    packed = cpu.pack(as_array(stored), pattern, encoding, mask, threads=torch.get_num_threads())
    v = torch.ones_like(eta)
    if variance:
        kept = moved.float().where(torch.from_numpy(mask), 0)
        v = (moved.float().var(dim=1) / kept.var(dim=1).clamp(min=LEAST_VARIANCE)).sqrt()
    return as_tensor(packed.values), as_tensor(packed.metadata), eta, v


def multiply_on_cpu(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    pattern: Pattern,
    encoding: str,
    *,
    v: Tensor | None,
    eta: Tensor | None,
    row_sums: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Unpack, multiply by torch in float32, and round once: [T, O]."""
    packed = as_sparse(values, metadata, pattern, encoding, weight.shape[1])
    y = as_tensor(cpu.unpack(packed, threads=torch.get_num_threads())).float() @ weight.float().T
    if v is not None:
        y *= v[:, None]
    if eta is not None and row_sums is not None:
        y += torch.outer(eta, row_sums)
    if scale is not None:
        y *= 1 + scale
    if bias is not None:
        y += bias
    return y.to(values.dtype)
