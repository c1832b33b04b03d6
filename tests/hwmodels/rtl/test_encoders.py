"""Encoders: the mapped netlists give the code of every legal mask, and say of every other mask that it is not legal."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from proofs.bit_sliced import SideBySide
from proofs.coded import all_masks, cases_of, ports_of, quickly_mapped, sampled_masks, unnoticed, wrong

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import encoders, flow
from hwmodels.rtl.netlist import bit_slices, integers
from nmsim import encodings
from nmsim.errors import SpecError
from nmsim.layouts.nibbles import NIBBLE_OF_MASK

SMALL = ("1:2", "1:4", "2:4", "3:4", "3:5", "2:8", "4:8", "6:8")
CHOSEN = (
    ("bitmask", "plain"),
    ("index", "plain"),
    ("gap", "plain"),
    *(("combinatorial", variant) for variant in encoders.RANK_VARIANTS),
)


def spec_of(pattern: str, encoding: str, variant: str, stages: int = 0) -> UnitSpec:
    n, m = map(int, pattern.split(":"))
    return UnitSpec("encoder", n, m, encoding, variant, stages=stages)


def test_small_patterns_on_all_masks() -> None:
    specs = [spec_of(pattern, *one) for pattern in SMALL for one in CHOSEN]
    found = quickly_mapped(SideBySide([encoders.build(spec) for spec in specs]))
    cases = max(map(cases_of, specs))
    outputs = found.evaluate({f"mask_{i}": ports_of(spec, cases)["mask"] for i, spec in enumerate(specs)})
    bad = {str(spec): wrong(outputs, spec, cases, suffix=f"_{i}") for i, spec in enumerate(specs)}
    assert bad == {str(spec): 0 for spec in specs}


@pytest.mark.parametrize(("encoding", "variant"), CHOSEN)
def test_rows_of_8_16_on_all_masks(encoding: str, variant: str) -> None:
    # As the table has them, with its script. `--stress` proves all of three patterns.
    spec = spec_of("8:16", encoding, variant)
    found = flow.synthesise(encoders.build(spec), "area" if variant in ("plain", "pairs") else "delay")
    assert wrong(found.evaluate(ports_of(spec)), spec) == 0
    missed, failed = unnoticed(found, spec)
    assert missed == []
    assert failed >= 8


@pytest.mark.usefixtures("proving")
def test_every_row() -> None:
    for pattern in ("2:4", "4:8", "8:16"):
        for encoding, variant in CHOSEN:
            for goal in ("area", "delay"):
                spec = spec_of(pattern, encoding, variant)
                found = flow.synthesise(encoders.build(spec), goal)
                assert wrong(found.evaluate(ports_of(spec)), spec) == 0, (spec, goal)
                assert unnoticed(found, spec)[0] == [], (spec, goal)
                print(spec, goal, "proven", flush=True)


@pytest.mark.usefixtures("proving")
@pytest.mark.parametrize(
    ("encoding", "variant"),
    [("bitmask", "plain"), ("index", "plain"), ("gap", "plain"), ("combinatorial", "pairs")],
)
def test_16_32_on_a_sample(encoding: str, variant: str) -> None:
    spec = spec_of("16:32", encoding, variant)
    masks = sampled_masks(spec.pattern, 3000)
    legal = np.array([mask.bit_count() == spec.n for mask in masks])
    outputs = quickly_mapped(encoders.build(spec)).evaluate({"mask": bit_slices(masks, spec.m)})
    assert (integers(outputs["legal"], len(masks)) == legal).all()
    codes = encodings.get(encoding).encode(
        [mask for mask in masks if mask.bit_count() == spec.n], spec.pattern
    )
    assert integers(outputs["code"], len(masks))[legal].tolist() == codes.tolist()


@pytest.mark.parametrize("pattern", ["1:2", "2:4"])
def test_nibbles_of_all_masks_and_of_groups_with_too_few_ones(pattern: str) -> None:
    spec = spec_of(pattern, "index", "nibbles")
    every = np.arange(1 << spec.m)
    outputs = quickly_mapped(encoders.build(spec)).evaluate({"mask": bit_slices(every, spec.m)})
    nibble_of = NIBBLE_OF_MASK[spec.m]
    assert integers(outputs["legal"], len(every)).tolist() == [mask in nibble_of for mask in every.tolist()]
    codes = integers(outputs["code"], len(every))
    assert {mask: int(codes[mask]) for mask in nibble_of} == nibble_of


def test_masks_of_several_groups_together() -> None:
    spec = spec_of("2:4", "joint:3", "pairs")
    every = np.arange(1 << 12)
    groups = every[:, None] >> np.array([0, 4, 8]) & 15
    legal = np.isin(groups, all_masks(spec.pattern)).all(axis=1)
    outputs = quickly_mapped(encoders.build(spec)).evaluate({"mask": bit_slices(every, 12)})
    assert (integers(outputs["legal"], len(every)) == legal).all()
    codes = encodings.get("joint:3").encode(groups[legal].ravel().astype(np.uint64), spec.pattern)
    assert (integers(outputs["code"], len(every))[legal] == codes).all()


@pytest.mark.parametrize(
    ("pattern", "encoding", "variant", "stages"),
    [
        ("4:8", "combinatorial", "pairs", 2),
        ("4:8", "combinatorial", "slots", 1),
        ("4:8", "index", "plain", 1),
        ("4:8", "gap", "plain", 1),
    ],
)
def test_stages_delay_and_change_nothing(pattern: str, encoding: str, variant: str, stages: int) -> None:
    spec = spec_of(pattern, encoding, variant, stages)
    found = quickly_mapped(encoders.build(spec))
    assert found.flip_flops > 0
    every = np.arange(1 << spec.m)
    state = found.empty_state(-(-len(every) // 64))
    # Another mask follows in each cycle, so a path with a register too few or too many meets the wrong one.
    for cycle in range(stages + 3):
        outputs = found.evaluate({"mask": bit_slices(np.roll(every, 5 * cycle), spec.m)}, state=state)
        if cycle >= stages:
            back = np.argsort(np.roll(every, 5 * (cycle - stages)))
            given = {
                name: bit_slices(integers(words, len(every))[back], len(words))
                for name, words in outputs.items()
            }
            assert wrong(given, spec) == 0


def test_a_term_that_is_one_too_large_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        @staticmethod
        def comb(place: int, ones: int) -> int:
            return math.comb(place, ones) + ((place, ones) == (5, 3))

    monkeypatch.setattr(encoders, "math", Wrong)
    spec = spec_of("4:8", "combinatorial", "slots")
    assert wrong(quickly_mapped(encoders.build(spec)).evaluate(ports_of(spec)), spec) > 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"variant": "table"}, "variant table; expected one of serial, pairs, slots"),
        ({"encoding": "index"}, "variant pairs; expected one of plain, nibbles"),
        ({"encoding": "index", "variant": "nibbles", "m": 8}, "expected one of 2:4, 1:2"),
        ({"encoding": "gap:1", "variant": "plain"}, "codes differ in length"),
        ({"encoding": "bitmask", "variant": "plain", "m": 128}, "128 elements; expected at most 64"),
        ({"encoding": "joint:99"}, "bits; expected at most 64"),
        ({"n": 4}, "expected N < M"),
        ({"stages": 9}, "9 stages; expected at most 1"),
        ({"unit": "decoder"}, "expected an encoder"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        encoders.build(replace(spec_of("2:4", "combinatorial", "pairs"), **change))
