"""Planted faults: each is found, and its error names instruction, line, thread and address. The sound twin passes."""

import numpy as np
import pytest
from ptx_texts import line_of, run_body, text_of

from kernels.ptx import errors
from kernels.ptx.machine import Code
from kernels.ptx.parse import read_ptx

STORE = "mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.b32 [%r2], %r0;"
CROSS = "xor.b32 %r3, %r0, 32; mad.lo.u32 %r4, %r3, 4, %r1; ld.shared.b32 %r5, [%r4];"
OUT = "mad.wide.u32 %d9, %r0, 4, %d0; st.global.b32 [%d9], %r5;"


def failing(
    kind, body, fault, *, arrays=None, threads=64, thread=None, address=None, shared_bytes=256, grid=(1, 1, 1)
):
    """Run a body that must fail at one statement, and check what its error names."""
    arrays = [np.zeros(threads, np.uint32)] if arrays is None else arrays
    with pytest.raises(kind) as caught:
        run_body(body, *arrays, threads=threads, shared_bytes=shared_bytes, grid=grid)
    place, text = caught.value.place, text_of(body, parameters=len(arrays), threads=threads)
    assert type(caught.value) is kind
    assert fault in place.instruction
    assert place.line == line_of(text, fault)
    assert f"line {place.line}" in str(caught.value)
    if thread is not None:
        assert place.thread == thread
        assert f"thread {thread}" in str(caught.value)
    if address is not None:
        assert place.address == address
        assert f"byte {address}" in str(caught.value)
    return caught.value


def test_a_read_outside_the_tensors():
    body = "mad.wide.u32 %d9, %r0, 8, %d0;\nld.global.b32 %r1, [%d9];"
    error = failing(errors.OutOfBounds, body, "ld.global.b32 %r1, [%d9]", thread=32, address=256)
    assert "32 threads access 4 bytes outside the tensors" in str(error)
    run_body(body, np.zeros(128, np.uint32), threads=64)


def test_a_write_outside_the_tensors_and_one_that_begins_inside():
    body = "mad.wide.u32 %d9, %r0, 4, %d0;\nst.global.b32 [%d9 + -4], %r0;"
    failing(errors.OutOfBounds, body, "st.global.b32 [%d9 + -4]", thread=0, address=-4)
    body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 ret;\nld.global.b32 %r1, [%d0 + 4];"
    failing(errors.OutOfBounds, body, "ld.global.b32 %r1", arrays=[np.zeros(6, np.uint8)], thread=0)


def test_a_guarded_access_outside_the_tensors_is_none():
    body = "mad.wide.u32 %d9, %r0, 8, %d0; setp.lt.u32 %p1, %r0, 32;\n@%p1 ld.global.b32 %r1, [%d9];"
    run_body(body, np.zeros(64, np.uint32), threads=64)


def test_a_misaligned_load():
    body = "mad.wide.u32 %d9, %r0, 4, %d0;\nld.global.v2.b32 {%r1, %r2}, [%d9];"
    failing(
        errors.Misaligned, body, "ld.global.v2.b32", arrays=[np.zeros(80, np.uint32)], thread=1, address=4
    )


def test_alignment_is_that_of_the_host():
    whole = np.zeros(300, np.uint8)
    start = -whole.ctypes.data % 16
    body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 ret;\nld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d0];"
    run_body(body, whole[start : start + 64])
    failing(errors.Misaligned, body, "ld.global.v4.b32", arrays=[whole[start + 4 : start + 68]])


def test_a_misaligned_and_a_wild_access_of_shared_memory():
    failing(
        errors.Misaligned, "st.shared.b32 [room + 2], %r0;", "st.shared.b32 [room + 2]", thread=0, address=2
    )
    body = "mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 8, %r1;\nst.shared.b32 [%r2], %r0;"
    error = failing(errors.OutOfBounds, body, "st.shared.b32 [%r2]", thread=32, address=256)
    assert "outside the 256 bytes of shared memory" in str(error)


