"""Integer, logic and float instructions, comparisons and choices."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.ptx.decode import PACKED, Form, Operation, builds
from kernels.ptx.floats import flushed, fused
from kernels.ptx.memory import UNSIGNED
from kernels.ptx.parse import TYPE_BYTES
from kernels.ptx.program import Pair

Function = Callable[..., Any]
_FLOATS = ("f16", "f32", "f64", "bf16", "f16x2", "bf16x2")


def _element(kind: str) -> str:
    return PACKED.get(kind, kind)


def _elementwise(
    form: Form, function: Function, sources: int, kind: str | None = None, into: str | None = None
) -> Operation:
    """Build an instruction that computes each result from its sources, flushing subnormals if asked."""
    kind = kind or form.type
    reads = [form.reader(1 + i, kind) for i in range(sources)]
    write = form.writer(0, into or kind)
    flush = form.has("ftz") and kind == "f32"

    def run(machine: Any, active: Any) -> None:
        values = [read(machine, active) for read in reads]
        if flush:
            write(machine, active, flushed(function(*map(flushed, values))))
        else:
            write(machine, active, function(*values))

    return run


def _float_function(form: Form, function: Function) -> Function:
    """Give a function of floats with what modifiers ask for: computed in more bits for bfloat16, cut to 0 to 1."""
    wide = _element(form.type) == "bf16"

    def run(*values: Any) -> Any:
        result = function(*(value.astype(np.float64) for value in values)) if wide else function(*values)
        if form.has("relu"):
            result = np.maximum(result, np.zeros((), result.dtype))
        return (
            np.clip(np.nan_to_num(result, nan=0.0), 0, 1).astype(result.dtype) if form.has("sat") else result
        )

    return run


def _refuse_directed(form: Form) -> None:
    """Refuse rounding to other than the nearest."""
    if form.type in _FLOATS and form.has("rz", "rm", "rp"):
        raise form.unknown("rounding to other than the nearest")


@builds("add", "sub")
def _add(form: Form) -> Operation:
    form.known("rn", "ftz", "sat", "cc")
    if form.has("cc") or (form.has("sat") and form.type not in _FLOATS):
        raise form.unknown("carry or saturation of integers")
    _refuse_directed(form)
    function = np.add if form.instruction.opcode == "add" else np.subtract
    if form.type in _FLOATS:
        return _elementwise(form, _float_function(form, function), 2)
    return _elementwise(form, function, 2)


def _wide_type(kind: str) -> str:
    return kind[0] + str(16 * TYPE_BYTES[kind])


def _high(a: Any, b: Any, kind: str) -> Any:
    """Give the upper half of a product."""
    n_bits = 8 * TYPE_BYTES[kind]
    if n_bits < 64:
        wide = np.int64 if kind[0] == "s" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(n_bits)).astype(a.dtype)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    x, y = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    high = x1 * y1 + (middle >> half) + ((x0 * y1 + (middle & low)) >> half)
    if kind[0] == "s":
        high = (
            high
            - np.where(x >> np.uint64(63), y, np.uint64(0))
            - np.where(y >> np.uint64(63), x, np.uint64(0))
        )
        return high.view(np.int64)
    return high


@builds("mul")
def _mul(form: Form) -> Operation:
    form.known("lo", "hi", "wide", "rn", "ftz", "sat")
    _refuse_directed(form)
    kind = form.type
    if kind in _FLOATS:
        return _elementwise(form, _float_function(form, np.multiply), 2)
    if form.has("wide"):
        wide = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{2 * TYPE_BYTES[kind]}")
        return _elementwise(form, lambda a, b: a.astype(wide) * b.astype(wide), 2, into=_wide_type(kind))
    if form.has("hi"):
        return _elementwise(form, lambda a, b: _high(a, b, kind), 2)
    return _elementwise(form, np.multiply, 2)


@builds("mul24")
def _mul24(form: Form) -> Operation:
    if not form.has("lo") or form.type != "u32":
        raise form.unknown()
    low = np.uint32(0xFFFFFF)
    return _elementwise(form, lambda a, b: (a & low) * (b & low), 2)


@builds("mad")
def _mad(form: Form) -> Operation:
    form.known("lo", "hi", "wide", "rn", "ftz", "sat")
    kind = form.type
    if kind in _FLOATS:
        return _fma(form)
    if form.has("sat"):
        raise form.unknown("saturation of integers")
    if not form.has("wide"):
        product = (lambda a, b: _high(a, b, kind)) if form.has("hi") else np.multiply
        return _elementwise(form, lambda a, b, c: product(a, b) + c, 3)
    wide = _wide_type(kind)
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{2 * TYPE_BYTES[kind]}")
    a, b, c = form.reader(1, kind), form.reader(2, kind), form.reader(3, wide)
    write = form.writer(0, wide)
    return lambda machine, active: write(
        machine,
        active,
        a(machine, active).astype(dtype) * b(machine, active).astype(dtype) + c(machine, active),
    )


def _fma64(a: Any, b: Any, c: Any) -> Any:
    """Give a * b + c of float64, the product as an exact sum of two (Dekker 1971); its range is not guarded."""
    split = np.float64(2**27 + 1)
    a1 = a * split - (a * split - a)
    b1 = b * split - (b * split - b)
    product = a * b
    low = (a - a1) * (b - b1) - (((product - a1 * b1) - (a - a1) * b1) - a1 * (b - b1))
    total = product + c
    part = total - product
    fine = total + (((product - (total - part)) + (c - part)) + low)
    return np.where(np.isfinite(fine), fine, total)


@builds("fma")
def _fma(form: Form) -> Operation:
    form.known("rn", "ftz", "sat", "relu")
    _refuse_directed(form)
    if form.type not in _FLOATS:
        raise form.unknown()
    if form.type == "f64":
        return _elementwise(form, _fma64, 3)
    target = {"f32": np.float32, "f16": np.float16}.get(_element(form.type), np.float64)
    return _elementwise(form, _float_function(form, lambda a, b, c: fused(a, b, c).astype(target)), 3)


def _divide(a: Any, b: Any) -> Any:
    """Divide integers towards zero; by zero, all bits are one."""
    quotient = np.floor_divide(a, np.where(b == 0, b.dtype.type(1), b))
    if a.dtype.kind == "i":
        rest = a - quotient * b
        quotient = quotient + ((rest != 0) & ((a < 0) != (b < 0)))
    return np.where(
        b == 0, a.dtype.type(-1 if a.dtype.kind == "i" else np.iinfo(a.dtype).max), quotient
    ).astype(a.dtype)


@builds("div")
def _div(form: Form) -> Operation:
    form.known("rn", "full", "approx", "ftz")
    return _elementwise(form, np.divide if form.type in _FLOATS else _divide, 2)


@builds("rem")
def _rem(form: Form) -> Operation:
    form.known()
    return _elementwise(form, lambda a, b: (a - _divide(a, b) * b).astype(a.dtype), 2)


@builds("min", "max")
def _extreme(form: Form) -> Operation:
    form.known("ftz", "NaN", "xorsign", "abs", "relu")
    if form.has("xorsign"):
        raise form.unknown()
    low = form.instruction.opcode == "min"
    if form.type not in _FLOATS:
        return _elementwise(form, np.minimum if low else np.maximum, 2)

    def extreme(a: Any, b: Any) -> Any:
        # A NaN loses unless the modifier says so, and -0 is below +0.
        equal = np.where(np.signbit(a) == low, a, b)
        if form.has("NaN"):
            return np.where(a == b, equal, (np.minimum if low else np.maximum)(a, b))
        return np.where(a == b, equal, (np.fmin if low else np.fmax)(a, b))

    return _elementwise(form, extreme, 2)


@builds("neg")
def _neg(form: Form) -> Operation:
    form.known("ftz")
    return _elementwise(form, np.negative, 1)


@builds("abs")
def _abs(form: Form) -> Operation:
    form.known("ftz")
    return _elementwise(form, np.abs, 1)


def _exact(form: Form, function: Function) -> Operation:
    """Build a function of one float, computed in float64 and rounded once; the machine's own may differ in last bits."""
    form.known("approx", "rn", "ftz")
    if form.type not in ("f16", "f32", "f64", "f16x2", "bf16", "bf16x2"):
        raise form.unknown()
    dtype = {"f16": np.float16, "f32": np.float32}.get(_element(form.type), np.float64)
    return _elementwise(form, lambda a: function(a.astype(np.float64)).astype(dtype), 1)


