"""Instructions of a whole warp: shuffles, sums over lanes, votes, and matrices that lanes share in shared memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.decode import Form, Operation, builds
from kernels.ptx.errors import IdleLane
from kernels.ptx.memory import UNSIGNED
from kernels.ptx.program import WARP, Immediate, Pair

_ALL = 0xFFFFFFFF


def _whole(form: Form, position: int) -> None:
    """Take masks of members that name the whole warp, as constants or in a register."""
    mask = form.operand(position)
    if isinstance(mask, Immediate) and mask.bits & _ALL != _ALL:
        raise form.unknown(f"members {mask.bits:#x}: expected the whole warp")


@builds("shfl")
def _shuffle(form: Form) -> Operation:
    """Give each lane the register of another one, within a segment of the warp."""
    mode = form.instruction.modifiers[1]
    target = form.operand(0)
    writes = (
        [form.into(target.first), form.into(target.second)]
        if isinstance(target, Pair)
        else [form.into(target)]
    )
    value, by, clamp = (form.bits(form.operand(i), 4) for i in (1, 2, 3))
    if not form.has("sync") or mode not in ("bfly", "up", "down", "idx"):
        raise form.unknown()
    _whole(form, 4)

    def run(machine: Any, active: Any) -> None:
        ids, count = active.ids, active.count
        lane = machine.lane[ids]
        distance = np.broadcast_to(by(machine, active), count).astype(np.int64)
        limits = np.broadcast_to(clamp(machine, active), count).astype(np.int64)
        # Bits 8 to 12 of the last operand name a segment, bits 0 to 4 its last lane.
        segment, limit = (limits >> 8) & 31, limits & 31
        last, first = (lane & segment) | (limit & ~segment & 31), lane & segment
        if mode == "idx":
            source = first | (distance & 31 & ~segment)
        else:
            source = {"bfly": lane ^ distance, "up": lane - distance, "down": lane + distance}[mode]
        inside = source >= last if mode == "up" else source <= last
        lanes = ids - lane + np.where(inside, source, lane)
        values = np.zeros(machine.n_threads, np.uint32)
        values[ids] = value(machine, active)
        if not active.full:
            there = np.zeros(machine.n_threads, np.bool_)
            there[ids] = True
            if not there[lanes].all():
                which = int((~there[lanes]).argmax())
                text = f"lane {int(lanes[which]) % WARP} is read, and takes no part"
                raise IdleLane(text, machine.place(int(ids[which])))
        for write, result in zip(writes, (values[lanes], inside), strict=False):
            write(machine, active, result)

    return run


_REDUCTIONS: dict[str, Any] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


@builds("redux")
def _reduce(form: Form) -> Operation:
    """Combine a register over the lanes of a warp."""
    name = next(m for m in form.instruction.modifiers if m in _REDUCTIONS)
    form.known("sync", name)
    read, write = form.reader(1, form.type), form.writer(0, form.type)
    _whole(form, 2)

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        lanes = np.broadcast_to(read(machine, active), active.count).reshape(-1, WARP)
        result = _REDUCTIONS[name].reduce(lanes, axis=1, dtype=lanes.dtype)
        write(machine, active, np.repeat(result, WARP))

    return run


@builds("vote")
def _vote(form: Form) -> Operation:
    """Count over the lanes of a warp for which a predicate holds."""
    mode = next(m for m in form.instruction.modifiers if m in ("all", "any", "uni", "ballot"))
    read, write = form.reader(1, "pred"), form.into(form.operand(0))
    _whole(form, 2)

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        lanes = np.broadcast_to(read(machine, active), active.count).reshape(-1, WARP)
        if mode == "ballot":
            result: Any = (lanes.astype(np.uint32) << np.arange(WARP, dtype=np.uint32)).sum(
                axis=1, dtype=np.uint32
            )
        else:
            every, some = lanes.all(axis=1), lanes.any(axis=1)
            result = {"all": every, "any": some, "uni": every | ~some}[mode]
        write(machine, active, np.repeat(result, WARP))

    return run


@builds("match")
def _match(form: Form) -> Operation:
    """Find the lanes that hold the same number."""
    if not form.has("any"):
        raise form.unknown()
    read, write = form.reader(1, form.type), form.into(form.operand(0))
    _whole(form, 2)

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        lanes = np.broadcast_to(read(machine, active), active.count).reshape(-1, WARP)
        same = (lanes[:, :, None] == lanes[:, None, :]).astype(np.uint32)
        write(
            machine,
            active,
            (same << np.arange(WARP, dtype=np.uint32)).sum(axis=2, dtype=np.uint32).reshape(-1),
        )

    return run


@builds("activemask")
def _active(form: Form) -> Operation:
    write = form.into(form.operand(0))

    def run(machine: Any, active: Any) -> None:
        there = np.zeros(machine.n_threads, np.uint32)
        there[active.ids] = 1
        masks = (there.reshape(-1, WARP) << np.arange(WARP, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
        write(machine, active, masks[active.ids // WARP])

    return run


@builds("elect")
def _elect(form: Form) -> Operation:
    """Choose the first lane of each warp."""
    target = form.operand(0)
    if not isinstance(target, Pair):
        raise form.unknown()
    write = form.into(target.second)

    def run(machine: Any, active: Any) -> None:
        machine.whole_warps(active)
        write(machine, active, machine.lane[active.ids] == 0)

    return run


@builds("bar")
def _warp_barrier(form: Form) -> Operation:
    """Take a barrier of a warp: lanes are in step already. Barriers of a program are the scheduler's."""
    if not form.has("warp"):
        raise form.unknown()
    return lambda machine, active: machine.whole_warps(active)