def test_a_missing_barrier():
    right = f"{STORE}\nbar.sync 0;\n{CROSS}\n{OUT}"
    found = np.zeros(64, np.uint32)
    run_body(right, found, threads=64, shared_bytes=256)
    assert found.tolist() == [i ^ 32 for i in range(64)]
    error = failing(
        errors.SharedRace, right.replace("bar.sync 0;", ""), "ld.shared.b32 %r5, [%r4]", thread=0, address=128
    )
    assert "another warp wrote" in str(error)


def test_a_write_after_a_read_without_a_barrier():
    right = f"{STORE}\nbar.sync 0;\n{CROSS}\nbar.sync 0;\nst.shared.b32 [%r2 + 0], %r5;"
    run_body(right, np.zeros(64, np.uint32), threads=64, shared_bytes=256)
    wrong = f"{STORE}\nbar.sync 0;\n{CROSS}\nst.shared.b32 [%r2 + 0], %r5;"
    error = failing(errors.SharedRace, wrong, "st.shared.b32 [%r2 + 0]", thread=0, address=0)
    assert "another warp read" in str(error)


def test_a_read_by_two_warps_is_remembered_as_both():
    body = "mov.b32 %r1, room;\nsetp.ge.u32 %p1, %r0, 32;\n@%p1 bra $on;\nst.shared.b32 [room], %r1;\n$on:\nbar.sync 0;\n"
    body += "ld.shared.b32 %r5, [room];\n@%p1 ret;\nst.shared.b32 [room + 0], %r5;"
    failing(errors.SharedRace, body, "st.shared.b32 [room + 0]", thread=0, address=0)


def test_warps_that_write_one_place_without_a_barrier():
    body = "setp.ge.u32 %p1, %r0, 32;\n@%p1 bra $b;\nst.shared.b32 [room], 1;\nret;\n$b:\nst.shared.b32 [room + 0], {};"
    failing(errors.SharedRace, body.format(2), "st.shared.b32 [room + 0]", address=0)
    run_body(body.format(1), np.zeros(1, np.uint32), threads=64, shared_bytes=256)


def test_a_read_of_what_nobody_wrote():
    body = "mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 4, %r1;\nld.shared.b32 %r3, [%r2 + 128];"
    failing(
        errors.UnwrittenRead,
        f"{STORE}\nbar.sync 0;\n{body}",
        "ld.shared.b32 %r3",
        threads=32,
        thread=0,
        address=128,
    )


def test_threads_that_write_different_values_to_one_place():
    failing(errors.WriteConflict, "st.global.b32 [%d0], %r0;", "st.global.b32 [%d0]", address=0)
    failing(errors.WriteConflict, "st.shared.b32 [room], %r0;", "st.shared.b32 [room]", threads=32, address=0)
    run_body("st.global.b32 [%d0], 7;", np.zeros(1, np.uint32), threads=64)


def test_programs_that_write_different_values_to_one_place():
    body = "mov.u32 %r1, %ctaid.x;\nmad.wide.u32 %d9, %r0, 4, %d0;\nst.global.b32 [%d9], %r1;"
    error = failing(errors.WriteConflict, body, "st.global.b32 [%d9]", threads=32, grid=(2, 1, 1))
    assert error.place.program is not None
    # Programs that are not side by side are compared as well.
    failing(errors.WriteConflict, body, "st.global.b32 [%d9]", threads=32, grid=(600, 1, 1))


def test_a_barrier_that_a_warp_never_reaches():
    body = "setp.ge.u32 %p1, %r0, 32;\n@%p1 bra $skip;\nbar.sync 0;\n$skip:\n"
    run_body(body, np.zeros(64, np.uint32), threads=64)  # who has ended is not waited for
    error = failing(errors.DivergentBarrier, f"{body}\nbar.sync 1;", "bar.sync 0", thread=0)
    assert "not all threads of the program reach" in str(error)


def test_a_barrier_that_half_a_warp_reaches_elsewhere():
    body = (
        "setp.ge.u32 %p1, %r0, 16;\n@%p1 bra $other;\nbar.sync 0;\nbra $end;\n$other:\nbar.sync 0;\n$end:\n"
    )
    error = failing(errors.DivergentBarrier, body, "bar.sync 0", threads=32)
    assert "lanes of one warp" in str(error)
    # Two whole warps may meet at two instructions.
    run_body(body.replace("%r0, 16", "%r0, 32"), np.zeros(64, np.uint32), threads=64)


