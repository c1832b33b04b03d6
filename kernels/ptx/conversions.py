"""Conversions between types, and moves between registers."""

from typing import Any

import numpy as np

from kernels.ptx.decode import FLOATS, SIGNED, Form, Operation, Writer, builds, numbers_of
from kernels.ptx.floats import EIGHT_BITS, bfloat_bits, flushed
from kernels.ptx.memory import UNSIGNED
from kernels.ptx.parse import TYPE_BYTES
from kernels.ptx.program import Vector

_ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_FLOATS = ("f16", "f32", "f64", "bf16")
_PAIRS = {"f16x2": "f16", "bf16x2": "bf16"}


def _to_integer(numbers: Any, kind: str) -> Any:
    """Round float64 that are whole to an integer type: what does not fit becomes its limit, and NaN zero."""
    dtype = np.dtype(SIGNED[TYPE_BYTES[kind]] if kind[0] == "s" else UNSIGNED[TYPE_BYTES[kind]])
    limits = np.iinfo(dtype)
    whole = np.nan_to_num(np.asarray(numbers, np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    # The highest limit of 64 bits is no float64: it is set apart.
    high = whole >= float(limits.max)
    inside = np.where(high, 0, np.maximum(whole, float(limits.min))).astype(dtype)
    return np.where(high, dtype.type(limits.max), inside)


def _saturated(numbers: Any, kind: str) -> Any:
    """Limit integers to those of another type."""
    limits = np.iinfo(SIGNED[TYPE_BYTES[kind]] if kind[0] == "s" else UNSIGNED[TYPE_BYTES[kind]])
    numbers = np.asarray(numbers)
    own = np.iinfo(numbers.dtype)
    return np.clip(numbers, max(limits.min, own.min), min(limits.max, own.max))


@builds("cvt")
def _convert(form: Form) -> Operation:
    """Convert one number, or two into the halves of a register."""
    modifiers = [m for m in form.instruction.modifiers if m not in ("ftz", "sat", "satfinite", "relu")]
    target, source = modifiers[-2], modifiers[-1]
    roundings = set(modifiers[:-2])
    if roundings - {"rn", "rna", "rz", *_ROUNDINGS} or form.has("relu"):
        raise form.unknown()
    if target.removesuffix("x2") in EIGHT_BITS or source.removesuffix("x2") in EIGHT_BITS:
        return _convert_eight(form, target, source)
    if target == "tf32":
        return _convert_tf32(form)
    toward_zero = "rz" in roundings
    if target in _PAIRS:
        # The first source is the upper half.
        high, low, write = form.reader(1, source), form.reader(2, source), form.writer(0, "b32")
        half = _PAIRS[target]

        def run_pair(machine: Any, active: Any) -> None:
            upper = _float_bits(high(machine, active), half, toward_zero).astype(np.uint32) << np.uint32(16)
            write(machine, active, upper | _float_bits(low(machine, active), half, toward_zero))

        return run_pair
    read = form.reader(1, source)
    if target in _FLOATS:
        write = form.writer(0, f"b{8 * TYPE_BYTES[target]}")

        def run_float(machine: Any, active: Any) -> None:
            numbers = np.asarray(read(machine, active))
            for name in roundings & set(_ROUNDINGS):
                numbers = _ROUNDINGS[name](numbers)
            if form.has("ftz") and source == "f32":
                numbers = flushed(numbers)
            if form.has("sat"):
                numbers = np.clip(np.nan_to_num(numbers, nan=0.0), 0, 1)
            write(machine, active, _float_bits(numbers, target, toward_zero))

        return run_float
    write = form.writer(0, target)
    if source in _FLOATS:
        rounding = _ROUNDINGS[next(iter(roundings & set(_ROUNDINGS)))]
        return lambda machine, active: write(
            machine,
            active,
            _to_integer(rounding(np.asarray(read(machine, active)).astype(np.float64)), target),
        )
    return _convert_integer(form, target, source)


def _convert_integer(form: Form, target: str, source: str) -> Operation:
    """Cut an integer, or fill it with zeros or its sign."""
    read, write = form.reader(1, source), form.writer(0, target)
    dtype = SIGNED[TYPE_BYTES[target]] if target[0] == "s" else UNSIGNED[TYPE_BYTES[target]]
    if form.has("sat"):
        return lambda machine, active: write(
            machine, active, _saturated(read(machine, active), target).astype(dtype)
        )
    return lambda machine, active: write(machine, active, np.asarray(read(machine, active)).astype(dtype))


def _float_bits(numbers: Any, kind: str, toward_zero: bool) -> Any:
    """Round numbers to a float type: -> its bits."""
    numbers = np.asarray(numbers)
    if kind == "bf16":
        if toward_zero:
            return (numbers.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return bfloat_bits(numbers if numbers.dtype == np.float64 else numbers.astype(np.float32))
    dtype = FLOATS[kind]
    if numbers.dtype == dtype:
        return numbers.view(UNSIGNED[numbers.dtype.itemsize])
    near = numbers.astype(dtype)
    if toward_zero:
        far = np.abs(near.astype(np.float64)) > np.abs(numbers.astype(np.float64))
        near = np.where(far, np.nextafter(near, dtype(0)), near)
    return near.view(UNSIGNED[near.dtype.itemsize])


def _convert_eight(form: Form, target: str, source: str) -> Operation:
    """Convert two 8-bit floats from or to wider ones; beyond their range they become the greatest number."""
    # The lower byte is the lower half: of two sources, the second one.
    if target in _PAIRS:
        eight = EIGHT_BITS[source.removesuffix("x2")]
        read, write = form.bits(form.operand(1), 2), form.writer(0, "b32")

        def run_wide(machine: Any, active: Any) -> None:
            pairs = np.ascontiguousarray(np.atleast_1d(read(machine, active))).view(eight).reshape(-1, 2)
            halves = np.ascontiguousarray(_float_bits(pairs.astype(np.float32), _PAIRS[target], False))
            write(machine, active, halves.view(np.uint32).reshape(-1))

        return run_wide
    eight = EIGHT_BITS[target.removesuffix("x2")]
    limit = np.float32(448.0 if target.startswith("e4m3") else 57344.0)

    def narrowed(numbers: Any) -> Any:
        numbers = np.asarray(numbers).astype(np.float32)
        return np.clip(numbers, -limit, limit).astype(eight).view(np.uint8)

    write = form.into(form.operand(0))
    if source in _PAIRS:
        pair = form.reader(1, source)
        return lambda machine, active: write(
            machine, active, np.ascontiguousarray(narrowed(pair(machine, active))).view(np.uint16).reshape(-1)
        )
    high, low = form.reader(1, source), form.reader(2, source)
    return lambda machine, active: write(
        machine, active,
        (narrowed(high(machine, active)).astype(np.uint16) << np.uint16(8)) | narrowed(low(machine, active)),
    )  # fmt: skip


def _convert_tf32(form: Form) -> Operation:
    """Round float32 to 10 bits of fraction, ties away from zero or to even."""
    read, write = form.reader(1, "b32"), form.writer(0, "b32")
    away = form.has("rna")

    def run(machine: Any, active: Any) -> None:
        bits = np.asarray(read(machine, active))
        half = np.uint32(0x1000) if away else np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
        finite = (bits & np.uint32(0x7F800000)) != 0x7F800000
        write(machine, active, np.where(finite, (bits + half) & np.uint32(0xFFFFE000), bits))

    return run


@builds("mov")
def _move(form: Form) -> Operation:
    """Copy a register, or pack or unpack parts of one."""
    form.known()
    kind = form.type
    if kind == "pred":
        read, write = form.reader(1, "pred"), form.writer(0, "pred")
        return lambda machine, active: write(machine, active, read(machine, active))
    n_bytes = TYPE_BYTES[kind]
    if isinstance(form.operand(0), Vector):
        return _unpack(form, n_bytes)
    if isinstance(form.operand(1), Vector):
        return _pack(form, n_bytes)
    source, target = form.bits(form.operand(1), n_bytes), form.into(form.operand(0))
    return lambda machine, active: target(machine, active, source(machine, active))


def _unpack(form: Form, n_bytes: int) -> Operation:
    items = form.items(0)
    part = n_bytes // len(items)
    read = form.bits(form.operand(1), n_bytes)
    writes: list[Writer] = [form.into(item) for item in items]

    def run(machine: Any, active: Any) -> None:
        bits = read(machine, active)
        for number, write in enumerate(writes):
            shifted = np.asarray(bits >> np.asarray(bits).dtype.type(8 * part * number))
            write(machine, active, shifted.astype(UNSIGNED[part]))

    return run


def _pack(form: Form, n_bytes: int) -> Operation:
    items = form.items(1)
    part, whole = n_bytes // len(items), UNSIGNED[n_bytes]
    reads = [form.bits(item, part) for item in items if item is not None]
    write = form.into(form.operand(0))

    def run(machine: Any, active: Any) -> None:
        bits = whole(0)
        for number, read in enumerate(reads):
            bits = bits | (np.asarray(read(machine, active)).astype(whole) << whole(8 * part * number))
        write(machine, active, bits)

    return run


@builds("cvta")
def _generic(form: Form) -> Operation:
    """Global addresses are generic ones already; shared ones are not, and stay apart."""
    if not form.has("global"):
        raise form.unknown("addresses of other than global memory")
    read, write = form.bits(form.operand(1), 8), form.into(form.operand(0))
    return lambda machine, active: write(machine, active, read(machine, active))


def pairs_of(bits: Any, kind: str) -> Any:
    """Read 32-bit registers as numbers of a narrower type: -> [..., 32 / width]."""
    n_bytes = TYPE_BYTES.get(kind, 1)
    parts = np.ascontiguousarray(bits)[..., None].view(UNSIGNED[n_bytes])
    if kind in EIGHT_BITS:
        return parts.view(EIGHT_BITS[kind])
    return numbers_of(parts, kind)
