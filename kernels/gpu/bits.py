"""Device functions that kernels share, and the constants that the host gives them for a pattern and its codes.

Values travel as the integers of their bits: bfloat16, which the interpreter gets wrong, then needs shifts only, and NaN
is stored as it came.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from math import comb
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.stored.errors import KernelError
from kernels.stored.rows import row_lengths
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
WARP_THREADS = 32
ENCODINGS = ("bitmask", "index", "combinatorial")
"""Those that kernels here read and write."""
KINDS = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "e4m3",
    torch.int8: "int8",
}


@triton.jit
def as_float(raw: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Read stored bits as a number, in float32: exact."""
    if KIND == "bfloat16":
        number = (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif KIND == "float16":
        number = raw.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        number = raw.to(tl.float32, bitcast=True)
    return number


@triton.jit
def as_bits(number: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Round float32 once, to the nearest and to even, and give the bits to store."""
    if KIND == "bfloat16":
        wide = number.to(tl.uint32, bitcast=True)
        rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
        raw = tl.where(number != number, 0x7FC0, rounded).to(tl.int16)
    elif KIND == "float16":
        raw = number.to(tl.float16).to(tl.int16, bitcast=True)
    else:
        raw = number.to(tl.int32, bitcast=True)
    return raw


@triton.jit
def ones_of(word: tl.tensor) -> tl.tensor:
    """Count the ones of uint32 words."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


def about(format: SparseFormat, k: int) -> dict[str, Any]:
    """Name the constants of kernels that read or write codes.

    Raises
    ------
    KernelError
        An encoding that these kernels do not know.
    """
    if format.encoding.name not in ENCODINGS:
        raise KernelError(
            f"{format}: kernels on a GPU read one of {', '.join(ENCODINGS)}, got {format.encoding.name}"
        )
    pattern = format.pattern
    values_columns, metadata_columns = row_lengths(format, k)
    groups = values_columns // pattern.n
    return {
        "N": pattern.n,
        "M": pattern.m,
        "LANES": triton.next_power_of_2(pattern.m),
        "ENCODING": format.encoding.name,
        "CODE_BITS": metadata_columns * 8 // groups,
        "POSITION_BITS": (pattern.m - 1).bit_length(),
    }


def code_table(format: SparseFormat, device: torch.device) -> Tensor | None:
    """Give the table that codes of a format are read and written with: of `combinatorial` only."""
    return binomials(format.pattern, device) if format.encoding.name == "combinatorial" else None


@lru_cache(maxsize=64)
def binomials(pattern: Pattern, device: torch.device) -> Tensor:
    """Tabulate C(p, i), p < M and i <= N, at p (N + 1) + i: int32 [M (N + 1)], made once a device."""
    table = [comb(p, i) for p in range(pattern.m) for i in range(pattern.n + 1)]
    return torch.tensor(table, dtype=torch.int32, device=device)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Have Triton launch where a tensor is; in main memory, where that means nothing, do nothing."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def refuse_interpreted_bfloat16(values: Tensor) -> None:
    """Refuse what Triton's interpreter multiplies wrongly: it takes the bits of bfloat16 for integers.

    Raises
    ------
    KernelError
        bfloat16, in a process that interprets.
    """
    if triton.knobs.runtime.interpret and values.dtype == torch.bfloat16:
        raise KernelError(
            "values have dtype torch.bfloat16, whose products Triton's interpreter gets wrong: expected torch.float32 or "
            "torch.float16, or a CUDA device and TRITON_INTERPRET unset"
        )
