"""Decoders: the mapped netlists give every mask for its code, and refuse every other code."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from proofs.bit_sliced import SideBySide
from proofs.coded import (
    all_masks,
    cases_of,
    code_cases,
    mask_or_none,
    ports_of,
    quickly_mapped,
    sampled_codes,
    unnoticed,
    wrong,
)
from proofs.whole_space import mask_of_rank, wrong_codes

from hwmodels.gates.record import Goal, UnitSpec
from hwmodels.rtl import combinatorial, decoders, flow, parts
from hwmodels.rtl.netlist import Netlist, bit_slices, integers
from nmsim import encodings, reference
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

SMALL = ("1:2", "1:4", "2:4", "3:4", "3:5", "2:8", "4:8", "6:8")
DECODERS = (
    ("bitmask", "plain"),
    ("index", "plain"),
    ("gap", "plain"),
    *(("combinatorial", variant) for variant in combinatorial.VARIANTS),
)
POSITION_DECODERS = (*DECODERS, ("combinatorial", "columns"))
ROWS: tuple[tuple[str, str, str, Goal], ...] = (
    ("decoder", "bitmask", "plain", "area"),
    ("decoder", "index", "plain", "area"),
    ("decoder", "gap", "plain", "area"),
    ("decoder", "combinatorial", "serial", "area"),
    ("decoder", "combinatorial", "digits", "delay"),
    ("decoder", "combinatorial", "shallow", "delay"),
    ("position_decoder", "bitmask", "plain", "area"),
    ("position_decoder", "index", "plain", "delay"),
    ("position_decoder", "gap", "plain", "delay"),
    ("position_decoder", "combinatorial", "serial", "delay"),
    ("position_decoder", "combinatorial", "columns", "delay"),
)
"""Rows of 8:16 that the default suite proves as the table has them, with its script. `--stress` proves all of three patterns.

