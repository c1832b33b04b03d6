"""From IR to machine code that operands are laid out for: compiled when first asked for, kept for the life of the process.

Tokens are padded and laid out, addresses counted, and blocks of rows decoded. Kernels are called without the GIL.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]
from numpy.typing import NDArray

from kernels.cpu import decode
from kernels.cpu.code import POINTER
from kernels.cpu.kernel import ARGUMENTS, NAME, module_for
from kernels.cpu.recipe import DENSE_STEP_ELEMS, Recipe, recipe_for
from kernels.stored.rows import CACHE_LINE_BYTES, TABLED, SparseWeights, aligned, kernel_format
from nmsim.format import SparseFormat
from nmsim.support.jit import njit

_SIGNATURE = ctypes.CFUNCTYPE(
    None, *(ctypes.c_void_p if kind is POINTER else ctypes.c_int64 for _, kind in ARGUMENTS)
)


@functools.cache
def compiled(recipe: Recipe) -> Callable[..., None]:
    """The kernel as a function of addresses and integers."""
    machine = _machine(binding.get_host_cpu_name(), _features(recipe.isa))
    module = optimised(recipe, machine)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function: Any = _SIGNATURE(engine.get_function_address(NAME))
    function.engine = engine  # its code lives as long as the engine
    return function  # type: ignore[no-any-return]


def assembly(recipe: Recipe, cpu: str) -> str:
    """The kernel compiled for a CPU by LLVM's name of it, such as `"znver4"`, as text."""
    machine = _machine(cpu, "")
    return str(machine.emit_assembly(optimised(recipe, machine)))


def optimised(recipe: Recipe, machine: Any) -> Any:
    """The kernel's IR after LLVM's passes. Loops stay as they are written: they are unrolled by hand if it pays."""
    module = binding.parse_assembly(str(module_for(recipe)))
    module.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def _features(isa: str) -> str:
    """What the host has, without what the instruction set does not use."""
    features = binding.get_host_cpu_features()
    if isa != "avx512":
        features.update({name: False for name in features if name.startswith(("avx512", "avx10"))})
    return str(features.flatten())


def _machine(cpu: str, features: str) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


LONG_MASKS = kernel_format("16:32/bitmask")
"""What codes of 16:32 in one of `TABLED` are decoded to before kernels read them."""
NO_METADATA = np.zeros((1, 1), np.uint8)
BLOCK_GROUPS = 1 << 16
"""Groups decoded before they are multiplied, where kernels cannot read the codes: their masks take 256 KiB."""

WORTH_ALIGNING = 1 << 18
"""Elements of a matrix whose product takes long enough that a copy of x at the begin of a cache line pays."""

Floats = NDArray[np.float32]
Multiply = Callable[[slice, Floats], None]


class Prepared(NamedTuple):
    """A compiled kernel and what each call of it needs; looked up at once, since small products take microseconds."""

    recipe: Recipe
    kernel: Callable[..., None]
    table: NDArray[Any]
    table_address: int
    panel_steps: int


class Stored(NamedTuple):
    """Where rows of values and of codes begin, and their lengths in bytes."""

    values: int
    value_row_bytes: int
    metadata: int
    metadata_row_bytes: int


class Product(NamedTuple):
    """What products of some weights with so many tokens have in common."""

    prepared: Prepared
    stored: Stored
    n_elems: int
    steps: int
    decoded_before: bool


_PRODUCTS: WeakKeyDictionary[SparseWeights, dict[tuple[int, str], Product]] = WeakKeyDictionary()
"""Kept as long as the weights are. To find this anew would take longer than a small product."""


