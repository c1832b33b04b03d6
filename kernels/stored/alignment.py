"""Where tensors may begin in memory: kernels read words, and a word at an odd place stops a CUDA device.

What each kernel needs, in bytes, and what the operators ask. A GPU kernel reads by the width given here; Triton makes loads
wider only where an address and all steps from it are known to be multiples of 16.

* `kernels.cpu`: values an element, metadata 4 (codes of 16:32 are words of 32 bits), dense operands any place.
* `gpu.gemm`, `gpu.unpack`, `gpu.sparse_activations`: values 4 where they are read by pairs (`reads_pairs`), else an element;
  metadata 1, 2 or 4, a word of codes; dense operands an element.
* `gpu.gemv`: values 4, pairs; metadata 2, 4 or 8, the widest plane; x an element, and moved to where it lies right.
* `gpu.skip_gemv`: values and dense operands an element, metadata 1, 2 or 4.
* `gpu.prune`, `gpu.pack`: an element of what is pruned or packed. What they write lies where torch puts it.

Of packed metadata all operators ask 4, so that what one takes the others take. None of this is asked of tensors without memory.
"""

from torch import Tensor

from kernels.cpu import KernelError
from kernels.ops import triton_kernels
from kernels.stored.rows import STEP_ELEMS
from nmsim.pattern import Pattern

WORD_BYTES = 4
"""A pair of 16-bit values, and the widest word of codes in packed rows."""


def check_begin(name: str, tensor: Tensor, needed_bytes: int) -> None:
    """Refuse a tensor that does not begin at a multiple of so many bytes.

    Raises
    ------
    KernelError
        It does not.

    Examples
    --------
    >>> import torch
    >>> check_begin("x", torch.zeros(4, dtype=torch.float16)[2:], 4)
    """
    address = tensor.data_ptr()
    if address % needed_bytes:
        raise KernelError(
            f"memory of {name} begins at address {address:#x}, {address % needed_bytes} modulo {needed_bytes}: expected a "
            f"multiple of {needed_bytes} bytes (clone() gives one)"
        )


def check_packed(values: Tensor, metadata: Tensor, values_bytes: int) -> None:
    """Refuse packed rows that kernels cannot read as whole words, wherever they are."""
    check_begin("values", values, values_bytes)
    check_begin("metadata", metadata, WORD_BYTES)


def check_dense(**parts: Tensor | None) -> None:
    """Refuse dense operands, named, whose elements a CUDA device cannot read. A CPU reads them anywhere."""
    for name, part in parts.items():
        if part is not None and triton_kernels.serves(part):
            check_begin(name, part, part.element_size())


def bytes_of_values(values: Tensor, pattern: Pattern) -> int:
    """Tell where packed rows must begin to be multiplied or unpacked where they are."""
    pairs = triton_kernels.serves(values) and reads_pairs(values, pattern)
    return WORD_BYTES if pairs else values.element_size()


def reads_pairs(values: Tensor, pattern: Pattern) -> bool:
    """Say whether GPU kernels take packed values two at a time, as `kernels.gpu.spread` does."""
    return pattern in STEP_ELEMS and values.element_size() * 2 == WORD_BYTES


def realigned(tensor: Tensor) -> Tensor:
    """Take a packed tensor as it is, or a copy that begins where every kernel of packed rows can read it."""
    return tensor.clone() if tensor.data_ptr() % WORD_BYTES else tensor
