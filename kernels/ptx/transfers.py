"""Loads, stores, atomics, asynchronous copies into shared memory, and what only advises caches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.decode import FLOATS, SIGNED, Form, Operation, Writer, bits_of, builds, numbers_of
from kernels.ptx.memory import UNSIGNED
from kernels.ptx.parse import TYPE_BYTES
from kernels.ptx.program import Address, Operand, Register, Symbol

_CACHE = (
    "global", "shared", "weak", "relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "volatile", "nc",
    "ca", "cg", "cs", "lu", "cv", "wb", "wt", "v2", "v4", "v8", "noftz", "L1::evict_first", "L1::evict_last",
    "L1::evict_normal", "L1::no_allocate", "L1::evict_unchanged", "L2::cache_hint", "L2::evict_first",
    "L2::evict_last", "L2::evict_normal", "L2::64B", "L2::128B", "L2::256B",
)  # fmt: skip
"""Modifiers of accesses that change no result here, or that are read elsewhere."""


def _space(form: Form) -> str:
    """Name the memory of an access."""
    spaces = [m for m in form.instruction.modifiers if m in ("global", "shared", "param", "local", "const")]
    if spaces and spaces[0] in ("local", "const"):
        raise form.unknown(f"{spaces[0]} memory")
    # An address without a space is generic: of global memory, as shared memory has no generic addresses here.
    return spaces[0] if spaces else "global"


@builds("ld", "ldu")
def _load(form: Form) -> Operation:
    space = _space(form)
    if space == "param":
        return _load_parameter(form)
    form.known(*_CACHE)
    kind = form.type
    items = form.items(0)
    width = TYPE_BYTES[kind]
    n_bytes = width * len(items)
    addresses = form.addresses(1, 4 if space == "shared" else 8)
    writes = [_loaded(form, item, kind) for item in items]

    def run(machine: Any, active: Any) -> None:
        at, fail = addresses(machine, active), machine.fail(active)
        machine.accessed("shared" if space == "shared" else "load", active.ids, at, n_bytes)
        if space == "shared":
            found = machine.shared.read(machine.slot[active.ids], machine.warp[active.ids], at, n_bytes, fail)
        else:
            found = machine.memory.read(at, n_bytes, fail)
        parts = np.ascontiguousarray(found).view(UNSIGNED[width]) if width < 16 else found
        for number, write in enumerate(writes):
            write(machine, active, np.ascontiguousarray(parts[:, number]))

    return run


def _loaded(form: Form, item: Operand | None, kind: str) -> Writer:
    """Make a writer of loaded bits: a signed type fills a wider register with its sign."""
    write = form.into(item)
    width = TYPE_BYTES[kind]
    if kind[0] != "s" or not isinstance(item, Register) or item.n_bytes <= width:
        return write
    wide = item.n_bytes
    return lambda machine, active, bits: write(
        machine, active, bits.view(SIGNED[width]).astype(SIGNED[wide]).view(UNSIGNED[wide])
    )


def _load_parameter(form: Form) -> Operation:
    address = form.operand(1)
    if not isinstance(address, Address) or not isinstance(address.base, Symbol):
        raise form.unknown("a parameter by other than its name")
    names = [parameter.name for parameter in form.program.parameters]
    number, offset = names.index(address.base.name), address.offset + address.base.offset
    width = TYPE_BYTES[form.type]
    writes = [form.into(item) for item in form.items(0)]

    def run(machine: Any, active: Any) -> None:
        bits = machine.parameters[number]
        for place, write in enumerate(writes):
            part = (bits >> (8 * (offset + place * width))) & ((1 << (8 * width)) - 1)
            write(machine, active, np.full(active.count, UNSIGNED[width](part)))

    return run


@builds("st")
def _store(form: Form) -> Operation:
    space = _space(form)
    form.known(*_CACHE)
    kind = form.type
    width = TYPE_BYTES[kind]
    addresses = form.addresses(0, 4 if space == "shared" else 8)
    reads = [form.bits(item, width) for item in form.items(1) if item is not None]

    def run(machine: Any, active: Any) -> None:
        data = np.empty((active.count, len(reads)), UNSIGNED[width])
        for number, read in enumerate(reads):
            data[:, number] = read(machine, active)
        at, fail = addresses(machine, active), machine.fail(active)
        slots = machine.slot[active.ids]
        machine.accessed("shared" if space == "shared" else "store", active.ids, at, width * len(reads))
        if space == "shared":
            machine.shared.write(slots, machine.warp[active.ids], at, data, fail)
        else:
            programs = machine.programs[slots] if machine.code.compares_programs else None
            machine.memory.write(at, data, programs, fail)

    return run


_CHANGES: dict[str, Any] = {
    "add": lambda old, new: old + new, "min": min, "max": max, "exch": lambda old, new: new,
    "and": lambda old, new: old & new, "or": lambda old, new: old | new, "xor": lambda old, new: old ^ new,
    "inc": lambda old, new: old * 0 if old >= new else old + old.dtype.type(1),
}  # fmt: skip
"""What atomics make of the old number and a given one."""


@builds("atom", "red")
def _atomic(form: Form) -> Operation:
    """Change places of global memory one thread after the other, in the order in which programs run."""
    opcode, kind = form.instruction.opcode, form.type
    names = [m for m in form.instruction.modifiers if m in _CHANGES or m == "cas"]
    if _space(form) != "global" or len(names) != 1:
        raise form.unknown("an atomic that is not of global memory")
    form.known(*_CACHE, *names)
    name, width = names[0], TYPE_BYTES[kind]
    first = 0 if opcode == "red" else 1
    addresses = form.addresses(first, 8)
    if len(form.items(first + 1)) > 1:
        raise form.unknown("an atomic of a vector")
    given = [_item(form, form.items(first + 1 + i)[0], kind) for i in range(2 if name == "cas" else 1)]
    write = form.into(None if opcode == "red" else form.operand(0))

    def run(machine: Any, active: Any) -> None:
        values = [np.broadcast_to(read(machine, active), _shape(kind, active.count)) for read in given]

        # The order of threads is one of those that a GPU may take; programs are in shuffled order.
        def changed(which: int, old: Any) -> Any:
            number = numbers_of(np.asarray(old), kind)
            if name == "cas":
                return bits_of(np.where(number == values[0][which], values[1][which], number), kind)
            new = np.asarray(_CHANGES[name](number, values[0][which]))
            if kind in FLOATS:
                new = new.astype(FLOATS[kind])
            return np.asarray(bits_of(new, kind)).reshape(())

        write(
            machine,
            active,
            machine.memory.change(addresses(machine, active), width, changed, machine.fail(active)),
        )

    return run


def _shape(kind: str, count: int) -> tuple[int, ...]:
    return (count, 2) if kind.endswith("x2") else (count,)


def _item(form: Form, item: Operand | None, kind: str) -> Any:
    """Make a reader of the one part of a vector."""
    if item is None:
        raise form.unknown()
    read = form.bits(item, TYPE_BYTES[kind])
    return lambda machine, active: numbers_of(read(machine, active), kind)


class AsyncCopies:
    """Copies into shared memory that are under way: what each thread has started, and in which group.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        self.closed = np.zeros(n_threads, np.int64)
        """Groups that each thread has closed."""
        self.pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Any]] = []
        """Threads, their groups, addresses in shared memory, and data."""

    def arrived(
        self, ids: NDArray[np.int64], most_open: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64], Any]]:
        """Take out what is certain to have arrived for some threads: all but their latest so many groups."""
        found = []
        left = []
        member = np.zeros(len(self.closed), np.bool_)
        member[ids] = True
        for threads, groups, at, data in self.pending:
            here = member[threads] & (groups < self.closed[threads] - most_open)
            if here.any():
                found.append((threads[here], at[here], data[here]))
            if not here.all():
                left.append((threads[~here], groups[~here], at[~here], data[~here]))
        self.pending = left
        return found


