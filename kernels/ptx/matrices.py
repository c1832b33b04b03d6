"""Matrix products: `mma.sync` of a warp, `wgmma` of four warps with operands in swizzled shared memory.

Products are exact and sums are float64, rounded once to the type of the result. The machine's own order and rounding of
sums are not documented, so last bits may differ. The layouts are those of the PTX manual, sections on `mma` and `wgmma`.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.conversions import pairs_of
from kernels.ptx.decode import Form, Operation, Reader, bits_of, builds
from kernels.ptx.errors import PtxError
from kernels.ptx.memory import WARPGROUP
from kernels.ptx.program import WARP, Immediate, Vector

_BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}
"""Types of operands -> bytes."""
_WARPS = 4
"""Of a warpgroup."""
_GROUP = np.arange(WARP) // 4
_PLACE = np.arange(WARP) % 4


def _registers(reads: list[Reader], machine: Any, active: Any, lanes: int) -> NDArray[Any]:
    """Read registers of whole warps or warpgroups: -> unsigned 32-bit [groups, registers, lanes]."""
    parts = [np.broadcast_to(read(machine, active), active.count).reshape(-1, lanes) for read in reads]
    return np.ascontiguousarray(np.stack(parts, axis=1))


def _readers(form: Form, position: int, n_bytes: int = 4) -> list[Reader]:
    return [form.bits(item, n_bytes) for item in form.items(position) if item is not None]


def _numbers(bits: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Read elements in registers: [..., lanes] -> float64 [..., lanes, elements of a register]."""
    if kind == "tf32":
        # The lowest 13 bits are not looked at.
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)[..., None]
    numbers: NDArray[np.float64] = pairs_of(bits, kind).astype(np.float64)
    return numbers


def _left(bits: NDArray[Any], kind: str, rows: int, k: int) -> NDArray[np.float64]:
    """Lay out the left operand: registers [groups, registers, lanes] -> [groups, rows, K], 16 rows per warp."""
    per_register = 4 // _BYTES[kind]
    numbers = _numbers(bits, kind)
    lanes = np.arange(bits.shape[2])
    group, place = _GROUP[lanes % WARP], _PLACE[lanes % WARP]
    matrix = np.zeros((len(bits), rows, k))
    for register in range(bits.shape[1]):
        row = lanes // WARP * 16 + group + 8 * (register & 1)
        column = per_register * place + 4 * per_register * (register >> 1)
        for element in range(per_register):
            matrix[:, row, column + element] = numbers[:, register, :, element]
    return matrix


def _right(bits: NDArray[Any], kind: str, k: int) -> NDArray[np.float64]:
    """Lay out the right operand of a warp: registers [groups, registers, lanes] -> [groups, K, 8]."""
    per_register = 4 // _BYTES[kind]
    numbers = _numbers(bits, kind)
    matrix = np.zeros((len(bits), k, 8))
    for register in range(bits.shape[1]):
        row = per_register * _PLACE + 4 * per_register * register
        for element in range(per_register):
            matrix[:, row + element, _GROUP] = numbers[:, register, :, element]
    return matrix


def _rounded(total: NDArray[np.float64], kind: str, saturate: bool) -> Any:
    """Round sums to the type of a result: -> its bits."""
    if kind == "s32":
        if saturate:
            total = np.clip(total, -(2**31), 2**31 - 1)
        return total.astype(np.int64).astype(np.uint32)
    return bits_of(total, kind)


