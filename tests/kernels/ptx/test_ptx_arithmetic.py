"""Instructions of one thread, on numbers with known results: by Python's integers, by numpy, by exact fractions."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_texts import computed, run_body

RNG = np.random.default_rng(7)
EDGES = [
    0,
    1,
    2,
    31,
    32,
    33,
    127,
    128,
    255,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
]


def words(seed, many=96, bits=32):
    found = np.random.default_rng(seed).integers(0, 2**bits, many, dtype=np.uint64)
    found[: len(EDGES)] = np.roll(EDGES, seed)
    return found.astype(np.dtype(f"u{bits // 8}"))


def signed(number, bits):
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


A, B, C = words(0), words(3), words(5)


def by_python(function, *sources, bits=32):
    return [function(*map(int, numbers)) & ((1 << bits) - 1) for numbers in zip(*sources, strict=True)]


def toward_zero(a, b):
    return (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


def permuted(a, b, digits):
    data = (a | b << 32).to_bytes(8, "little")
    found = 0
    for place in range(4):
        digit = digits >> 4 * place & 15
        byte = data[digit & 7]
        found |= (255 * (byte >> 7) if digit & 8 else byte) << 8 * place
    return found


INTEGERS = {
    "add.s32 $0, $1, $2;": lambda a, b, c: a + b,
    "sub.u32 $0, $1, $2;": lambda a, b, c: a - b,
    "mul.lo.s32 $0, $1, $2;": lambda a, b, c: a * b,
    "mul.hi.u32 $0, $1, $2;": lambda a, b, c: a * b >> 32,
    "mul.hi.s32 $0, $1, $2;": lambda a, b, c: signed(a, 32) * signed(b, 32) >> 32,
    "mad.lo.s32 $0, $1, $2, $3;": lambda a, b, c: a * b + c,
    "and.b32 $0, $1, $2;": lambda a, b, c: a & b,
    "or.b32 $0, $1, $2;": lambda a, b, c: a | b,
    "xor.b32 $0, $1, $2;": lambda a, b, c: a ^ b,
    "not.b32 $0, $1;": lambda a, b, c: ~a,
    "neg.s32 $0, $1;": lambda a, b, c: -a,
    "abs.s32 $0, $1;": lambda a, b, c: abs(signed(a, 32)),
    "min.u32 $0, $1, $2;": lambda a, b, c: min(a, b),
    "max.s32 $0, $1, $2;": lambda a, b, c: max(signed(a, 32), signed(b, 32)),
    "lop3.b32 $0, $1, $2, $3, 0xE8;": lambda a, b, c: a & b | a & c | b & c,
    "shl.b32 $0, $1, $2;": lambda a, b, c: a << min(b, 32),
    "shr.u32 $0, $1, $2;": lambda a, b, c: a >> min(b, 32),
    "shr.s32 $0, $1, $2;": lambda a, b, c: signed(a, 32) >> min(b, 32),
    "shf.l.wrap.b32 $0, $1, $2, $3;": lambda a, b, c: (a | b << 32) << (c & 31) >> 32,
    "shf.r.clamp.b32 $0, $1, $2, $3;": lambda a, b, c: (a | b << 32) >> min(c, 32),
    "bfe.u32 $0, $1, 5, 9;": lambda a, b, c: a >> 5 & 0x1FF,
    "bfe.s32 $0, $1, 5, 9;": lambda a, b, c: signed(a >> 5 & 0x1FF, 9),
    "bfe.s32 $0, $1, 28, 9;": lambda a, b, c: signed(a, 32) >> 28,
    "bfi.b32 $0, $1, $2, 4, 8;": lambda a, b, c: b & ~0xFF0 | (a & 0xFF) << 4,
    "popc.b32 $0, $1;": lambda a, b, c: a.bit_count(),
    "clz.b32 $0, $1;": lambda a, b, c: 32 - a.bit_length(),
    "bfind.u32 $0, $1;": lambda a, b, c: a.bit_length() - 1,
    "brev.b32 $0, $1;": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "prmt.b32 $0, $1, $2, $3;": permuted,
    "selp.b32 $0, $1, $2, 1;": lambda a, b, c: a,
}


@pytest.mark.parametrize("statement", INTEGERS)
def test_integers_are_those_of_python(statement):
    assert computed(statement, A, B, C).tolist() == by_python(INTEGERS[statement], A, B, C)


def test_division_cuts_towards_zero():
    b = np.where(B == 0, 7, B)
    assert computed("div.u32 $0, $1, $2;", A, b.astype(np.uint32)).tolist() == by_python(
        lambda a, b: a // b, A, b
    )
    want = by_python(lambda a, b: toward_zero(signed(a, 32), signed(b, 32)), A, b)
    assert computed("div.s32 $0, $1, $2;", A, b.astype(np.uint32)).tolist() == want
    rest = by_python(
        lambda a, b: signed(a, 32) - toward_zero(signed(a, 32), signed(b, 32)) * signed(b, 32), A, b
    )
    assert computed("rem.s32 $0, $1, $2;", A, b.astype(np.uint32)).tolist() == rest


def test_wide_products_and_64_bits():
    wide = computed("mul.wide.s32 $0, $1, $2;", A, B, result=np.uint64)
    assert wide.tolist() == by_python(lambda a, b: signed(a, 32) * signed(b, 32), A, B, bits=64)
    x, y = words(1, bits=64), words(2, bits=64)
    high = computed("mul.hi.u64 $0, $1, $2;", x, y, result=np.uint64)
    assert high.tolist() == by_python(lambda a, b: a * b >> 64, x, y, bits=64)
    high = computed("mul.hi.s64 $0, $1, $2;", x, y, result=np.uint64)
    assert high.tolist() == by_python(lambda a, b: signed(a, 64) * signed(b, 64) >> 64, x, y, bits=64)
    sums = computed("mad.wide.u32 $0, $1, $2, $3;", A, B, x, result=np.uint64)
    assert sums.tolist() == by_python(lambda a, b, c: a * b + c, A, B, x, bits=64)
    shifted = computed("shr.s64 $0, $1, 40;", x, result=np.uint64)
    assert shifted.tolist() == by_python(lambda a: signed(a, 64) >> 40, x, bits=64)


@pytest.mark.parametrize("order", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("kind", ["s32", "u32"])
def test_comparisons(order, kind):
    read = (lambda a: signed(a, 32)) if kind == "s32" else (lambda a: a)
    found = computed(f"setp.{order}.{kind} %p1, $1, $2;\nselp.b32 $0, 1, 0, %p1;", A, B)
    compare = {
        "eq": "__eq__",
        "ne": "__ne__",
        "lt": "__lt__",
        "le": "__le__",
        "gt": "__gt__",
        "ge": "__ge__",
    }[order]
    assert found.tolist() == by_python(lambda a, b: getattr(read(a), compare)(read(b)), A, B)


def test_comparisons_of_floats_know_nan():
    a = np.array([1, 1, np.nan, np.nan, 0.0, np.inf], np.float32)
    b = np.array([1, 2, 1, np.nan, -0.0, np.inf], np.float32)
    for order, want in {
        "lt": [0, 1, 0, 0, 0, 0], "ltu": [0, 1, 1, 1, 0, 0], "eq": [1, 0, 0, 0, 1, 1], "ne": [0, 1, 0, 0, 0, 0],
        "neu": [0, 1, 1, 1, 0, 0], "nan": [0, 0, 1, 1, 0, 0], "num": [1, 1, 0, 0, 1, 1],
    }.items():  # fmt: skip
        found = computed(f"setp.{order}.f32 %p1, $1, $2;\nselp.b32 $0, 1, 0, %p1;", a, b)
        assert found.tolist() == want, order


def test_a_comparison_with_a_predicate_gives_a_result_and_its_opposite():
    statement = (
        "setp.lt.u32 %p3, $1, 1000;\nsetp.lt.and.u32 %p1|%p2, $1, $2, %p3;\n"
        "selp.b32 $0, 1, 0, %p1;\n@%p2 add.u32 $0, $0, 2;"
    )
    want = by_python(lambda a, b: (a < b and a < 1000) + 2 * (a >= b and a < 1000), A, B)
    assert computed(statement, A, B).tolist() == want


def floats(seed, scale=30):
    rng = np.random.default_rng(seed)
    numbers = (rng.standard_normal(96) * 2.0 ** rng.integers(-scale, scale, 96)).astype(np.float32)
    numbers[:4] = 0.0, -0.0, 1.0, -1.5
    return numbers


def nearest(exact):
    """An exact fraction as the nearest float32, by trying both neighbours."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1))


