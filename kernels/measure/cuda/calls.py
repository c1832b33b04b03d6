"""Products that a campaign can time on a CUDA device: our Triton kernels, torch's 2:4 on tensor cores, and dense calls."""

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from kernels.measure.round import BEST
from kernels.timing.gate import Rounding
from nmsim.case import Case, SparseOperand
from nmsim.errors import SpecError, brief, brief_names
from nmsim.format import sparse_format
from nmsim.pattern import Pattern
from nmsim.support.names import did_you_mean
from nmsim.units import ceil_div

_DTYPE_NAMES = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}
FILL_TOKENS = 8
"""cuSPARSELt takes multiples of so many tokens of 16-bit values."""
_NAME = re.compile(r"(?P<base>[^\[\]]+)(?:\[(?P<options>[^\[\]]*)\])?")
_OPTION = re.compile(r"(\w+)=(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Call:
    """A product, or a transfer, that can be run on operands of its own.

    Parameters
    ----------
    run : callable
        Gives the result [T, N] of a product, or the tuple of results of a transfer, which the next run overwrites.
    used_bytes : int
        Bytes of weights that a product reads, or all that a transfer reads and writes: what must not stay in a cache.
    cells : mapping of str to object
        What else its rows say, by column.
    scratch : tuple of Tensor
        What a run writes on its way to the result.
    """

    run: Callable[[], Any]
    used_bytes: int
    cells: Mapping[str, Any] = field(default_factory=dict)
    scratch: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Product:
    """A kernel for sparse weights, or for sparse tokens.

    Parameters
    ----------
    problem : callable
        The reason against it for a case of its operand; "" if there is none.
    build : callable
        (the sparse operand packed, weights, tokens) -> a call. Weights are those that were packed, with their zeros; if
        tokens are sparse, a dense copy, another for each call of a sample. Tokens are as drawn. Tensors on the device.
    sparse_operand : {"weights", "activations"}
    k_major : bool
        The weights of `build` are [K, N], else [N, K].
    rounding : {"once", "parts", "library"}
        Where it rounds, as `gate.allowed` asks.
    options : tuple of str
        Whole numbers that `build` takes by name, in place of those that the kernel finds by itself.
    module : str
        Where the kernel is, if it is ours.
    dense_dtype : str
        Value type of a dense product that is timed as if it were a kernel, because it is a rival; it knows no pattern.
    value_dtype : str
        Value type of its rows, if weights are stored in another than that of the tokens.
    as_stored : callable, optional
        Of weights with their zeros: what they come to if the kernel's weights are rounded.
    """

    problem: Callable[[Case], str]
    build: Callable[..., Call]
    sparse_operand: SparseOperand = "weights"
    k_major: bool = False
    rounding: Rounding = "once"
    options: tuple[str, ...] = ()
    module: str = ""
    dense_dtype: str = ""
    value_dtype: str = ""
    as_stored: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class DenseCall:
    """A dense product: of weights, in its own order of memory, it makes what gives the result [T, N]."""

    build: Callable[[Any], Callable[[], Any]]
    k_major: bool = False
    rounding: Rounding = "library"


def best_of(case: Case) -> str:
    """Name the kernel that is meant for a case. Sparse tokens are pruned online, as in a prediction of that case."""
    if case.sparse_operand == "activations":
        return "gpu.prune_skip_gemv" if case.shape.M == 1 else "gpu.prune_activations_mm"
    from kernels.ops.decode import LEAST_MATRIX_TOKENS

    if case.shape.M >= LEAST_MATRIX_TOKENS and not PRODUCTS["gpu.mma"].problem(case):
        return "gpu.mma"
    if not PRODUCTS["gpu.gemv"].problem(case):
        return "gpu.gemv"
    from kernels.gpu.products.gemm import DENSE_TOKENS

    return "gpu.gemm_small" if case.shape.M < DENSE_TOKENS else "gpu.unpack_mm"


def dense_calls(torch: Any, x: Any) -> dict[str, DenseCall]:
    """Every available dense product of tokens x [T, K]: torch's, and for few tokens on a GPU one of ours."""
    found = {
        "F.linear": DenseCall(lambda weight: lambda: torch.nn.functional.linear(x, weight)),
        "torch.mm": DenseCall(lambda weight: lambda: torch.mm(x, weight.T)),
    }
    if len(x) == 1:
        found["torch.mv"] = DenseCall(lambda weight: lambda: torch.mv(weight, x[0]))
        found["torch.mm K-major"] = DenseCall(lambda weight: lambda: torch.mm(x, weight), k_major=True)
    from kernels.gpu.controls import MOST_TOKENS

    if len(x) <= MOST_TOKENS and x.is_cuda:
        found["gpu.dense"] = DenseCall(lambda weight: _dense_gemv(x, weight), rounding="once")
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
    from kernels.stored.shuffled import MOST_TOKENS

    return _no_order(case, MOST_TOKENS)


def _no_matrix_units(case: Case) -> str:
    from kernels.stored.shuffled import MOST_MATRIX_TOKENS

    return _no_order(case, MOST_MATRIX_TOKENS)


def _no_order(case: Case, most_tokens: int) -> str:
    """The reason against the kernels that read the order for decoding."""
    from kernels.stored.rows import kernel_format
    from kernels.stored.shuffled import PLANES

    if most_tokens < case.shape.M:
        return f"M={case.shape.M}, expected at most {most_tokens} tokens"
    if case.dtype not in ("fp16", "bf16"):
        return f"dtype={case.dtype}, expected fp16 or bf16"
    if case.format is None or kernel_format(case.format) not in PLANES:
        return f"no order of {case.format}"
    return ""


def _any(case: Case) -> str:
    return ""


def _in_decode_order(kernel: str, values: str | None = None) -> Callable[..., Call]:
    """A product that takes weights in the order for decoding, with values as they are or rounded to 8 bits."""

    def build(packed: Any, dense: Any, x: Any, **options: Any) -> Call:
        from kernels.stored import shuffled

        product = importlib.import_module(f"kernels.gpu.products.{kernel}")
        weight, out = shuffled.shuffle(packed, values=values), _room(x, packed)

        def run() -> Any:
            product.launch(x, weight, out, **options)
            return out

        cells = (
            {}
            if values is None
            else {"baseline_dtype": _DTYPE_NAMES[str(x.dtype)], "note": "tokens of 16 bits"}
        )
        return Call(run, weight.values.nbytes + weight.metadata.nbytes + weight.scales_bytes, cells)

    return build


def _rounded_to(values: str) -> Callable[[Any], Any]:
    """What weights come to that are stored as values of 8 bits with a scale per row."""

    def rounded(weight: Any) -> Any:
        from kernels.stored.scaled import dequantize, quantize

        return dequantize(*quantize(weight, type_name=values))

    return rounded


def _of_eight_bits(values: str, dtype: str) -> Product:
    return Product(
        _no_decode, _in_decode_order("gemv", values), options=("warps", "n_parts"), module=_GEMV,
        value_dtype=dtype, as_stored=_rounded_to(values),
    )  # fmt: skip


def _by_rows(road: str) -> Callable[..., Call]:
    """A product that takes packed rows as they are."""

    def build(packed: Any, dense: Any, x: Any, **options: Any) -> Call:
        from kernels.gpu.products import gemm

        out, launch = _room(x, packed), getattr(gemm, road)
        values, metadata = packed.values.clone(), packed.metadata.clone()

        def run() -> Any:
            launch(x, values, metadata, packed.format, out, **options)
            return out

        return Call(run, values.nbytes + metadata.nbytes)

    return build


def _room(x: Any, packed: Any) -> Any:
    return x.new_empty(len(x), packed.shape[0])


def _not_two_of_four(case: Case) -> str:
    if case.format != sparse_format("2:4/index"):
        return f"{case.format}, expected 2:4/index"
    return _sixteen_bits(case)


def _semi_structured(library: str) -> Callable[[Any, Any, Any], Call]:
    """Torch's own 2:4 product. It fills x up to the rows that the library needs, and cuts the result."""

    def build(packed: Any, dense: Any, x: Any) -> Call:
        import torch
        from torch.sparse import SparseSemiStructuredTensor

        SparseSemiStructuredTensor._FORCE_CUTLASS = library == "cutlass"
        weight = torch.sparse.to_sparse_semi_structured(dense)
        stored_bytes = sum(part.nbytes for part in (weight.packed, weight.meta) if part is not None)
        return Call(lambda: torch.nn.functional.linear(x, weight), stored_bytes)

    return build


def _searching_semi_structured() -> Callable[[Any, Any, Any], Call]:
    """The product of cuSPARSELt by the algorithm that its own search finds fastest, once per shape."""
    found: dict[tuple[object, ...], int] = {}

    def build(packed: Any, dense: Any, x: Any) -> Call:
        import torch

        filled = x.new_zeros(ceil_div(len(x), FILL_TOKENS) * FILL_TOKENS, x.shape[1])
        filled[: len(x)] = x
        stored = torch._cslt_compress(dense)
        key = (x.dtype, len(x), *dense.shape)
        if key not in found:
            found[key] = torch._cslt_sparse_mm_search(stored, filled.T, transpose_result=True)
        algorithm = found[key]

        def run() -> Any:
            product = torch._cslt_sparse_mm(stored, filled.T, transpose_result=True, alg_id=algorithm)
            return product[: len(x)]

        return Call(run, stored.nbytes, {"note": f"algorithm {algorithm}; tokens were filled up beforehand"})

    return build


def as_fp8(matrix: Any) -> tuple[Any, Any]:
    """Round a matrix to FP8 (e4m3) with one scale: the values, and the float32 scale that they are multiplied by."""
    import torch

    kind = torch.float8_e4m3fn
    scale = matrix.abs().amax().float() / torch.finfo(kind).max
    return (matrix.float() / scale).to(kind), scale


def _fp8(packed: Any, weight: Any, x: Any) -> Call:
    """The dense product of torch in FP8, with a scale per matrix."""
    import torch

    values, scale = as_fp8(weight)
    tokens, scale_of_tokens = as_fp8(x)

    def run() -> Any:
        return torch._scaled_mm(
            tokens, values.T, scale_a=scale_of_tokens, scale_b=scale, out_dtype=x.dtype, use_fast_accum=True
        )

    cells = {"dtype": "fp8", "note": "dense; tokens were rounded to FP8 beforehand"}
    cells["baseline_dtype"] = _DTYPE_NAMES[str(x.dtype)]
    return Call(run, values.nbytes, cells)


def _sixteen_bits(case: Case) -> str:
    return "" if case.dtype in ("fp16", "bf16") else f"dtype={case.dtype}, expected fp16 or bf16"


def _several_tokens(case: Case) -> str:
    return "" if case.shape.M == 1 else f"M={case.shape.M}, expected one token"


def _on_sparse_tokens(
    kernel: str, problem: Callable[[Case], str], *, online: bool, k_major: bool = False
) -> Product:
    """A product of packed tokens and dense weights; online, a run prunes and packs the tokens first.

    K-major, it reads the weights that meet what is kept, of its only token; else all.
    """

    def build(packed: Any, weight: Any, x: Any, **options: Any) -> Call:
        import torch

        from kernels.ops import dispatch

        launch, prune = dispatch.module(f"products.{kernel}").launch, dispatch.module("movers.prune").launch
        format, k = packed.format, packed.shape[1]
        values, metadata, out = packed.values, packed.metadata, x.new_empty(len(x), weight.numel() // k)
        scratch: tuple[Any, ...] = ()
        cells: dict[str, Any] = {"tokens_bytes": values.nbytes + metadata.nbytes}
        if not online:
            cells |= {
                "mark": "pruned beforehand",
                "note": "tokens pruned and packed beforehand, not in this time",
            }
        if online:
            values, metadata = values.new_empty(values.shape), metadata.new_empty(metadata.shape)
            # The kernel takes memory for shifts and factors even if it computes none.
            shifts_and_factors = (x.new_empty(len(x), dtype=torch.float32) for _ in range(2))
            scratch = (values, metadata, *shifts_and_factors)
            cells["note"] = "this time holds pruning and packing the tokens"

        def run() -> Any:
            if online:
                prune(x, format, scratch, shift="none")
            launch(values, metadata, weight, format, out, **options)
            return out

        read_bytes = weight[:1].nbytes * _kept_elems(format.pattern, k) if k_major else weight.nbytes
        return Call(run, read_bytes, cells, scratch)

    module = f"kernels.gpu.products.{kernel}"
    return Product(
        problem, build, "activations", k_major, options=("n_parts",) if k_major else (), module=module
    )


def _kept_elems(pattern: Pattern, k: int) -> int:
    """Elements that a pattern keeps of a row that has no zeros."""
    groups, tail = divmod(k, pattern.m)
    return groups * pattern.n + min(pattern.n, tail)


_GEMV, _GEMM = "kernels.gpu.products.gemv", "kernels.gpu.products.gemm"
PRODUCTS: Mapping[str, Product] = MappingProxyType(
    {
        "gpu.gemv": Product(_no_decode, _in_decode_order("gemv"), options=("warps", "n_parts"), module=_GEMV),
        "gpu.gemv_e4m3": _of_eight_bits("e4m3", "fp8"),
        "gpu.gemv_int8": _of_eight_bits("int8", "int8"),
        "gpu.mma": Product(
            _no_matrix_units,
            _in_decode_order("mma"),
            options=("warps", "n_parts"),
            module="kernels.gpu.products.mma",
        ),
        "gpu.gemm_small": Product(
            _any, _by_rows("launch_small"), options=("warps", "tile_outputs", "n_parts"), module=_GEMM
        ),
        "gpu.unpack_mm": Product(_any, _by_rows("launch_large"), rounding="parts", module=_GEMM),
        "torch.cutlass": Product(_not_two_of_four, _semi_structured("cutlass"), rounding="library"),
        "torch.cusparselt": Product(_not_two_of_four, _semi_structured("cusparselt"), rounding="library"),
        "torch.cusparselt_search": Product(
            _not_two_of_four, _searching_semi_structured(), rounding="library"
        ),
        "torch.fp8": Product(_sixteen_bits, _fp8, rounding="library", dense_dtype="fp8"),
        "gpu.skip_gemv": _on_sparse_tokens("skip_gemv", _several_tokens, online=False, k_major=True),
        "gpu.prune_skip_gemv": _on_sparse_tokens("skip_gemv", _several_tokens, online=True, k_major=True),
        "gpu.activations_mm": _on_sparse_tokens("sparse_activations", _any, online=False),
        "gpu.prune_activations_mm": _on_sparse_tokens("sparse_activations", _any, online=True),
    }
)
"""Kernel of a row -> how it is run."""


def named(products: Mapping[str, Product], name: str, movers: Iterable[str] = ()) -> Product:
    """Find a product by its name, with the options that stand in brackets behind it.

    An error names `movers`, the kernels that multiply nothing, beside the products.

    Raises
    ------
    SpecError
        No such product, or an option that it does not take.

    Examples
    --------
    >>> named(PRODUCTS, "gpu.gemv[warps=8,n_parts=2]").build.keywords
    {'warps': 8, 'n_parts': 2}
    """
    found = _NAME.fullmatch(name)
    if found is None or found["base"] not in products:
        known = (*products, *movers, BEST)
        raise SpecError(
            f"kernel {name}: expected one of {brief_names(known, most=8)}{did_you_mean(name.partition('[')[0], known)}"
        )
    product, text = products[found["base"]], found["options"]
    if text is None:
        return product
    wanted = f"whole numbers of at least 1 for {' or '.join(product.options) or 'nothing, it has no options'}"
    options: dict[str, int] = {}
    for part in text.split(","):
        option = _OPTION.fullmatch(part)
        if option is None or option[1] not in product.options or option[1] in options or int(option[2]) < 1:
            raise SpecError(f"kernel {name}: {brief(part)}: expected {wanted}, each once")
        options[option[1]] = int(option[2])
    return replace(product, build=functools.partial(product.build, **options), options=())
