"""N:M operators and layers for torch, dispatched by device: the CPU kernels, or the Triton kernels on CUDA tensors.

`from kernels import ops` registers all operators of `torch.ops.nmsim`. It needs torch; Triton is imported with the first CUDA
tensor.
"""

from nmsim.support.lazy import explained

try:
    from kernels.ops.activations import (
        NMActivations,
        activations_linear,
        prune_activations,
        row_sums,
        skip_linear,
    )
    from kernels.ops.decode import ShuffledWeight, decode_linear, for_decode
    from kernels.ops.grouped import GroupedWeight, for_experts, grouped_linear
    from kernels.ops.layer import DecodeReport, NMLinear, SparsifyReport, for_decode_, sparsify_
    from kernels.ops.pruning import prune
    from kernels.ops.quantized import QuantizedLinear, QuantizeReport, quantize_
    from kernels.ops.stacked import StackedPart, StackReport, stack, stack_
    from kernels.ops.weights import NMWeight, compress, decompress, from_packed, sparse_linear
    from kernels.stored.errors import KernelError
except ModuleNotFoundError as error:
    raise explained(error, "kernels.ops", {"torch": "nmsim[gpu]"}) from error

__all__ = [
    "DecodeReport",
    "GroupedWeight",
    "KernelError",
    "NMActivations",
    "NMLinear",
    "NMWeight",
    "QuantizeReport",
    "QuantizedLinear",
    "ShuffledWeight",
    "SparsifyReport",
    "StackReport",
    "StackedPart",
    "activations_linear",
    "compress",
    "decode_linear",
    "decompress",
    "for_decode",
    "for_decode_",
    "for_experts",
    "from_packed",
    "grouped_linear",
    "prune",
    "prune_activations",
    "quantize_",
    "row_sums",
    "skip_linear",
    "sparse_linear",
    "sparsify_",
    "stack",
    "stack_",
]