def test_fused_products_are_rounded_once():
    a, b, c = floats(1), floats(2), floats(3)
    # Sums that lie all but halfway: rounding twice would be wrong for them.
    a[4:36] = 1 + RNG.integers(1, 2**12, 32) * np.float32(2.0**-12)
    b[4:36] = 1 + RNG.integers(1, 2**12, 32) * np.float32(2.0**-12)
    c[4:36] = RNG.choice([-1, 1], 32) * np.float32(2.0**-60)
    c[36:50] = -a[36:50] * b[36:50]
    found = computed("fma.rn.f32 $0, $1, $2, $3;", a, b, c, result=np.float32)
    for x, y, z, result in zip(a, b, c, found, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert nearest(exact) == result, (x, y, z)


@pytest.mark.parametrize(
    ("name", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)]
)
def test_float32_is_that_of_ieee(name, function):
    a, b = floats(1), floats(2)
    b[b == 0] = 3
    assert computed(f"{name}.rn.f32 $0, $1, $2;", a, b, result=np.float32).tolist() == function(a, b).tolist()


def test_float_functions():
    a = np.abs(floats(4, 4)) + np.float32(0.1)
    for name, function in {
        "sqrt.rn": np.sqrt, "rcp.rn": lambda x: 1 / x, "ex2.approx": np.exp2, "lg2.approx": np.log2,
        "rsqrt.approx": lambda x: x**-0.5,
    }.items():  # fmt: skip
        found = computed(f"{name}.f32 $0, $1;", a, result=np.float32)
        assert np.allclose(found, function(a.astype(np.float64)), rtol=1e-7, atol=1e-7), name


