"""Counts of hand-written machine code: pipes, round trips in series, programs per multiprocessor."""

import pytest

from kernels.compiled.listing import controls, instructions
from kernels.compiled.occupancy import programs_per_multiprocessor, waves
from kernels.compiled.pipes import ARCHITECTURES, LANES, issue, kind
from kernels.compiled.trips import barrier_trips, serial_trips
from kernels.stored.errors import KernelError

LOGIC = "LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT"
PRODUCT = "IMAD.WIDE R2, R4, 0x20, R6"
SUM = "FFMA R4, R5, R6, R4"


@pytest.mark.parametrize(
    ("body", "architecture", "pipe", "cycles"),
    [
        # 32 threads on 16 lanes of a partition: two cycles each.
        ([LOGIC] * 10, 90, "integer", 20),
        ([LOGIC] * 10, 80, "integer", 20),
        # An integer product takes the pipe of float32 as well, at half its rate on a Hopper.
        ([PRODUCT] * 5 + [SUM] * 3, 90, "multiply", 10),
        ([PRODUCT] * 4 + [SUM] * 4, 80, "float", 16),
        ([SUM] * 4, 90, "issue", 4),
        (["POPC R1, R2", "MUFU.EX2 R1, R2"], 89, "special", 16),
        (["LDG.E R1, [R2.64]", "SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "STS [R1], R2"], 90, "memory", 12),
        (["HADD2.F32 R1, -RZ, R2.H0_H0"] * 3, 89, "half", 6),
        (["UIADD3 UR4, UR4, 0x1, URZ"] * 3, 90, "uniform", 6),
        # 2048 products on 256 a cycle of a partition.
        (["HMMA.16816.F32 R8, R4, R2, R8"] * 2, 80, "tensor", 16),
        (["HMMA.1688.F32 R8, R4, R2, R8"] * 2, 80, "tensor", 8),
    ],
)
def test_the_longest_pipe_is_known(body, architecture, pipe, cycles):
    found = issue(body, architecture)
    assert (found.bound, found.longest) == (pipe, cycles)
    assert found.instructions == found.cycles["issue"] == len(body)


def test_every_pipe_has_a_rate_for_every_architecture_and_a_source():
    for pipe, (kinds, lanes, source) in LANES.items():
        assert kinds, pipe
        assert source.strip(), pipe
        assert set(lanes) == set(ARCHITECTURES)
        assert all(0 < rate <= 128 for rate in lanes.values())


def test_an_unknown_instruction_is_refused():
    with pytest.raises(
        KernelError, match="instruction 'FROBNICATE R1': expected an operation of tensor, shuffle"
    ):
        kind("FROBNICATE R1")
    with pytest.raises(KernelError, match="architecture 75: expected one of 80, 89, 90, 100"):
        issue([LOGIC], 75)


LOAD, NEAR = "LDG.E.EF.128 R{}, desc[UR4][R{}.64]", "LDG.E.U16 R{}, desc[UR4][R{}.64]"


@pytest.mark.parametrize(
    ("body", "trips"),
    [
        ([], 0),
        ([LOGIC, SUM], 0),
        # Two loads under way at once, read afterwards.
        ([LOAD.format(8, 20), LOAD.format(12, 22), "FADD R4, R11, R15"], 1),
        # The second load's address comes with the first one.
        ([LOAD.format(8, 20), LOAD.format(12, 8), "FADD R4, R4, R15"], 2),
        # The second stands behind an instruction that waits for the first.
        ([LOAD.format(8, 20), "FADD R4, R4, R8", LOAD.format(12, 22), "FADD R4, R4, R12"], 2),
        # Carried round the loop: what a turn asks for, the next one reads.
        (["FADD R4, R4, R8", "FADD R4, R4, R12", LOAD.format(8, 20), LOAD.format(12, 22)], 1),
        # An upper word of a wide load is waited for as well, and so is a register before it is filled again.
        ([LOAD.format(8, 20), "FADD R4, R4, R11"], 1),
        ([LOAD.format(8, 20)], 1),
        # A table in L1 behind the codes: a tenth more.
        ([LOAD.format(8, 20), NEAR.format(12, 8), "FADD R4, R4, R12"], 1.1),
        # Without a mark all loads come from far.
        ([NEAR.format(8, 20), NEAR.format(12, 8), "FADD R4, R4, R12"], 2),
        (["ISETP.GE.AND P0, PT, R8, R9, PT", LOAD.format(8, 20)], 1),
        (["@P0 LDG.E.EF R8, desc[UR4][R20.64]", "STG.E.64 desc[UR4][R30.64], R8"], 1),
        # A product of matrices reads four registers of its first factor, and waits for the last of them.
        (
            [
                "LDG.E.EF R11, desc[UR4][R20.64]",
                "HMMA.16816.F32 R16, R8, R2, R16",
                LOAD.format(24, 22),
                "FADD R4, R4, R24",
            ],
            2,
        ),
        (
            [
                "LDGSTS.E.128 [R1], desc[UR4][R20.64]",
                "LDGDEPBAR",
                "DEPBAR.LE SB0, 0x0",
                "LDS R1, [R2]",
            ],
            1,
        ),
        (
            [
                "LDGSTS.E.128 [R1], desc[UR4][R20.64]",
                "LDGDEPBAR",
                "DEPBAR.LE SB0, 0x1",
                "LDS R1, [R2]",
            ],
            0.5,
        ),
    ],
)
def test_waits_for_memory_that_follow_each_other_are_counted(body, trips):
    assert serial_trips(body) == pytest.approx(trips)


def test_barriers_give_the_same_count():
    def code(waits, sets):
        return waits << 52 | sets << 46

    body = [LOAD.format(8, 20), LOAD.format(12, 8), "FADD R4, R4, R15"]
    assert barrier_trips(body, [code(2, 0), code(1, 1), code(2, 7)]) == serial_trips(body) == 2
    # One barrier for both loads makes the first reader wait for the second one too.
    apart = [LOAD.format(8, 20), "FADD R4, R4, R8", NEAR.format(12, 22), "FADD R4, R4, R12"]
    assert serial_trips(apart) == pytest.approx(1.1)
    assert barrier_trips(apart, [code(0, 0), code(1, 7), code(0, 1), code(2, 7)]) == pytest.approx(1.1)
    shared = [LOAD.format(8, 20), NEAR.format(12, 22), "FADD R4, R4, R12", "FADD R4, R4, R8"]
    assert barrier_trips(shared, [code(0, 0), code(0, 0), code(1, 7), code(1, 7)]) == 1
    with pytest.raises(ValueError, match="shorter"):
        barrier_trips(body, [0])


def test_a_listing_with_codes_gives_one_control_for_each_instruction():
    text = """
        /*0010*/                   LDG.E.U16 R22, desc[UR14][R24.64] ;    /* 0x0000000e18167981 */
                                                                          /* 0x0000a2000c1e1500 */
        /*0020*/                   HADD2.F32 R36, -RZ, R22.H0_H0 ;        /* 0x20000016ff247230 */
                                                                          /* 0x004fe40000004100 */
"""
    body, _ = instructions(text)
    upper = controls(text)
    assert len(body) == len(upper) == 2
    # The load sets barrier 2, which the reader waits for.
    assert upper[0] >> 46 & 7 == 2
    assert upper[1] >> 52 & 0x3F == 1 << 2


@pytest.mark.parametrize(
    ("architecture", "asked", "programs"),
    [
        (90, {"warps": 4, "registers": 32}, 16),
        (90, {"warps": 16, "registers": 40}, 3),
        # 50 registers are given as 56: 9 warps a partition, 36 in all.
        (90, {"warps": 16, "registers": 50}, 2),
        (90, {"warps": 16, "registers": 96}, 1),
        (90, {"warps": 16, "registers": 168}, 0),
        (90, {"warps": 1, "registers": 16}, 32),
        (89, {"warps": 1, "registers": 16}, 24),
        (89, {"warps": 16, "registers": 32}, 3),
        (80, {"warps": 4, "registers": 32, "shared_bytes": 54 * 1024}, 2),
        (90, {"warps": 4, "registers": 32, "shared_bytes": 54 * 1024}, 4),
        (89, {"warps": 4, "registers": 32, "shared_bytes": 54 * 1024}, 1),
    ],
)
def test_registers_shared_memory_and_warps_bound_programs(architecture, asked, programs):
    assert programs_per_multiprocessor(architecture, **asked) == programs


def test_a_machine_is_filled_again_for_a_rest():
    assert [waves(programs, 396) for programs in (1, 396, 397, 793)] == [1, 1, 2, 3]
    with pytest.raises(KernelError, match="architecture 75: expected one of 80, 89, 90, 100"):
        programs_per_multiprocessor(75, warps=1, registers=1)