def sparse(w: SparseWeights, tokens: Floats, isa: str) -> Multiply:
    """Make ready to multiply rows of `w`: tokens are [M, K], at most 16 of them."""
    prepared, stored, n_elems, steps, decoded_before = _product(w, len(tokens), isa)
    x = _laid_out(tokens, prepared.recipe, n_elems, len(w.values))

    def multiply(rows: slice, out: Floats) -> None:
        if not decoded_before:
            _call(prepared, x, steps, stored, rows.start, out[rows])
            return
        codec, step = w.format.encoding, max(1, BLOCK_GROUPS // w.groups_per_row)
        for low in range(rows.start, rows.stop, step):
            some = slice(low, min(rows.stop, low + step))
            codes = w.metadata[some].reshape(-1).view(np.uint32)
            masks = codec.decode_words(codes, w.pattern).view(np.uint8).reshape(some.stop - low, -1)
            _call(prepared, x, steps, _stored(w.values[some], masks), 0, out[some])

    return multiply


def dense(weights: NDArray[Any], tokens: Floats, isa: str) -> Multiply:
    """Make ready to multiply rows of a dense matrix. What is left of K after whole steps is left to numpy."""
    prepared = _prepared(None, weights.dtype, len(tokens), isa)
    steps, left = divmod(weights.shape[1], DENSE_STEP_ELEMS)
    whole = steps * DENSE_STEP_ELEMS
    x = _laid_out(tokens[:, :whole], prepared.recipe, whole, len(weights))
    stored = _stored(weights, NO_METADATA)

    def multiply(rows: slice, out: Floats) -> None:
        if steps:
            _call(prepared, x, steps, stored, rows.start, out[rows])
        else:
            out[rows] = 0
        if left:
            out[rows] += weights[rows, whole:].astype(np.float32) @ tokens[:, whole:].T

    return multiply


def _product(w: SparseWeights, n_tokens: int, isa: str) -> Product:
    of_weights = _PRODUCTS.setdefault(w, {})
    found = of_weights.get((n_tokens, isa))
    if found is None:
        decoded_before = w.pattern.m == 32 and w.encoding in TABLED
        prepared = _prepared(LONG_MASKS if decoded_before else w.format, w.dtype, n_tokens, isa)
        n_elems = w.groups_per_row * w.pattern.m
        steps = n_elems // prepared.recipe.step_elems
        found = Product(prepared, _stored(w.values, w.metadata), n_elems, steps, decoded_before)
        of_weights[n_tokens, isa] = found
    return found


def _stored(values: NDArray[Any], metadata: NDArray[np.uint8]) -> Stored:
    return Stored(address(values), values.strides[0], address(metadata), metadata.strides[0])


def address(array: NDArray[Any]) -> int:
    """Where an array begins. Asking numpy takes ten times as long as asking for its buffer, which must be writable."""
    if array.flags.writeable and array.dtype == np.float32 and array.flags.c_contiguous:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    return int(array.ctypes.data)


@functools.cache
def _prepared(format: SparseFormat | None, dtype: np.dtype[Any], n_tokens: int, isa: str) -> Prepared:
    recipe = recipe_for(format, dtype.name, n_tokens, isa)
    table = decode.table(recipe)
    return Prepared(recipe, compiled(recipe), table, table.ctypes.data, recipe.panel_steps)


def _laid_out(tokens: Floats, recipe: Recipe, n_elems: int, n_rows: int) -> Floats:
    """Tokens [M, K] as a kernel reads them, zero beyond K and beyond M."""
    n_tokens, k = tokens.shape
    x = tokens
    # Registers as wide as a cache line are read from two of them if x begins in the middle of one.
    split = recipe.isa != "avx2" and n_rows * k >= WORTH_ALIGNING and bool(address(tokens) % CACHE_LINE_BYTES)
    if (
        split
        or recipe.by_columns
        or k != n_elems
        or n_tokens != recipe.tokens
        or not tokens.flags.c_contiguous
    ):
        x = aligned((n_elems, recipe.tokens) if recipe.by_columns else (recipe.tokens, n_elems), tokens.dtype)
        by_token = x.T if recipe.by_columns else x
        by_token[:n_tokens, :k] = tokens
        by_token[:n_tokens, k:] = 0
        by_token[n_tokens:] = 0
    if recipe.x_in_planes:
        planes = aligned(x.shape, x.dtype)
        _to_planes(x.reshape(-1).view(np.uint32), planes.reshape(-1).view(np.uint8))
        return planes
    return x


@njit(cache=True, nogil=True)
def _to_planes(words, planes):  # type: ignore[no-untyped-def]
    """Words [16 * G] -> their bytes [G, 4, 16]: of 16 words first the lowest bytes, then the next."""
    for low in range(0, words.size, 16):
        for plane in range(4):
            for i in range(16):
                planes[4 * low + 16 * plane + i] = (words[low + i] >> np.uint32(8 * plane)) & np.uint32(255)


def _call(prepared: Prepared, x: Floats, steps: int, stored: Stored, first_row: int, out: Floats) -> None:
    """Run a kernel over some rows of its operands: those from the first on that `out` has room for."""
    recipe, (n_rows, n_tokens) = prepared.recipe, out.shape
    whole = n_tokens == recipe.tokens and out.flags.c_contiguous
    sums = out if whole else np.empty((n_rows, recipe.tokens), np.float32)
    if recipe.by_columns:
        sums.fill(0)
    prepared.kernel(
        0, n_rows, steps, prepared.panel_steps, address(x), x.strides[0],
        stored.values + first_row * stored.value_row_bytes, stored.value_row_bytes,
        stored.metadata + first_row * stored.metadata_row_bytes, stored.metadata_row_bytes,
        prepared.table_address, address(sums),
    )  # fmt: skip
    if not whole:
        out[...] = sums[:, :n_tokens]