def _matrices(form: Form) -> int:
    """Count the matrices of eight rows of sixteen bytes."""
    if not form.has("m8n8") or not form.has("shared") or form.type != "b16":
        raise form.unknown()
    return next(int(m[1:]) for m in form.instruction.modifiers if m in ("x1", "x2", "x4"))


def _rows(
    machine: Any, active: Any, addresses: NDArray[np.int64], many: int
) -> tuple[NDArray[np.int64], Any]:
    """Give the addresses of rows, one of each of the first lanes, and those lanes as threads."""
    machine.whole_warps(active)
    used = np.arange(WARP) < 8 * many
    lanes = np.tile(used, active.count // WARP)
    return addresses[lanes], type(active)(active.ids[lanes], False)


@builds("ldmatrix")
def _load_matrix(form: Form) -> Operation:
    """Read matrices from shared memory: lane 4 r + c gets elements 2 c and 2 c + 1 of row r."""
    many = _matrices(form)
    form.known("sync", "aligned", "m8n8", f"x{many}", "shared", "trans")
    transposed = form.has("trans")
    addresses = form.addresses(1, 4)
    writes = [form.into(item) for item in form.items(0)]

    def run(machine: Any, active: Any) -> None:
        at, lanes = _rows(machine, active, addresses(machine, active), many)
        found = machine.shared.read(
            machine.slot[lanes.ids], machine.warp[lanes.ids], at, 16, machine.fail(lanes)
        )
        elements = np.ascontiguousarray(found).view(np.uint16).reshape(-1, many, 8, 8)
        if transposed:
            elements = elements.transpose(0, 1, 3, 2)
        fragments = np.ascontiguousarray(elements).view(np.uint32).reshape(-1, many, WARP)
        for number, write in enumerate(writes):
            write(machine, active, np.ascontiguousarray(fragments[:, number]).reshape(-1))

    return run


@builds("stmatrix")
def _store_matrix(form: Form) -> Operation:
    """Write matrices to shared memory, as `ldmatrix` reads them."""
    many = _matrices(form)
    form.known("sync", "aligned", "m8n8", f"x{many}", "shared", "trans")
    transposed = form.has("trans")
    addresses = form.addresses(0, 4)
    reads = [form.bits(item, 4) for item in form.items(1) if item is not None]

    def run(machine: Any, active: Any) -> None:
        at, lanes = _rows(machine, active, addresses(machine, active), many)
        parts = [np.broadcast_to(read(machine, active), active.count).reshape(-1, WARP) for read in reads]
        elements = np.ascontiguousarray(np.stack(parts, axis=1)).view(np.uint16).reshape(-1, many, 8, 8)
        if transposed:
            elements = elements.transpose(0, 1, 3, 2)
        data = np.ascontiguousarray(elements).reshape(-1, 8).view(UNSIGNED[8])
        machine.shared.write(machine.slot[lanes.ids], machine.warp[lanes.ids], at, data, machine.fail(lanes))

    return run