def test_the_greater_of_a_number_and_nan_is_the_number():
    a = np.array([np.nan, 1, -0.0, 0.0], np.float32)
    b = np.array([2, np.nan, 0.0, -0.0], np.float32)
    found = computed("max.f32 $0, $1, $2;", a, b, result=np.float32)
    assert found.tolist() == [2, 1, 0, 0]
    assert not np.signbit(found[2:]).any()
    low = computed("min.f32 $0, $1, $2;", a, b, result=np.float32)
    assert np.signbit(low[2:]).all()
    assert np.isnan(computed("max.NaN.f32 $0, $1, $2;", a, b, result=np.float32)[:2]).all()


def test_subnormal_numbers_are_flushed_if_asked():
    tiny = np.full(4, 2.0**-130, np.float32)
    assert computed("add.ftz.f32 $0, $1, $1;", tiny, result=np.float32).tolist() == [0.0] * 4
    assert computed("add.f32 $0, $1, $1;", tiny, result=np.float32).tolist() == [2.0**-129] * 4


def test_conversions_of_integers():
    narrow = words(2, bits=16)
    assert computed("cvt.s32.s16 $0, $1;", narrow).tolist() == by_python(lambda a: signed(a, 16), narrow)
    assert computed("cvt.u32.u16 $0, $1;", narrow).tolist() == narrow.tolist()
    assert computed("cvt.s32.s8 $0, $1;", A).tolist() == by_python(lambda a: signed(a & 255, 8), A)
    assert computed("cvt.u16.u32 $0, $1;", A, result=np.uint16).tolist() == (A & 0xFFFF).tolist()
    want = by_python(lambda a: signed(a, 32), A, bits=64)
    assert computed("cvt.s64.s32 $0, $1;", A, result=np.uint64).tolist() == want
    assert computed("cvt.sat.u8.s32 $0, $1;", A).tolist() == by_python(
        lambda a: min(max(signed(a, 32), 0), 255), A
    )


