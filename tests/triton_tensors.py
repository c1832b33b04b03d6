"""Tensors for tests of Triton kernels: numbers without zeros, any bits at all, and room between guards."""

import math

import torch

GUARD_BYTES = 64


def made(*shape, dtype=torch.float32, seed=0):
    """Numbers without a single zero, not even once rounded to whole ones."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (numbers + numbers.sign()).to(dtype)


def any_bits(*shape, dtype=torch.float32, seed=0):
    """Any stored bits at all: NaN, infinity, subnormals and -0.0 among them."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize), generator=generator)
    return raw.to(torch.uint8).view(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


class Room:
    """Room for a result between guards, all bytes of it 0xFF: NaN where numbers belong, and no code that a test expects."""

    def __init__(self, shape, dtype, device):
        n_bytes = math.prod(shape) * dtype.itemsize
        self.whole = torch.full((n_bytes + 2 * GUARD_BYTES,), 0xFF, dtype=torch.uint8, device=device)
        self.tensor = self.whole[GUARD_BYTES : GUARD_BYTES + n_bytes].view(dtype).view(shape)

    def taken(self):
        """Give the result, once nothing around it was written."""
        assert (self.whole[:GUARD_BYTES] == 0xFF).all()
        assert (self.whole[-GUARD_BYTES:] == 0xFF).all()
        return self.tensor.cpu()


def between_nan(tensor, device):
    """Copy to a device, between NaN: what a kernel reads beside it shows."""
    guard = GUARD_BYTES // tensor.dtype.itemsize
    whole = torch.full((tensor.numel() + 2 * guard,), torch.nan, dtype=tensor.dtype, device=device)
    return whole[guard : guard + tensor.numel()].view(tensor.shape).copy_(tensor)
