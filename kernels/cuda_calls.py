"""Products that a campaign can time on a CUDA device: our Triton kernels, torch's 2:4 on tensor cores, and dense calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nmsim.pattern import Pattern
from nmsim.records import Case

FEW_TOKENS = 4
"""Most tokens of the decode kernel."""


@dataclass(frozen=True)
class Product:
    """A kernel for sparse weights.

    Parameters
    ----------
    problem : callable
        What speaks against it for a case; "" when nothing does.
    build : callable
        (packed weights, the same dense with zeros, tokens) -> a call, on operands of its own. Tensors on the device.
    """

    problem: Callable[[Case], str]
    build: Callable[[Any, Any, Any], "Call"]


@dataclass(frozen=True)
class Call:
    """A product that can be run: gives its result [T, N], which the next run overwrites, and the bytes of weights it reads."""

    run: Callable[[], Any]
    stored_bytes: int


def best_of(case: Case) -> str:
    """Name the kernel that is meant for a case."""
    if not PRODUCTS["gpu.gemv"].problem(case):
        return "gpu.gemv"
    from kernels.gpu.gemm import DENSE_TOKENS

    return "gpu.gemm_small" if case.shape.M < DENSE_TOKENS else "gpu.unpack_mm"


def dense_calls(torch: Any, x: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """Every dense product at hand: torch's, and for a token on a GPU one of ours. x [T, K], weight [N, K]."""
    found: dict[str, Callable[[], Any]] = {
        "F.linear": lambda: torch.nn.functional.linear(x, weight),
        "torch.mm": lambda: torch.mm(x, weight.T),
    }
    if len(x) == 1:
        found["torch.mv"] = lambda: torch.mv(weight, x[0])
    if len(x) <= FEW_TOKENS and x.is_cuda:
        found["gpu.dense"] = _dense_gemv(x, weight)
    return found


def _dense_gemv(x: Any, weight: Any) -> Callable[[], Any]:
    """The dense twin of the decode kernel: what Triton gets without sparsity."""
    from kernels.gpu import controls

    out = x.new_empty(len(x), len(weight))

    def run() -> Any:
        controls.dense(x, weight, out)
        return out

    return run


def _no_decode(case: Case) -> str:
    from kernels.gpu.shuffled import PLANES

    if case.shape.M > FEW_TOKENS:
        return f"M={case.shape.M}, expected at most {FEW_TOKENS} tokens"
    if case.dtype not in ("fp16", "bf16"):
        return f"dtype={case.dtype}, expected fp16 or bf16"
    if (case.pattern, case.encoding) not in PLANES:
        return f"no order of {case.pattern} {case.encoding}"
    return ""


def _any(case: Case) -> str:
    return ""


def _decode(packed: Any, dense: Any, x: Any) -> Call:
    from kernels.gpu import gemv, shuffled

    weight, out = shuffled.shuffle(packed), _room(x, packed)

    def run() -> Any:
        gemv.launch(x, weight, out)
        return out

    return Call(run, weight.values.nbytes + weight.metadata.nbytes)


def _by_rows(road: str) -> Callable[[Any, Any, Any], Call]:
    """A product that takes packed rows as they are."""

    def build(packed: Any, dense: Any, x: Any) -> Call:
        from kernels.gpu import gemm

        out, launch = _room(x, packed), getattr(gemm, road)
        values, metadata = packed.values.clone(), packed.metadata.clone()

        def run() -> Any:
            launch(x, values, metadata, packed.pattern, packed.encoding, out)
            return out

        return Call(run, values.nbytes + metadata.nbytes)

    return build


def _room(x: Any, packed: Any) -> Any:
    return x.new_empty(len(x), packed.shape[0])


def _not_two_of_four(case: Case) -> str:
    if case.pattern != Pattern(2, 4) or case.encoding != "index":
        return f"{case.pattern} {case.encoding}, expected 2:4 index"
    return "" if case.dtype in ("fp16", "bf16") else f"dtype={case.dtype}, expected fp16 or bf16"


def _semi_structured(library: str) -> Callable[[Any, Any, Any], Call]:
    """Torch's own 2:4 product. It fills x up to the rows that the library wants, and cuts the result."""

    def build(packed: Any, dense: Any, x: Any) -> Call:
        import torch
        from torch.sparse import SparseSemiStructuredTensor

        SparseSemiStructuredTensor._FORCE_CUTLASS = library == "cutlass"
        weight = torch.sparse.to_sparse_semi_structured(dense)
        stored_bytes = sum(part.nbytes for part in (weight.packed, weight.meta) if part is not None)
        return Call(lambda: torch.nn.functional.linear(x, weight), stored_bytes)

    return build


PRODUCTS: Mapping[str, Product] = MappingProxyType(
    {
        "gpu.gemv": Product(_no_decode, _decode),
        "gpu.gemm_small": Product(_any, _by_rows("launch_small")),
        "gpu.unpack_mm": Product(_any, _by_rows("launch_large")),
        "torch.cutlass": Product(_not_two_of_four, _semi_structured("cutlass")),
        "torch.cusparselt": Product(_not_two_of_four, _semi_structured("cusparselt")),
    }
)
"""Kernel of a row -> how it is run."""