def test_a_shuffle_from_a_lane_that_takes_no_part():
    body = "setp.ge.u32 %p1, %r0, 16;\n@%p1 bra $end;\nshfl.sync.bfly.b32 %r1, %r0, {}, 31, -1;\n$end:"
    error = failing(errors.IdleLane, body.format(16), "shfl.sync.bfly.b32", threads=32, thread=0)
    assert "lane 16 is read" in str(error)
    run_body(body.format(8), np.zeros(1, np.uint32))


def test_a_matrix_product_by_part_of_a_warp():
    body = "setp.ge.u32 %p1, %r0, 16;\n@%p1 bra $end;\nredux.sync.add.s32 %r1, %r0, -1;\n$end:"
    failing(errors.IdleLane, body, "redux.sync.add.s32", threads=32, thread=16)


COPY = """
    mad.wide.u32 %d9, %r0, 16, %d0; mov.b32 %r1, room; mad.lo.u32 %r2, %r0, 16, %r1;
    cp.async.cg.shared.global [%r2], [%d9], 0x10;
    cp.async.commit_group;
    {wait}
    {barrier}
    xor.b32 %r3, %r0, {lane}; mad.lo.u32 %r4, %r3, 16, %r1;
    ld.shared.b32 %r5, [%r4];
    mad.wide.u32 %d8, %r0, 4, %d1; st.global.b32 [%d8], %r5;"""


def copied(**parts):
    return COPY.format(**({"wait": "cp.async.wait_group 0;", "barrier": "bar.sync 0;", "lane": 32} | parts))


def test_a_missing_wait_for_an_asynchronous_copy():
    numbers, found = np.arange(256, dtype=np.uint32), np.zeros(64, np.uint32)
    run_body(copied(), numbers, found, threads=64, shared_bytes=1024)
    assert found.tolist() == [4 * (i ^ 32) for i in range(64)]
    arrays = [numbers, found]
    for wait in ("", "cp.async.wait_group 1;"):
        failing(
            errors.MissingWait,
            copied(wait=wait),
            "ld.shared.b32 %r5",
            arrays=arrays,
            shared_bytes=1024,
            thread=0,
            address=512,
        )
    failing(errors.SharedRace, copied(barrier=""), "ld.shared.b32 %r5", arrays=arrays, shared_bytes=1024)
    run_body(copied(barrier="bar.warp.sync -1;", lane=1), *arrays, threads=64, shared_bytes=1024)
    assert found.tolist() == [4 * (i ^ 1) for i in range(64)]


def test_a_copy_of_nothing_fills_with_zeros_and_reads_no_address():
    body = (
        copied()
        .replace("0x10;", "0x10, %r20;")
        .replace("cp.async.cg", "setp.lt.u32 %p1, %r0, 8; selp.b32 %r20, 16, 0, %p1;\ncp.async.cg")
    )
    found = np.full(64, 9, np.uint32)
    run_body(body, np.arange(1, 33, dtype=np.uint32), found, threads=64, shared_bytes=1024)
    assert found.tolist() == [0] * 32 + list(range(1, 33, 4)) + [0] * 24


def test_a_loop_without_an_end():
    with pytest.raises(errors.Endless):
        run_body("$on: bra $on;", np.zeros(1, np.uint32), most_steps=1000)


def test_the_place_names_the_source_and_the_program():
    body = ".loc 1 3 7 // kernel.py:3:7\nmov.u32 %r1, %ctaid.x; mad.wide.u32 %d9, %r1, 4, %d0;\nld.global.b32 %r2, [%d9];"
    with pytest.raises(
        errors.OutOfBounds, match=r"\(kernel.py:3:7\), program 2,0,0, thread 0, byte 8: ld.global.b32"
    ) as caught:
        run_body(body, np.zeros(2, np.uint32), grid=(3, 1, 1))
    assert caught.value.place.program == (2, 0, 0)


def test_code_that_runs_is_made_once_and_says_how_narrow_its_accesses_are():
    assert Code(read_ptx(text_of(f"{STORE}\n{CROSS}"))).granule == 4
    assert Code(read_ptx(text_of("st.shared.b8 [room], %r0;"))).granule == 1
