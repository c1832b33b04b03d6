"""Instructions of warps and warpgroups on numbers with known results: shuffles, sums over lanes, matrices."""

import ml_dtypes
import numpy as np
import pytest
from ptx_texts import computed, run_body

LANES = np.arange(64, dtype=np.uint32)
RNG = np.random.default_rng(11)


@pytest.mark.parametrize(
    ("mode", "by", "clamp", "source"),
    [
        ("bfly", 5, 31, lambda lane: lane ^ 5),
        ("down", 3, 31, lambda lane: lane + 3 if lane + 3 < 32 else lane),
        ("up", 4, 0, lambda lane: lane - 4 if lane >= 4 else lane),
        ("idx", 7, 31, lambda lane: 7),
        ("bfly", 1, 0x1C1F, lambda lane: lane ^ 1),
        ("down", 2, 0x181F, lambda lane: lane + 2 if lane % 8 < 6 else lane),
        ("idx", 2, 0x181F, lambda lane: lane // 8 * 8 + 2),
    ],
)
def test_shuffles_give_the_register_of_another_lane(mode, by, clamp, source):
    found = computed(f"shfl.sync.{mode}.b32 $0|%p1, $1, {by}, {clamp}, -1;", LANES * 7)
    assert found.tolist() == [7 * (32 * (i // 32) + source(i % 32)) for i in range(64)]


def test_a_shuffle_says_whether_its_lane_was_there():
    found = computed("shfl.sync.down.b32 %r99|%p1, $1, 3, 31, -1;\nselp.b32 $0, 1, 0, %p1;", LANES)
    assert found.tolist() == ([1] * 29 + [0] * 3) * 2


def test_sums_and_votes_of_a_warp():
    numbers = RNG.integers(0, 2**32, 64, dtype=np.uint32)
    sums = numbers.reshape(2, 32).sum(axis=1, dtype=np.uint32)
    assert computed("redux.sync.add.s32 $0, $1, -1;", numbers).tolist() == np.repeat(sums, 32).tolist()
    least = numbers.view(np.int32).reshape(2, 32).min(axis=1).view(np.uint32)
    assert computed("redux.sync.min.s32 $0, $1, -1;", numbers).tolist() == np.repeat(least, 32).tolist()
    odd = (numbers & 1).reshape(2, 32)
    ballots = (odd.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1)
    statement = "and.b32 %r99, $1, 1;\nsetp.eq.u32 %p1, %r99, 1;\nvote.sync.ballot.b32 $0, %p1, -1;"
    assert computed(statement, numbers).tolist() == np.repeat(ballots, 32).tolist()
    assert computed("match.any.sync.b32 $0, $1, -1;", LANES % 4).tolist() == [
        0x11111111 << i % 4 for i in range(64)
    ]


def test_matrices_in_shared_memory_are_read_by_lanes():
    numbers = RNG.integers(0, 2**16, (4, 8, 8), dtype=np.uint16)
    found = np.zeros((4, 32, 2), np.uint16)
    body = """
        mul.lo.u32 %r1, %r0, 16; mov.b32 %r2, room; add.u32 %r2, %r2, %r1;
        cvt.u64.u32 %d3, %r1; add.s64 %d4, %d0, %d3;
        ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%d4];
        st.shared.v4.b32 [%r2], {%r4, %r5, %r6, %r7};
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4.{trans}shared.b16 {%r8, %r9, %r10, %r11}, [%r2];
        mad.wide.u32 %d5, %r0, 4, %d1;
        st.global.b32 [%d5], %r8; st.global.b32 [%d5 + 128], %r9;
        st.global.b32 [%d5 + 256], %r10; st.global.b32 [%d5 + 384], %r11;"""
    for trans, want in (("", numbers), ("trans.", numbers.transpose(0, 2, 1))):
        run_body(body.replace("{trans}", trans), numbers, found, shared_bytes=512)
        assert np.array_equal(found.reshape(4, 8, 8), want)


def test_matrices_are_written_to_shared_memory_as_they_are_read():
    numbers = RNG.integers(0, 2**16, (2, 8, 8), dtype=np.uint16)
    found = np.zeros((2, 8, 8), np.uint16)
    body = """
        mad.wide.u32 %d3, %r0, 4, %d0; ld.global.b32 %r4, [%d3]; ld.global.b32 %r5, [%d3 + 128];
        mov.b32 %r2, room; and.b32 %r1, %r0, 15; mad.lo.u32 %r3, %r1, 16, %r2;
        stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%r3], {%r4, %r5};
        mad.lo.u32 %r6, %r0, 8, %r2; ld.shared.v2.b32 {%r7, %r8}, [%r6];
        mad.wide.u32 %d4, %r0, 8, %d1; st.global.v2.b32 [%d4], {%r7, %r8};"""
    run_body(body, numbers, found, shared_bytes=256)
    assert np.array_equal(found, numbers.transpose(0, 2, 1))


TYPES = {
    "f16": (np.float16, 16, "f32"),
    "bf16": (ml_dtypes.bfloat16, 16, "f32"),
    "tf32": (np.float32, 8, "f32"),
    "s8": (np.int8, 32, "s32"),
    "e4m3": (ml_dtypes.float8_e4m3fn, 32, "f32"),
}


def matrices(kind, rows, k):
    """Small whole numbers, which every type holds and whose sums are exact."""
    return RNG.integers(-4, 5, (rows, k)).astype(TYPES[kind][0])


def fragments(matrix, rows_apart):
    """Elements of a row-major matrix as registers of lanes: [registers, 32], as the manual has them for any width."""
    words = np.ascontiguousarray(matrix).view(np.uint32)
    lanes = np.arange(32)
    columns = range(words.shape[1] // 4)
    return np.array(
        [words[lanes // 4 + 8 * half, lanes % 4 + 4 * c] for c in columns for half in range(rows_apart)],
        np.uint32,
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("halves", [1, 2])
def test_a_warp_multiplies_16_rows_with_8_columns(kind, halves):
    dtype, k, result = TYPES[kind]
    k //= halves
    a, b, c = matrices(kind, 16, k), matrices(kind, 8, k), RNG.integers(-9, 9, (16, 8))
    left, right = fragments(a, 2), fragments(b, 1)
    sums = c.astype(np.float32 if result == "f32" else np.int32)
    body = ["mad.wide.u32 %d4, %r0, 4, %d0; mad.wide.u32 %d5, %r0, 4, %d1;"]
    body += [f"ld.global.b32 %r{10 + i}, [%d4 + {128 * i}];" for i in range(len(left))]
    body += [f"ld.global.b32 %r{20 + i}, [%d5 + {128 * i}];" for i in range(len(right))]
    body += [
        "shr.u32 %r1, %r0, 2; and.b32 %r2, %r0, 3; mad.lo.u32 %r3, %r1, 4, %r2; mad.wide.u32 %d6, %r3, 8, %d2;"
    ]
    body += ["ld.global.v2.b32 {%r30, %r31}, [%d6]; ld.global.v2.b32 {%r32, %r33}, [%d6 + 256];"]
    a_text, b_text = (
        ", ".join(f"%r{first + i}" for i in range(n)) for first, n in ((10, len(left)), (20, len(right)))
    )
    d_text = "%r30, %r31, %r32, %r33"
    name = f"mma.sync.aligned.m16n8k{k}.row.col.{result}.{kind}.{kind}.{result}"
    body += [f"{name} {{{d_text}}}, {{{a_text}}}, {{{b_text}}}, {{{d_text}}};"]
    body += ["st.global.v2.b32 [%d6], {%r30, %r31}; st.global.v2.b32 [%d6 + 256], {%r32, %r33};"]
    run_body("\n".join(body), left, right, sums)
    assert np.array_equal(sums, c + a.astype(np.float64) @ b.astype(np.float64).T)
    assert dtype == a.dtype


def swizzled(matrix, width_bytes):
    """A matrix of rows as wide as a swizzle, in shared memory: pieces of 16 bytes, their number mixed with the row's."""
    rows = np.ascontiguousarray(matrix).view(np.uint8).reshape(len(matrix), width_bytes // 16, 16)
    room = np.zeros_like(rows)
    per_line = 128 // width_bytes
    for row in range(len(rows)):
        for piece in range(rows.shape[1]):
            room[row, piece ^ row // per_line % (width_bytes // 16)] = rows[row, piece]
    return room.reshape(-1)


def descriptor(start, stride, width_bytes, leading=0):
    mode = {128: 1, 64: 2, 32: 3}[width_bytes]
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_four_warps_multiply_64_rows(width, kind):
    columns = 16
    a, b = matrices(kind, 64, width // 2), matrices(kind, columns, width // 2)
    room = np.concatenate([swizzled(a, width), swizzled(b, width)])
    start = 64 * width
    body = [
        "mad.wide.u32 %d4, %r0, 4, %d0; mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 4, %r1;",
        *(
            f"ld.global.b32 %r4, [%d4 + {i}]; st.shared.b32 [%r2 + {i}], %r4;"
            for i in range(0, len(room), 512)
        ),
        "bar.sync 0; mov.pred %p1, 0;",
    ]
    registers = ", ".join(f"%r{10 + i}" for i in range(8))
    for step in range(width // 32):
        body.append(f"mov.b64 %d5, {descriptor(32 * step, 8 * width, width)};")
        body.append(f"mov.b64 %d6, {descriptor(start + 32 * step, 8 * width, width)};")
        body.append("wgmma.fence.sync.aligned;")
        body.append(
            f"wgmma.mma_async.sync.aligned.m64n16k16.f32.{kind}.{kind} {{{registers}}}, %d5, %d6, %p1, 1, 1, 0, 0;"
        )
        body.append("mov.pred %p1, 1;")
    body += ["wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"]
    body += [
        "mad.wide.u32 %d7, %r0, 32, %d1;",
        *(f"st.global.b32 [%d7 + {4 * i}], %r{10 + i};" for i in range(8)),
    ]
    found = np.zeros((128, 8), np.float32)
    run_body("\n".join(body), room, found, threads=128, shared_bytes=len(room))
    product = a.astype(np.float64) @ b.astype(np.float64).T
    for thread in range(128):
        for number in range(8):
            row = thread // 32 * 16 + thread % 32 // 4 + 8 * (number // 2 % 2)
            column = thread % 4 * 2 + number % 2 + 8 * (number // 4)
            assert found[thread, number] == product[row, column]


def test_a_product_may_take_its_left_operand_from_registers_and_its_right_one_turned():
    a, b = matrices("f16", 64, 16), matrices("f16", 16, 64)  # the right one as K rows of 64 columns
    room = swizzled(b, 128)
    left = np.concatenate([fragments(a[16 * warp : 16 * warp + 16], 2)[:, None] for warp in range(4)], axis=1)
    body = [
        "mad.wide.u32 %d4, %r0, 4, %d0; mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 4, %r1;",
        *(
            f"ld.global.b32 %r4, [%d4 + {i}]; st.shared.b32 [%r2 + {i}], %r4;"
            for i in range(0, len(room), 512)
        ),
        "bar.sync 0; mad.wide.u32 %d5, %r0, 4, %d2;",
        *(f"ld.global.b32 %r{4 + i}, [%d5 + {512 * i}];" for i in range(4)),
        f"mov.b64 %d6, {descriptor(0, 1024, 128, leading=2048)};",
    ]
    registers = ", ".join(f"%r{10 + i}" for i in range(32))
    body += [
        f"wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {{{registers}}}, {{%r4, %r5, %r6, %r7}}, %d6, 0, 1, -1, 1;"
    ]
    body += [
        "mad.wide.u32 %d7, %r0, 128, %d1;",
        *(f"st.global.b32 [%d7 + {4 * i}], %r{10 + i};" for i in range(32)),
    ]
    found = np.zeros((128, 32), np.float32)
    run_body("\n".join(body), room, found, np.ascontiguousarray(left), threads=128, shared_bytes=len(room))
    product = -(a.astype(np.float64) @ b.astype(np.float64))
    row = (
        np.arange(128)[:, None] // 32 * 16 + np.arange(128)[:, None] % 32 // 4 + 8 * (np.arange(32) // 2 % 2)
    )
    column = np.arange(128)[:, None] % 4 * 2 + np.arange(32) % 2 + 8 * (np.arange(32) // 4)
    assert np.array_equal(found, product[row, column])
