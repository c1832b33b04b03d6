"""Decoders and encoders of the tiled code: the mapped netlists compute what `nmsim.encodings` does, on all codes and masks."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from proofs.bit_sliced import numbered, quickly, sliced, unsliced

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import flow, tiled
from hwmodels.rtl.netlist import Netlist, Words, run
from nmsim import encodings
from nmsim.encodings import tiles
from nmsim.errors import EncodingError, NmsimError, SpecError
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.words import popcount

PATTERNS = tuple(map(Pattern.parse, ("1:2", "2:4", "3:4", "1:8", "4:8", "5:8", "4:16", "8:16", "13:16")))
CODES, MASKS = 1 << 14, 1 << 16
"""Of all patterns: their own codes and masks again and again."""
TILED = encodings.get("tiled")


def units(unit: str, stages: int = 0, patterns: tuple[Pattern, ...] = PATTERNS) -> list[Any]:
    return [
        tiled.build(UnitSpec(unit, pattern.n, pattern.m, "tiled", "plain", stages=stages))
        for pattern in patterns
    ]


@functools.cache
def netlist(unit: str) -> Netlist:
    """The units of all patterns."""
    found: Netlist = quickly(units(unit))
    return found


@functools.cache
def alone(unit: str, pattern: Pattern) -> Netlist:
    """The unit of one pattern."""
    found: Netlist = quickly(units(unit, patterns=(pattern,)))
    return found


@functools.cache
def all_codes(pattern: Pattern) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every code, and its mask one by one; 0 if it is refused."""
    codes = np.arange(1 << TILED.code_bits(pattern))
    masks = np.zeros(len(codes), np.int64)
    for code in codes:
        try:
            masks[code] = TILED.decode([int(code)], pattern)[0]
        except EncodingError:
            masks[code] = 0
    return np.resize(codes, CODES), np.resize(masks, CODES)


@functools.cache
def ports_of_codes() -> dict[str, Words]:
    ports: dict[str, Words] = numbered(
        [{"code": sliced(all_codes(p)[0][:, None], TILED.code_bits(p))} for p in PATTERNS]
    )
    return ports


def wrong_masks(found: Netlist) -> list[int]:
    """Codes of each pattern whose mask or validity is not that of the encoding."""
    outputs, wrong = found.evaluate(ports_of_codes()), []
    for i, pattern in enumerate(PATTERNS):
        expected = all_codes(pattern)[1]
        valid = unsliced(outputs[f"valid_{i}"], 1, CODES)[:, 0] == 1
        mask = unsliced(outputs[f"mask_{i}"], pattern.m, CODES)[:, 0]
        wrong.append(int(((valid != (expected > 0)) | (valid & (mask != expected))).sum()))
    return wrong


def wrong_positions(found: Netlist) -> list[int]:
    """As `wrong_masks`, of position decoders."""
    outputs, wrong = found.evaluate(ports_of_codes()), []
    for i, pattern in enumerate(PATTERNS):
        expected = all_codes(pattern)[1]
        legal = expected > 0
        mask = np.zeros(CODES, np.int64)
        for slot in range(pattern.n):
            bits = (pattern.m - 1).bit_length()
            position = unsliced(outputs[f"position_{slot}_{i}"], bits, CODES)[:, 0].astype(np.int64)
            # Positions ascend, so no two of them are added to the same bit.
            mask += 1 << position
        valid = np.ones(CODES, bool)
        if f"valid_{i}" in outputs:
            valid = unsliced(outputs[f"valid_{i}"], 1, CODES)[:, 0] == 1
        wrong.append(int(((valid != legal) | (legal & (mask != expected))).sum()))
    return wrong


@functools.cache
def ports_of_masks() -> dict[str, Words]:
    masks = np.arange(MASKS)
    ports: dict[str, Words] = numbered(
        [{"mask": sliced(masks[:, None] & ((1 << p.m) - 1), p.m)} for p in PATTERNS]
    )
    return ports