Small patterns and pipelines are proven in gates that are quickly mapped.
"""
MOST_GATES = {("decoder", "combinatorial", "serial"): 610, ("position_decoder", "bitmask", "plain"): 290}
MOST_LEVELS = {("decoder", "combinatorial", "shallow"): 25}


def spec_of(unit: str, pattern: str, encoding: str, variant: str, stages: int = 0) -> UnitSpec:
    n, m = map(int, pattern.split(":"))
    return UnitSpec(unit, n, m, encoding, variant, stages=stages)


def every_row() -> Iterator[tuple[UnitSpec, Goal]]:
    """All rows of decoders that the table has for 2:4, 4:8 and 8:16."""
    for pattern in ("2:4", "4:8", "8:16"):
        for unit, chosen in (("decoder", DECODERS), ("position_decoder", POSITION_DECODERS)):
            for encoding, variant in chosen:
                for goal in ("area", "delay"):
                    yield spec_of(unit, pattern, encoding, variant), goal


def prove(specs: list[UnitSpec]) -> dict[str, int]:
    """Map units side by side and count the codes of each that are wrong."""
    found = quickly_mapped(SideBySide([decoders.build(spec) for spec in specs]))
    cases = max(map(cases_of, specs))
    inputs = {f"code_{i}": ports_of(spec, cases)["code"] for i, spec in enumerate(specs)}
    outputs = found.evaluate(inputs)
    return {str(spec): wrong(outputs, spec, cases, suffix=f"_{i}") for i, spec in enumerate(specs)}


@pytest.mark.parametrize("unit", ["decoder", "position_decoder"])
def test_small_patterns_on_all_codes(unit: str) -> None:
    chosen = DECODERS if unit == "decoder" else POSITION_DECODERS
    specs = [spec_of(unit, pattern, *one) for pattern in SMALL for one in chosen]
    specs += [spec_of(unit, pattern, "index", "nibbles") for pattern in ("1:2", "2:4")]
    specs += [spec_of(unit, "2:4", "joint:3", "digits"), spec_of(unit, "1:4", "joint:2", "serial")]
    assert prove(specs) == {str(spec): 0 for spec in specs}


@pytest.mark.parametrize(("unit", "encoding", "variant", "goal"), ROWS, ids=map(" ".join, ROWS))
def test_rows_of_8_16_on_all_codes(unit: str, encoding: str, variant: str, goal: Goal) -> None:
    # Index and gap have 32 bits: all legal codes, flips of many, and others.
    spec = spec_of(unit, "8:16", encoding, variant)
    found = flow.synthesise(decoders.build(spec), goal)
    assert wrong(found.evaluate(ports_of(spec)), spec) == 0
    missed, failed = unnoticed(found, spec)
    assert missed == []
    assert failed >= 8
    assert found.nand2 <= MOST_GATES.get((unit, encoding, variant), np.inf)
    assert found.levels <= MOST_LEVELS.get((unit, encoding, variant), np.inf)


@pytest.mark.usefixtures("proving")
def test_every_row() -> None:
    for spec, goal in every_row():
        found = flow.synthesise(decoders.build(spec), goal)
        assert wrong(found.evaluate(ports_of(spec)), spec) == 0, (spec, goal)
        assert unnoticed(found, spec)[0] == [], (spec, goal)
        print(spec, goal, "proven", flush=True)


@pytest.mark.parametrize(
    ("encoding", "pattern"),
    [
        *itertools.product(("bitmask", "index", "gap", "combinatorial"), map(Pattern.parse, SMALL)),
        ("joint:3", Pattern(2, 4)),
        ("joint:2", Pattern(1, 4)),
    ],
)
def test_expected_masks_are_those_of_the_encoding_and_of_the_reference(
    encoding: str, pattern: Pattern
) -> None:
    cases, coder, plain = code_cases(encoding, pattern), encodings.get(encoding), reference.get(encoding)
    legal = cases.codes[cases.legal]
    groups = coder.groups_per_code(pattern)
    shifts = np.arange(groups, dtype=np.uint64) * np.uint64(pattern.m)
    masks = (cases.masks[cases.legal][:, None] >> shifts & np.uint64((1 << pattern.m) - 1)).ravel()
    assert coder.decode(legal, pattern).tolist() == masks.tolist()
    assert plain.decode(legal.tolist(), pattern, len(masks)) == masks.tolist()
    if groups == 1:
        assert not any(
            mask_or_none(encoding, pattern, code) for code in cases.codes[~cases.legal][:500].tolist()
        )


@pytest.mark.parametrize("encoding", ["index", "gap"])
def test_what_is_expected_of_wide_codes_is_what_the_encoding_says(encoding: str) -> None:
    cases, pattern = code_cases(encoding, Pattern(8, 16)), Pattern(8, 16)
    legal = cases.legal
    assert legal.sum() >= len(all_masks(pattern))
    assert encodings.get(encoding).decode(cases.codes[legal], pattern).tolist() == cases.masks[legal].tolist()
    drawn = np.random.default_rng(3).choice(cases.codes[~legal], 2000)
    assert not any(mask_or_none(encoding, pattern, int(code)) for code in drawn)


def test_16_32_on_a_sample() -> None:
    pattern = Pattern(16, 32)
    found = quickly_mapped(decoders.build(spec_of("decoder", "16:32", "combinatorial", "serial")))
    last = pattern.configurations // 4096 * 4096
    for first in (0, 1 << 29, last - (1 << 18), (1 << 30) - (1 << 18)):
        assert wrong_codes(found, pattern, first, 1 << 18) == 0
    drawn = np.random.default_rng(16).integers(0, 1 << 30, 20_000, dtype=np.uint64)
    assert not wrong_among(found, drawn).any()
    noticed = 0
    for mutant in found.mutants(12, seed=2):
        bad = wrong_among(mutant, drawn)
        if bad.any():
            noticed += 1
            block = int(drawn[bad][0]) // 4096 * 4096
            assert wrong_codes(mutant, pattern, block, 4096) > 0
    assert noticed >= 8


def wrong_among(found: Netlist, codes: Any) -> Any:
    """Which codes of 16:32 the encoding decodes otherwise."""
    pattern = Pattern(16, 32)
    outputs = found.evaluate({"code": bit_slices(codes, 30)})
    legal = codes < pattern.configurations
    bad = integers(outputs["valid"], len(codes)) != legal
    masks = encodings.get("combinatorial").decode(codes[legal], pattern)
    bad[legal] |= integers(outputs["mask"], len(codes))[legal] != masks
    return bad


@pytest.mark.usefixtures("proving")
@pytest.mark.parametrize("encoding", ["bitmask", "index", "gap"])
def test_other_codes_of_16_32_on_a_sample(encoding: str) -> None:
    # Codes of index and gap have 80 bits.
    spec = spec_of("decoder", "16:32", encoding, "plain")
    expected = sampled_codes(encoding, spec.pattern, 1500)
    found = quickly_mapped(decoders.build(spec))
    outputs = found.evaluate({"code": bit_slices(list(expected), len(found.inputs["code"]))})
    valid = integers(outputs["valid"], len(expected))
    masks = integers(outputs["mask"], len(expected))
    given = [int(mask) if legal else None for mask, legal in zip(masks, valid, strict=True)]
    assert given == list(expected.values())
    assert 1000 < sum(mask is not None for mask in given) < len(given) - 1000


@pytest.mark.usefixtures("proving")
def test_16_32_on_all_codes() -> None:
    found = flow.synthesise(decoders.build(spec_of("decoder", "16:32", "combinatorial", "serial")), "area")
    assert found.nand2 <= 3700
    assert wrong_codes(found, Pattern(16, 32), 0, 1 << 30) == 0


def test_masks_are_counted_up_as_the_encoding_has_them() -> None:
    pattern = Pattern(16, 32)
    for rank in (0, 1, 123_456_789, pattern.configurations - 1):
        assert mask_of_rank(pattern, rank) == encodings.get("combinatorial").decode([rank], pattern)[0]
    assert mask_of_rank(pattern, pattern.configurations) == 0


@pytest.mark.parametrize(
    ("unit", "pattern", "encoding", "variant", "stages"),
    [
        ("decoder", "4:8", "combinatorial", "serial", 2),
        ("decoder", "4:8", "combinatorial", "digits", 1),
        ("position_decoder", "4:8", "combinatorial", "serial", 3),
        ("position_decoder", "4:8", "combinatorial", "columns", 3),
        ("decoder", "4:8", "index", "plain", 1),
        ("decoder", "4:8", "gap", "plain", 1),
        ("position_decoder", "2:4", "joint:3", "serial", 2),
    ],
)
def test_stages_delay_and_change_nothing(
    unit: str, pattern: str, encoding: str, variant: str, stages: int
) -> None:
    spec = spec_of(unit, pattern, encoding, variant, stages)
    found = quickly_mapped(decoders.build(spec))
    assert found.flip_flops > 0
    codes = code_cases(encoding, spec.pattern).codes
    state = found.empty_state(-(-len(codes) // 64))
    # Another code follows in each cycle, so a path with a register too few or too many meets the wrong one.
    for cycle in range(stages + 3):
        order = np.roll(np.arange(len(codes)), 5 * cycle)
        outputs = found.evaluate({"code": bit_slices(codes[order], len(found.inputs["code"]))}, state=state)
        if cycle >= stages:
            back = np.argsort(np.roll(np.arange(len(codes)), 5 * (cycle - stages)))
            given = {
                name: bit_slices(integers(words, len(codes))[back], len(words))
                for name, words in outputs.items()
            }
            assert wrong(given, spec) == 0


def test_a_place_without_its_register_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = combinatorial.Columns.at_boundary

    def loses_one(self: Any, module: Any, boundary: int, *values: Any) -> tuple[Any, ...]:
        return (values[0], *sound(self, module, boundary, *values)[1:])

    monkeypatch.setattr(combinatorial.Columns, "at_boundary", loses_one)
    with pytest.raises(AssertionError):
        test_stages_delay_and_change_nothing("position_decoder", "4:8", "combinatorial", "columns", 3)


@pytest.mark.parametrize(("variant", "place"), [("serial", (3, 2)), ("digits", (7, 4))])
def test_a_wrong_number_of_masks_is_noticed(
    variant: str, place: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = combinatorial._masks
    monkeypatch.setattr(
        combinatorial, "_masks", lambda elements, ones: sound(elements, ones) + ((elements, ones) == place)
    )
    (bad,) = prove([spec_of("decoder", "4:8", "combinatorial", variant)]).values()
    assert bad > 0


@pytest.mark.parametrize("unit", ["decoder", "position_decoder"])
@pytest.mark.parametrize(("encoding", "variant"), POSITION_DECODERS)
def test_notes_are_of_signals_that_exist(unit: str, encoding: str, variant: str) -> None:
    if (unit, variant) == ("decoder", "columns"):
        unit = "position_decoder"
    built = decoders.build(spec_of(unit, "8:16", encoding, variant))
    text = rtlil.convert(built, ports=built.ports, emit_src=False)
    ports = {port.name for port in built.ports}
    named = set(re.findall(r"^\s*wire (?:.* )?\\(\w+)$", text, re.MULTILINE))
    assert {
        name for name in built.notes if name not in named and name not in {"mask", "position_0"} - ports
    } == set()


def test_counts_are_no_wider_than_what_they_hold() -> None:
    module, bits = Module(), [Signal(name=f"bit_{i}") for i in range(5)]
    counts = parts.prefix_counts(module, bits, most=3, name="kept")
    assert [len(count) for count in counts] == [1, 1, 2, 2, 2, 2]
    assert "kept_0_to_3" in rtlil.convert(module, ports=bits)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"variant": "table"}, "variant table; expected one of serial, digits, shallow"),
        ({"variant": "columns"}, "variant columns; expected one of serial, digits, shallow"),
        ({"variant": "shallow", "n": 16, "m": 64}, "64 elements; shallow takes at most 32"),
        ({"n": 4}, "expected N < M"),
        ({"stages": 9}, "9 stages; expected at most 0"),
        ({"unit": "encoder"}, "expected a decoder or a position_decoder"),
        ({"encoding": "index"}, "variant serial; expected one of plain, nibbles"),
        ({"encoding": "index", "variant": "nibbles", "m": 8}, "expected one of 2:4, 1:2"),
        ({"encoding": "gap:1", "variant": "plain"}, "codes differ in length"),
        ({"encoding": "bitmask", "variant": "plain", "m": 128}, "128 elements; expected at most 64"),
        ({"encoding": "joint:99"}, "bits; expected at most 64"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        decoders.build(replace(spec_of("decoder", "2:4", "combinatorial", "serial"), **change))