FUNCTIONS: dict[str, Function] = {
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "rcp": lambda a: 1 / a, "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip
"""Functions of one float."""


@builds(*FUNCTIONS)
def _function(form: Form) -> Operation:
    return _exact(form, FUNCTIONS[form.instruction.opcode])


@builds("copysign")
def _copysign(form: Form) -> Operation:
    return _elementwise(form, lambda a, b: np.copysign(b, a), 2)


LOGIC: dict[str, Function] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@builds(*LOGIC)
def _logic(form: Form) -> Operation:
    form.known()
    return _elementwise(form, LOGIC[form.instruction.opcode], 2)


@builds("not")
def _not(form: Form) -> Operation:
    form.known()
    return _elementwise(form, np.invert, 1)


@builds("cnot")
def _cnot(form: Form) -> Operation:
    return _elementwise(form, lambda a: (a == 0).astype(np.asarray(a).dtype), 1)


@builds("lop3")
def _lop3(form: Form) -> Operation:
    form.known()
    table = form.integer(4)

    def run(a: Any, b: Any, c: Any) -> Any:
        result = np.uint32(0)
        for row in range(8):
            if table >> row & 1:
                result = result | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
        return result

    return _elementwise(form, run, 3)


@builds("shl", "shr")
def _shift(form: Form) -> Operation:
    form.known()
    kind, left = form.type, form.instruction.opcode == "shl"
    n_bits = 8 * TYPE_BYTES[kind]
    value, amount, write = form.reader(1, kind), form.reader(2, "u32"), form.writer(0, kind)

    def run(machine: Any, active: Any) -> None:
        a, by = value(machine, active), amount(machine, active)
        small = np.minimum(by, np.uint32(n_bits - 1)).astype(np.asarray(a).dtype)
        shifted = a << small if left else a >> small
        if left or kind[0] != "s":
            shifted = np.where(by >= n_bits, np.zeros((), np.asarray(a).dtype), shifted)
        write(machine, active, shifted)

    return run


@builds("shf")
def _funnel(form: Form) -> Operation:
    form.known("l", "r", "wrap", "clamp")
    left, wrap = form.has("l"), form.has("wrap")

    def run(a: Any, b: Any, by: Any) -> Any:
        both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
        by = ((by & np.uint32(31)) if wrap else np.minimum(by, np.uint32(32))).astype(np.uint64)
        return ((both << by) >> np.uint64(32) if left else both >> by).astype(np.uint32)

    return _elementwise(form, run, 3, kind="u32")


def _ones(n_bits: Any, dtype: Any) -> Any:
    """Give numbers of so many one bits."""
    width = 8 * np.dtype(dtype).itemsize
    whole = np.asarray(n_bits).astype(dtype)
    return np.where(whole >= width, ~dtype(0), (dtype(1) << np.minimum(whole, dtype(width - 1))) - dtype(1))


@builds("bfe")
def _extract(form: Form) -> Operation:
    form.known()
    kind = form.type
    unsigned = UNSIGNED[TYPE_BYTES[kind]]
    n_bits = 8 * TYPE_BYTES[kind]
    value, position, length = form.reader(1, "b" + kind[1:]), form.reader(2, "u32"), form.reader(3, "u32")
    write = form.writer(0, "b" + kind[1:])

    def run(machine: Any, active: Any) -> None:
        a = value(machine, active)
        first = np.asarray(position(machine, active) & np.uint32(255)).astype(np.int64)
        many = np.asarray(length(machine, active) & np.uint32(255)).astype(np.int64)
        shifted = np.where(first >= n_bits, unsigned(0), a >> np.minimum(first, n_bits - 1).astype(unsigned))
        found = shifted & _ones(many, unsigned)
        if kind[0] == "s":
            # The sign is the field's highest bit, or the number's own where the field goes beyond it.
            top = np.clip(np.minimum(first + many - 1, n_bits - 1), 0, None).astype(unsigned)
            negative = ((a >> top) & unsigned(1)).astype(np.bool_) & (many > 0)
            found = np.where(
                negative, found | ~_ones(np.minimum(many, np.maximum(n_bits - first, 0)), unsigned), found
            )
        write(machine, active, found)

    return run


@builds("bfi")
def _insert(form: Form) -> Operation:
    form.known()
    kind = form.type
    unsigned = UNSIGNED[TYPE_BYTES[kind]]
    field, base = form.reader(1, kind), form.reader(2, kind)
    position, length, write = form.reader(3, "u32"), form.reader(4, "u32"), form.writer(0, kind)
    n_bits = 8 * TYPE_BYTES[kind]

    def run(machine: Any, active: Any) -> None:
        first = np.asarray(position(machine, active) & np.uint32(255)).astype(np.int64)
        many = np.asarray(length(machine, active) & np.uint32(255)).astype(np.int64)
        by = np.minimum(first, n_bits - 1).astype(unsigned)
        mask = np.where(first >= n_bits, unsigned(0), _ones(many, unsigned) << by)
        write(machine, active, (base(machine, active) & ~mask) | ((field(machine, active) << by) & mask))

    return run


@builds("bfind", "clz")
def _highest(form: Form) -> Operation:
    form.known("shiftamt")
    kind, count = form.type, form.instruction.opcode == "clz"
    n_bits = 8 * TYPE_BYTES[kind]

    def run(a: Any) -> Any:
        a = np.asarray(a)
        a = np.where(a < 0, ~a, a).astype(np.uint64) if kind[0] == "s" else a.astype(np.uint64)
        # Exact below 2^53: the halves are looked at apart.
        high, low = (a >> np.uint64(32)).astype(np.float64), (a & np.uint64(0xFFFFFFFF)).astype(np.float64)
        length = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1])
        if count:
            return (n_bits - length).astype(np.uint32)
        return np.where(
            length == 0, 0xFFFFFFFF, n_bits - length if form.has("shiftamt") else length - 1
        ).astype(np.uint32)

    return _elementwise(form, run, 1, into="u32")