def test_conversions_of_floats():
    a = floats(5, 20)
    half = computed("cvt.rn.f16.f32 $0, $1;", a, result=np.uint16)
    with np.errstate(over="ignore"):
        assert half.tolist() == a.astype(np.float16).view(np.uint16).tolist()
    brain = computed("cvt.rn.bf16.f32 $0, $1;", a, result=np.uint16)
    assert brain.tolist() == a.astype(ml_dtypes.bfloat16).view(np.uint16).tolist()
    pair = computed("cvt.rn.f16x2.f32 $0, $1, $2;", a, a[::-1].copy())
    assert (pair & 0xFFFF).tolist() == half[::-1].tolist()
    assert (pair >> 16).tolist() == half.tolist()
    wide = computed("cvt.f32.f16 $0, $1;", half, result=np.float32)
    assert np.array_equal(wide, half.view(np.float16).astype(np.float32))
    limits = np.array([1e20, -1e20, np.nan, 2.5, -2.5, 0.5], np.float32)
    whole = computed("cvt.rzi.s32.f32 $0, $1;", limits, result=np.int32)
    assert whole.tolist() == [2**31 - 1, -(2**31), 0, 2, -2, 0]
    assert computed("cvt.rni.s32.f32 $0, $1;", limits[3:], result=np.int32).tolist() == [2, -2, 0]
    assert (
        computed("cvt.rn.f32.s32 $0, $1;", A, result=np.float32).tolist()
        == A.view(np.int32).astype(np.float32).tolist()
    )


def test_conversions_of_eight_bit_floats():
    a, b = floats(5, 6), floats(6, 6)
    for name, kind, limit in (("e4m3", ml_dtypes.float8_e4m3fn, 448), ("e5m2", ml_dtypes.float8_e5m2, 57344)):
        narrow = computed(f"cvt.rn.satfinite.{name}x2.f32 $0, $1, $2;", a, b, result=np.uint16)
        low = np.clip(b, -limit, limit).astype(kind).view(np.uint8)
        high = np.clip(a, -limit, limit).astype(kind).view(np.uint8)
        assert narrow.tolist() == (low | high.astype(np.uint16) << 8).tolist()
        wide = computed(f"cvt.rn.f16x2.{name}x2 $0, $1;", narrow)
        assert (wide & 0xFFFF).tolist() == low.view(kind).astype(np.float16).view(np.uint16).tolist()


def test_halves_of_a_register_are_computed_apart():
    a, b = floats(1, 3).astype(np.float16), floats(2, 3).astype(np.float16)
    x, y = (np.ascontiguousarray(numbers).view(np.uint32) for numbers in (a, b))
    assert np.array_equal(computed("add.rn.f16x2 $0, $1, $2;", x, y).view(np.float16), a + b)
    found = computed("fma.rn.f16x2 $0, $1, $2, $1;", x, y).view(np.float16)
    exact = a.astype(np.float64) * b.astype(np.float64) + a.astype(np.float64)
    assert np.array_equal(found, exact.astype(np.float16))
    assert np.array_equal(
        computed("max.u16x2 $0, $1, $2;", x, y).view(np.uint16),
        np.maximum(a.view(np.uint16), b.view(np.uint16)),
    )
    c, d = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
    found = computed("mul.rn.bf16x2 $0, $1, $2;", c.view(np.uint32), d.view(np.uint32)).view(
        ml_dtypes.bfloat16
    )
    assert np.array_equal(found, (c.astype(np.float64) * d.astype(np.float64)).astype(ml_dtypes.bfloat16))


def test_registers_are_packed_and_unpacked():
    found = computed("mov.b32 {%h1, %h2}, $1;\nmov.b32 $0, {%h2, %h1};", A)
    assert found.tolist() == by_python(lambda a: a >> 16 | a << 16, A)