def wrong_codes(found: Netlist) -> list[int]:
    """Masks of each pattern whose code or legality is not that of the encoding."""
    outputs, wrong = found.evaluate(ports_of_masks()), []
    for i, pattern in enumerate(PATTERNS):
        masks = np.arange(MASKS) & ((1 << pattern.m) - 1)
        legal = np.bitwise_count(masks) == pattern.n
        expected = TILED.encode(masks[legal].astype(np.uint64), pattern)
        code = unsliced(outputs[f"code_{i}"], TILED.code_bits(pattern), MASKS)[:, 0]
        said = unsliced(outputs[f"legal_{i}"], 1, MASKS)[:, 0] == 1
        wrong.append(int((said != legal).sum() + (code[legal] != expected).sum()))
    return wrong


WRONG = {"decoder": wrong_masks, "position_decoder": wrong_positions, "encoder": wrong_codes}
NONE = [0] * len(PATTERNS)


@pytest.mark.parametrize("unit", WRONG)
def test_every_code_and_every_mask(unit: str) -> None:
    assert WRONG[unit](netlist(unit)) == NONE


@pytest.mark.parametrize("unit", WRONG)
def test_another_gate_is_noticed(unit: str) -> None:
    # Gates that only illegal codes or masks reach can be anything.
    noticed = sum(WRONG[unit](mutant) != NONE for mutant in netlist(unit).mutants(12, seed=3))
    assert noticed >= 10