@builds("popc")
def _popc(form: Form) -> Operation:
    form.known()
    return _elementwise(form, lambda a: np.bitwise_count(a).astype(np.uint32), 1, into="u32")


@builds("brev")
def _reverse(form: Form) -> Operation:
    form.known()
    n_bits = 8 * TYPE_BYTES[form.type]

    def run(a: Any) -> Any:
        kind = np.asarray(a).dtype.type
        result = kind(0)
        for bit in range(n_bits):
            result = result | (((a >> kind(bit)) & kind(1)) << kind(n_bits - 1 - bit))
        return result

    return _elementwise(form, run, 1)


@builds("prmt")
def _permute(form: Form) -> Operation:
    """Choose four of eight bytes by four digits; a digit's highest bit asks for copies of the byte's sign."""
    form.known()
    byte, ones = np.uint64(255), np.uint32(255)

    def run(a: Any, b: Any, digits: Any) -> Any:
        both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
        result: Any = np.uint32(0)
        for place in range(4):
            digit = (digits >> np.uint32(4 * place)) & np.uint32(15)
            chosen = ((both >> ((digit & np.uint32(7)).astype(np.uint64) << np.uint64(3))) & byte).astype(
                np.uint32
            )
            signs = np.where(chosen & np.uint32(128), ones, np.uint32(0))
            chosen = np.where(digit & np.uint32(8), signs, chosen) if np.any(digit & np.uint32(8)) else chosen
            result = result | (chosen << np.uint32(8 * place))
        return result

    return _elementwise(form, run, 3)