def _result_numbers(bits: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Read results in registers: [groups, registers, lanes] -> float64 [groups, numbers, lanes]."""
    if kind == "f16":
        halves = pairs_of(bits, "f16").astype(np.float64)
        numbers: NDArray[np.float64] = halves.transpose(0, 1, 3, 2).reshape(len(bits), -1, bits.shape[2])
        return numbers
    return bits.view(np.int32 if kind == "s32" else np.float32).astype(np.float64)


@builds("mma")
def _multiply(form: Form) -> Operation:
    """Multiply 16 rows with 8 columns: one product a warp."""
    types = [m for m in form.instruction.modifiers if m in _BYTES or m in ("f32", "s32")]
    shape = next(m for m in form.instruction.modifiers if re.match(r"m\d+n\d+k\d+$", m))
    form.known("sync", "aligned", shape, "row", "col", "satfinite", *types)
    result, left_kind, right_kind, addend = types
    found = re.match(r"m16n8k(\d+)$", shape)
    if found is None or result != addend or left_kind not in _BYTES or right_kind not in _BYTES:
        raise form.unknown(f"shape {shape} of {', '.join(types)}")
    k = int(found[1])
    writes = [form.into(item) for item in form.items(0)]
    left, right, addends = (_readers(form, position) for position in (1, 2, 3))
    if (
        len(left) * 4 // _BYTES[left_kind] * WARP != 16 * k
        or len(right) * 4 // _BYTES[right_kind] * WARP != 8 * k
    ):
        raise form.unknown(f"{len(left)} and {len(right)} registers of operands for shape {shape}")

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        a = _left(_registers(left, machine, active, WARP), left_kind, 16, k)
        b = _right(_registers(right, machine, active, WARP), right_kind, k)
        total = _result_numbers(_registers(addends, machine, active, WARP), result)
        # Lane 4 g + t has columns 2 t and 2 t + 1 of rows g and g + 8.
        product = a @ b
        for number in range(4):
            total[:, number] += product[:, _GROUP + 8 * (number >> 1), 2 * _PLACE + (number & 1)]
        _write(machine, active, writes, _rounded(total, result, form.has("satfinite")))

    return run


def _write(machine: Any, active: Any, writes: list[Any], bits: NDArray[Any]) -> None:
    """Write results [groups, numbers, lanes] to registers, two numbers of 16 bits to each."""
    if bits.dtype.itemsize == 2:
        pairs = np.ascontiguousarray(bits.reshape(len(bits), -1, 2, bits.shape[2]).transpose(0, 1, 3, 2))
        bits = pairs.view(np.uint32)[..., 0]
    for number, write in enumerate(writes):
        write(machine, active, np.ascontiguousarray(bits[:, number]).reshape(-1))


@builds("wgmma")
def _warpgroup(form: Form) -> Operation:
    """Multiply 64 rows with up to 256 columns; the right operand is in shared memory, the left one there or in registers.

    The product is there at once, so a use of results or a change of operands before the wait is not found.
    """
    if not form.has("mma_async"):
        form.known("fence", "commit_group", "wait_group", "sync", "aligned")
        return lambda machine, active: machine.whole_warps(active)
    types = [m for m in form.instruction.modifiers if m in _BYTES or m in ("f32", "s32")]
    shape = next(m for m in form.instruction.modifiers if re.match(r"m64n\d+k\d+$", m))
    form.known("mma_async", "sync", "aligned", shape, "satfinite", *types)
    result, left_kind, right_kind = types
    n, k = (int(part) for part in re.findall(r"[nk](\d+)", shape))
    if left_kind not in _BYTES or right_kind not in _BYTES:
        raise form.unknown(f"products of {left_kind} and {right_kind}")
    writes, addends = [form.into(item) for item in form.items(0)], _readers(form, 0)
    in_registers = isinstance(form.operand(1), Vector)
    left = _readers(form, 1, 4 if in_registers else 8)
    right = form.bits(form.operand(2), 8)
    keeps = form.bits(form.operand(3), 0)
    rest = form.instruction.operands[4:]
    constants = [part.bits for part in rest if isinstance(part, Immediate)]
    sign = 1 if len(constants) < 2 else constants[0] * constants[1]
    turned = constants[2:]
    turn_left = bool(turned[0]) if len(turned) > 1 and not in_registers else False
    turn_right = bool(turned[-1]) if turned else False

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        if active.count % (_WARPS * WARP) or (active.ids[:: _WARPS * WARP] % (_WARPS * WARP)).any():
            raise PtxError(
                "a product of four warps, in which not all of them take part",
                machine.place(int(active.ids[0])),
            )
        firsts = type(active)(active.ids[:: _WARPS * WARP], False)
        if in_registers:
            a = _left(_registers(left, machine, active, _WARPS * WARP), left_kind, 64, k)
        else:
            a = _from_shared(machine, firsts, left[0](machine, firsts), (64, k), left_kind, turn_left)
        b = _from_shared(machine, firsts, right(machine, firsts), (n, k), right_kind, turn_right)
        total = _result_numbers(_registers(addends, machine, active, _WARPS * WARP), result)
        keep = np.broadcast_to(keeps(machine, firsts), firsts.count)
        # Registers of results hold anything before the first product, NaN as well: they are replaced, not multiplied.
        total[~keep] = 0
        product = sign * (a @ b.transpose(0, 2, 1))
        lanes = np.arange(_WARPS * WARP)
        for number in range(total.shape[1]):
            row = lanes // WARP * 16 + _GROUP[lanes % WARP] + 8 * (number >> 1 & 1)
            total[:, number] += product[:, row, 2 * _PLACE[lanes % WARP] + (number & 1) + 8 * (number >> 2)]
        _write(machine, active, writes, _rounded(total, result, form.has("satfinite")))

    return run


def _from_shared(
    machine: Any, firsts: Any, descriptors: Any, shape: tuple[int, int], kind: str, turned: bool
) -> NDArray[np.float64]:
    """Read an operand that a descriptor names: -> float64 [groups, rows, K].

    A descriptor holds, in units of 16 bytes, a start and two strides, and in its top bits how rows are swizzled. Pieces of
    16 bytes stay whole, so the operand is read in such pieces.
    """
    rows, k = shape
    bits = np.broadcast_to(np.asarray(descriptors), firsts.count).astype(np.uint64)
    fields = bits.astype(np.int64)
    start, leading, stride = ((fields >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    mode = (bits >> np.uint64(62)).astype(np.int64)
    start, leading, stride, mode = (part[:, None, None] for part in (start, leading, stride, mode))
    width = np.choose(mode, [16, 128, 64, 32])
    per_piece = 16 // _BYTES[kind]
    if not turned:
        # Rows lie eight together; along K, a row's bytes lie side by side in its swizzled width.
        row, byte = np.arange(rows)[None, :, None], 16 * np.arange(k // per_piece)[None, None, :]
        beyond = np.where(mode == 0, byte // 16 * leading, byte)
        at = start + row // 8 * stride + row % 8 * width + beyond
    else:
        # The same with rows and K changed over: pieces run along rows.
        row, byte = np.arange(k)[None, :, None], 16 * np.arange(rows // per_piece)[None, None, :]
        at = start + byte // width * leading + row // 8 * stride + row % 8 * width + byte % width
    at = at ^ ((at >> 7 & np.choose(mode, [0, 7, 3, 1])) << 4)
    flat = np.broadcast_to(at, (firsts.count, *at.shape[1:])).reshape(firsts.count, -1)
    ids = np.repeat(firsts.ids, flat.shape[1])
    readers = type(firsts)(ids, False)
    found = machine.shared.read(
        machine.slot[ids], np.full(len(ids), WARPGROUP), flat.reshape(-1), 16, machine.fail(readers)
    )
    words = np.ascontiguousarray(found).view(np.uint32)
    numbers = _numbers(words, kind).reshape(firsts.count, at.shape[1], -1)
    return numbers.transpose(0, 2, 1) if turned else numbers
