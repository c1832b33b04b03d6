"""A thin hand on llvmlite's IR builder: byte addressing, vectors, loops, intrinsics. Knows nothing of sparsity."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, HALF = ir.FloatType(), ir.HalfType()
POINTER = ir.PointerType()

FIRST_LEVEL, SECOND_LEVEL = I32(3), I32(2)
"""Levels of cache, as LLVM's prefetch counts them."""

Value = Any
"""An IR value; llvmlite has no types."""


def vector(element: Any, lanes: int) -> Any:
    """Type of a vector."""
    return ir.VectorType(element, lanes)


def constants(element: Any, numbers: Sequence[int | float]) -> Value:
    """A vector of known numbers."""
    return ir.Constant(ir.VectorType(element, len(numbers)), list(numbers))


def zero(kind: Any) -> Value:
    """Zero of a number type, or of all lanes."""
    return ir.Constant(kind, None)


class Part(NamedTuple):
    """Stored values of a row in lanes, and the elements of x that each token multiplies them with.

    Parameters
    ----------
    weights : IR value
    x : list of IR values
    keep : IR value, lanes of one bit, or None
        Lanes that count; all when absent.
    """

    weights: Value
    x: list[Value]
    keep: Value | None = None


class Code:
    """Instructions being written into one function.

    Parameters
    ----------
    module : llvmlite.ir.Module
    name : str
        Of the function.
    arguments : list of (name, type)
        Pointers may be assumed not to overlap.
    """

    def __init__(self, module: Any, name: str, arguments: list[tuple[str, Any]]) -> None:
        self.module = module
        kind = ir.FunctionType(ir.VoidType(), [kind for _, kind in arguments])
        function = ir.Function(module, kind, name)
        self.arguments: dict[str, Value] = {}
        for argument, (label, kind) in zip(function.args, arguments, strict=True):
            argument.name = label
            if kind is POINTER:
                argument.add_attribute("noalias")
            self.arguments[label] = argument
        self._entry = function.append_basic_block("entry")
        self.ir = ir.IRBuilder(function.append_basic_block("begin"))
        self._begin = self.ir.block

    def finish(self) -> None:
        """End the function."""
        self.ir.ret_void()
        ir.IRBuilder(self._entry).branch(self._begin)

    def variable(self, kind: Any, start: Value) -> Value:
        """A named place that LLVM turns into a register, set to `start` here."""
        place = ir.IRBuilder(self._entry).alloca(kind)
        self.ir.store(start, place)
        return place

    @contextmanager
    def loop(self, name: str, start: Value, stop: Value, step: Value) -> Iterator[Value]:
        """A loop over start, start + step, ... below stop; at least one round is made."""
        place = self.variable(I64, start)
        body = self.ir.append_basic_block(name)
        after = self.ir.append_basic_block(name + "_end")
        self.ir.branch(body)
        self.ir.position_at_end(body)
        counter = self.ir.load(place, typ=I64)
        yield counter
        following = self.ir.add(counter, step)
        self.ir.store(following, place)
        self.ir.cbranch(self.ir.icmp_signed("<", following, stop), body, after)
        self.ir.position_at_end(after)

    def least(self, a: Value, b: Value) -> Value:
        """The smaller of two signed integers."""
        return self.ir.select(self.ir.icmp_signed("<", a, b), a, b)

    def at(self, pointer: Value, *offsets_bytes: Value | int) -> Value:
        """The address so many bytes further."""
        for offset in offsets_bytes:
            index = ir.Constant(I64, offset) if isinstance(offset, int) else offset
            pointer = self.ir.gep(pointer, [index], source_etype=I8)
        return pointer

    def load(self, pointer: Value, kind: Any) -> Value:
        """Read from an address of any alignment."""
        return self.ir.load(pointer, typ=kind, align=1)

    def store(self, value: Value, pointer: Value) -> None:
        """Write to an address of any alignment."""
        self.ir.store(value, pointer, align=1)

    def prefetch(self, pointer: Value, level: Value) -> None:
        """Ask for a cache line to be brought to a level of cache. Any address will do, even one beyond the memory."""
        read, data = I32(0), I32(1)
        self.call("llvm.prefetch.p0", ir.VoidType(), pointer, read, level, data)

    def number(self, kind: Any, value: int) -> Value:
        """A known integer."""
        return ir.Constant(kind, value)

    def call(self, intrinsic: str, result: Any, *values: Value) -> Value:
        """Call an LLVM intrinsic by its full name."""
        function = self.module.globals.get(intrinsic)
        if function is None:
            kind = ir.FunctionType(result, [value.type for value in values])
            function = ir.Function(self.module, kind, intrinsic)
        return self.ir.call(function, values)

    def spread(self, scalar: Value, lanes: int) -> Value:
        """All lanes the same."""
        kind = vector(scalar.type, lanes)
        one = self.ir.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.shuffle(one, one, [0] * lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of two vectors, counted through both, in a known order."""
        return self.ir.shuffle_vector(a, b, constants(I32, lanes))

    def multiply_add(self, a: Value, b: Value, total: Value) -> Value:
        """a * b + total, rounded once."""
        return self.call(f"llvm.fma.{_suffix(a.type)}", a.type, a, b, total)

    def sum_of_lanes(self, lanes: Value) -> Value:
        """Halves added until one number is left."""
        width = lanes.type.count
        while width > 1:
            width //= 2
            low = self.shuffle(lanes, lanes, list(range(width)))
            high = self.shuffle(lanes, lanes, list(range(width, 2 * width)))
            lanes = self.ir.fadd(low, high)
        return self.ir.extract_element(lanes, ir.Constant(I32, 0))


def _suffix(kind: Any) -> str:
    return f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"


def numbers(code: Code, dtype: str, pointer: Value, lanes: int) -> Value:
    """Read stored values, as float32 lanes."""
    build, wide = code.ir, vector(F32, lanes)
    if dtype == "float32":
        return code.load(pointer, wide)
    if dtype == "float16":
        return build.fpext(code.load(pointer, vector(HALF, lanes)), wide)
    bits = build.zext(code.load(pointer, vector(I16, lanes)), vector(I32, lanes))
    return build.bitcast(build.shl(bits, constants(I32, [16] * lanes)), wide)


def number_in_all_lanes(code: Code, dtype: str, pointer: Value, lanes: int) -> Value:
    """Read one stored value, as float32 in every lane."""
    wide = vector(F32, lanes)
    if dtype == "float32":
        return code.spread(code.load(pointer, F32), lanes)
    if dtype == "float16":
        return code.ir.fpext(code.spread(code.load(pointer, HALF), lanes), wide)
    bits = code.ir.bitcast(code.spread(code.load(pointer, I16), 2 * lanes), vector(I32, lanes))
    return code.ir.bitcast(code.ir.shl(bits, constants(I32, [16] * lanes)), wide)