@builds("selp")
def _select(form: Form) -> Operation:
    form.known()
    kind = f"b{8 * TYPE_BYTES[form.type]}"
    yes, no, which, write = (
        form.reader(1, kind),
        form.reader(2, kind),
        form.reader(3, "pred"),
        form.writer(0, kind),
    )
    return lambda machine, active: write(
        machine, active, np.where(which(machine, active), yes(machine, active), no(machine, active))
    )


@builds("slct")
def _select_sign(form: Form) -> Operation:
    kind, sign = form.instruction.modifiers[-2:]
    yes, no, which, write = (
        form.reader(1, kind),
        form.reader(2, kind),
        form.reader(3, sign),
        form.writer(0, kind),
    )
    return lambda machine, active: write(
        machine, active, np.where(which(machine, active) >= 0, yes(machine, active), no(machine, active))
    )


COMPARISONS: dict[str, Function] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
"""Comparisons by name; of floats, `equ` and the like hold for NaN as well."""


def _comparison(name: str, is_float: bool) -> Function:
    """Give a comparison; of floats with NaN it is false, or true if its name ends in u."""
    if name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")
    if is_float and name.endswith("u") and name[:-1] in COMPARISONS:
        inner = COMPARISONS[name[:-1]]
        return lambda a, b: inner(a, b) | np.isnan(a) | np.isnan(b)
    if is_float and name == "ne":
        return lambda a, b: (a != b) & ~(np.isnan(a) | np.isnan(b))
    return COMPARISONS[name]


@builds("setp", "set")
def _compare(form: Form) -> Operation:
    """Compare, combine with a predicate if one is given, and write the result and its opposite if that is asked for."""
    modifiers = [modifier for modifier in form.instruction.modifiers if modifier != "ftz"]
    name, kind = modifiers[0], modifiers[-1]
    boolean = modifiers[1] if len(modifiers) > 2 and modifiers[1] in LOGIC else None
    compare = _comparison(name, kind in _FLOATS)
    a, b = form.reader(1, kind), form.reader(2, kind)
    combine = form.reader(3, "pred") if boolean else None
    target = form.operand(0)
    if form.instruction.opcode == "set" or kind in PACKED:
        raise form.unknown()
    writes = (
        [form.into(target.first), form.into(target.second)]
        if isinstance(target, Pair)
        else [form.into(target)]
    )

    def run(machine: Any, active: Any) -> None:
        result = compare(a(machine, active), b(machine, active))
        results = [result, ~np.asarray(result)]
        if combine is not None and boolean is not None:
            other = combine(machine, active)
            results = [LOGIC[boolean](part, other) for part in results]
        for write, part in zip(writes, results, strict=False):
            write(machine, active, part)

    return run