def test_loads_fill_with_zeros_or_the_sign_and_stores_cut():
    source, target = np.arange(128, 256, dtype=np.uint8), np.zeros(32, np.int32)
    body = """
        cvt.u64.u32 %d3, %r0; add.s64 %d4, %d3, %d0; mad.wide.u32 %d5, %r0, 4, %d1;
        ld.global.s8 %r1, [%d4]; ld.global.u8 %r2, [%d4 + 32]; add.s32 %r3, %r1, %r2;
        st.global.b32 [%d5], %r3; st.global.b8 [%d4], %r2;"""
    run_body(body, source, target)
    assert target.tolist() == [i - 128 + 160 + i for i in range(32)]
    assert source[:32].tolist() == source[32:64].tolist()


def test_branches_loops_and_early_exits():
    counts = np.zeros(64, np.uint32)
    body = """
        mad.wide.u32 %d1, %r0, 4, %d0;
        setp.ge.u32 %p1, %r0, 60;
        @%p1 ret;
        mov.b32 %r1, 0;
        mov.b32 %r2, 0;
    $again:
        add.u32 %r1, %r1, 1;
        and.b32 %r3, %r1, 1;
        setp.eq.u32 %p2, %r3, 0;
        @%p2 bra $even;
        add.u32 %r2, %r2, 10;
    $even:
        setp.le.u32 %p3, %r1, %r0;
        @%p3 bra $again;
        st.global.b32 [%d1], %r2;"""
    run_body(body, counts, threads=64)
    assert counts.tolist() == [10 * (i // 2 + 1) for i in range(60)] + [0] * 4


def test_programs_of_a_grid_know_their_numbers():
    found = np.zeros((5, 4, 3, 2), np.uint32)
    body = """
        mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z;
        mov.u32 %r4, %nctaid.x; mov.u32 %r5, %nctaid.y;
        mad.lo.u32 %r6, %r3, %r5, %r2; mad.lo.u32 %r6, %r6, %r4, %r1;
        shl.b32 %r7, %r1, 8; or.b32 %r7, %r7, %r2; shl.b32 %r8, %r3, 16; or.b32 %r7, %r7, %r8;
        setp.ge.u32 %p1, %r0, 2;
        @%p1 ret;
        mad.lo.u32 %r6, %r6, 2, %r0; mad.wide.u32 %d1, %r6, 4, %d0; st.global.b32 [%d1], %r7;"""
    for seed in (None, 3):
        found[:] = 0
        run_body(body, found, grid=(3, 4, 5), seed=seed)
        z, y, x, _ = np.indices(found.shape)
        assert np.array_equal(found, x << 8 | y | z << 16)


def test_atomics_take_turns_in_the_order_of_programs():
    counter, tickets = np.zeros(1, np.uint32), np.zeros(16, np.uint32)
    body = """
        setp.ne.u32 %p1, %r0, 0;
        @%p1 ret;
        mov.u32 %r1, %ctaid.x; mad.wide.u32 %d3, %r1, 4, %d1;
        atom.global.gpu.acq_rel.add.u32 %r2, [%d0], 1;
        st.global.b32 [%d3], %r2;"""
    run_body(body, counter, tickets, grid=(16, 1, 1))
    assert counter.tolist() == [16]
    assert tickets.tolist() == list(range(16))
    orders = set()
    for seed in range(3):
        counter[:] = 0
        run_body(body, counter, tickets, grid=(16, 1, 1), seed=seed)
        assert sorted(tickets.tolist()) == list(range(16))
        orders.add(tuple(tickets.tolist()))
    assert len(orders) == 3


def test_atomics_of_other_kinds():
    places = np.array([5, 5, 5, 0xF0], np.uint32)
    sums = np.zeros(1, np.float32)
    body = """
        red.global.max.u32 [%d0], %r0; red.global.min.u32 [%d0 + 4], %r0; red.global.xor.b32 [%d0 + 12], %r0;
        atom.global.cas.b32 %r1, [%d0 + 8], 5, %r0;
        mov.b32 %r2, 0f3F000000; atom.global.add.f32 %r3, [%d1], %r2;"""
    run_body(body, places, sums)
    assert places.tolist() == [31, 0, 0, 0xF0]  # thread 0 finds the five; numbers 0 to 31 cancel out
    assert sums.tolist() == [16.0]