@builds("cp")
def _copy(form: Form) -> Operation:
    """Copy into shared memory behind the program's back: data arrive when a wait says so, and no sooner."""
    if not form.has("async") or form.has("bulk", "mbarrier"):
        raise form.unknown()
    if form.has("commit_group"):
        return _commit
    if form.has("wait_group", "wait_all"):
        return _wait(0 if form.has("wait_all") else form.integer(0), form.has("wait_all"))
    n_bytes = form.integer(2)
    source_bytes = None
    operands = form.instruction.operands
    if len(operands) > 3 and not (isinstance(operands[3], Register) and operands[3].n_bytes == 8):
        source_bytes = form.bits(operands[3], 4)
    target, source = form.addresses(0, 4), form.addresses(1, 8)

    def run(machine: Any, active: Any) -> None:
        fail, ids = machine.fail(active), active.ids
        at = target(machine, active)
        piece = min(n_bytes, 8)
        data = np.zeros((active.count, n_bytes // piece), UNSIGNED[piece])
        many = np.broadcast_to(
            n_bytes if source_bytes is None else source_bytes(machine, active), active.count
        )
        # What is not copied becomes zero; then the address need not be one.
        whole = many == n_bytes
        if ((many != 0) & ~whole).any():
            raise form.unknown("a copy of a part")
        if whole.any():
            places, copied = source(machine, active)[whole], active.where(whole)
            machine.accessed("load", copied.ids, places, n_bytes)
            data[whole] = machine.memory.read(places, n_bytes, machine.fail(copied))
        machine.shared.promise(machine.slot[ids], machine.warp[ids], at, n_bytes, fail)
        machine.copies.pending.append((ids, machine.copies.closed[ids], at, data))

    return run


def _commit(machine: Any, active: Any) -> None:
    machine.copies.closed[active.ids] += 1


def _wait(most_open: int, everything: bool) -> Operation:
    def run(machine: Any, active: Any) -> None:
        if everything:
            machine.copies.closed[active.ids] += 1
        for ids, at, data in machine.copies.arrived(active.ids, most_open):
            fail = machine.fail(type(active)(ids, False))
            machine.shared.deliver(machine.slot[ids], machine.warp[ids], at, data, fail)

    return run


@builds("createpolicy")
def _policy(form: Form) -> Operation:
    write = form.into(form.operand(0))
    return lambda machine, active: write(machine, active, np.zeros(active.count, np.uint64))


@builds(
    "prefetch",
    "prefetchu",
    "fence",
    "membar",
    "discard",
    "applypriority",
    "nanosleep",
    "griddepcontrol",
    "setmaxnreg",
)
def _nothing(form: Form) -> Operation:
    """Take what has no effect here: all threads see each write at once, and there are no caches."""
    return lambda machine, active: None