@pytest.mark.parametrize("unit", ["decoder", "encoder"])
def test_another_plan_is_noticed(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields dealt from the upper half on: the hardware of another code."""
    sound = tiles.dealt
    expected = [all_codes(pattern) for pattern in PATTERNS]
    assert expected
    made = units(unit)
    with monkeypatch.context() as patched:
        patched.setattr(tiles, "dealt", lambda upper, lower: sound(lower, upper)[::-1])
        found = quickly(made)
    assert WRONG[unit](found)[1:] != NONE[1:]


@pytest.mark.parametrize("unit", ["decoder", "encoder"])
@pytest.mark.parametrize("stages", [1, 3])
def test_stages_delay_and_change_nothing(unit: str, stages: int) -> None:
    pattern = Pattern(8, 16)
    found = quickly(units(unit, stages, (pattern,)))
    assert found.flip_flops > 16 * stages
    given = all_codes(pattern)[0][:64] if unit == "decoder" else all_codes(pattern)[1][:64]
    port, bits = ("code", 14) if unit == "decoder" else ("mask", 16)
    state = np.zeros((found.flip_flops, 1), np.uint64)
    values = {f"{port}_0": sliced(given[:, None], bits)}
    plain = quickly(units(unit, 0, (pattern,))).evaluate(values)
    for _ in range(stages):
        found.evaluate(values, state=state)
    last = found.evaluate({f"{port}_0": np.zeros_like(values[f"{port}_0"])}, state=state)
    for name, words in plain.items():
        assert np.array_equal(last[name], words), name


@pytest.mark.parametrize("pattern", [Pattern(16, 32), Pattern(5, 32)], ids=str)
def test_drawn_codes_of_32(pattern: Pattern) -> None:
    bits, cases = TILED.code_bits(pattern), 4096
    codes = np.random.default_rng(32).integers(0, 1 << bits, cases)
    expected = []
    for code in codes:
        try:
            expected.append(int(TILED.decode([int(code)], pattern)[0]))
        except NmsimError:
            expected.append(0)
    outputs = alone("decoder", pattern).evaluate({"code_0": sliced(codes[:, None], bits)})
    legal = np.array(expected) > 0
    assert 0 < legal.sum() < cases
    assert np.array_equal(unsliced(outputs["valid_0"], 1, cases)[:, 0] == 1, legal)
    assert np.array_equal(unsliced(outputs["mask_0"], 32, cases)[legal, 0], np.array(expected)[legal])


@njit(nogil=True)
def _round_trips(decoder, encoder, places, first, step):  # type: ignore[no-untyped-def]
    """Codes whose mask has not 16 ones or does not give the code back, and valid codes, of every `step`-th 4,096 codes.

    `decoder` and `encoder`: steps and memory of a program. `places`: those of the code, the mask and `valid`, then those of the
    mask, the code and `legal`.
    """
    (steps, memory), (back_steps, back) = decoder, encoder
    code_in, mask_out, valid_at, mask_in, code_out, legal_at = places
    ones, wrong, valid_codes = ~np.uint64(0), 0, 0
    counts = np.zeros((6, memory.shape[1]), np.uint64)
    for block in range(first, 1 << (code_in.size - 12), step):
        for bit in range(12, code_in.size):
            memory[code_in[bit], :] = ones if block >> (bit - 12) & 1 else np.uint64(0)
        run(steps, memory)
        counts[:] = 0
        for p in range(mask_out.size):
            for i in range(memory.shape[1]):
                # A counter of ones in 64 lanes: one bit of it per plane.
                carry = memory[mask_out[p], i]
                back[mask_in[p], i] = carry
                for plane in range(6):
                    counts[plane, i], carry = counts[plane, i] ^ carry, counts[plane, i] & carry
        run(back_steps, back)
        for i in range(memory.shape[1]):
            low = counts[0, i] | counts[1, i] | counts[2, i] | counts[3, i] | counts[5, i]
            bad = ~counts[4, i] | low | ~back[legal_at[0], i]
            for bit in range(code_in.size):
                bad |= memory[code_in[bit], i] ^ back[code_out[bit], i]
            valid = memory[valid_at[0], i]
            wrong += popcount(bad & valid)
            valid_codes += popcount(valid)
    return wrong, valid_codes


def test_codes_of_16_32_come_back_as_they_were() -> None:
    """2^22 of the 2^30 codes. With `step` = 1 all of them: 0 are wrong and C(32, 16) are valid, in 37 CPU-seconds."""
    step, pattern = 256, Pattern(16, 32)
    made, back = alone("decoder", pattern).program, alone("encoder", pattern).program
    memory, back_memory = made.memory(), back.memory()
    memory[made.inputs["code_0"][:12]] = sliced(np.arange(1 << 12)[:, None], 12)
    places = (
        *(made.inputs["code_0"], made.outputs["mask_0"], made.outputs["valid_0"]),
        *(back.inputs["mask_0"], back.outputs["code_0"], back.outputs["legal_0"]),
    )
    wrong, valid = _round_trips((made.steps, memory), (back.steps, back_memory), places, 77, step)
    assert wrong == 0
    assert 0 < valid < (1 << 30) // step


def test_8_16_takes_at_most_600_gates_and_12_levels() -> None:
    found = flow.synthesise(tiled.build(UnitSpec("decoder", 8, 16, "tiled", "plain")), "delay")
    assert found.nand2 <= 600
    assert found.levels <= 12


SPEC = UnitSpec("decoder", 4, 8, "tiled", "plain")


@pytest.mark.parametrize(
    ("change", "problem", "error"),
    [
        ({"variant": "serial"}, "variant plain", SpecError),
        ({"encoding": "combinatorial"}, "expected encoding tiled", SpecError),
        ({"unit": "select"}, "expected a decoder", SpecError),
        ({"n": 8}, "expected N < M", SpecError),
        ({"n": 8, "unit": "encoder"}, "expected N < M", SpecError),
        ({"stages": 3}, "3 stages; expected at most 2", SpecError),
        ({"m": 12}, "power of two", EncodingError),
        ({"m": 128}, "at most 64", EncodingError),
    ],
)
def test_what_cannot_be_built_is_refused(
    change: dict[str, Any], problem: str, error: type[NmsimError]
) -> None:
    with pytest.raises(error, match=problem):
        tiled.build(replace(SPEC, **change))
