"""Selectors: the mapped netlists keep what `nmsim.prune` keeps, ties included, and pipelines do so some cycles later."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from proofs.bit_sliced import numbered, quickly, sliced, unsliced

import nmsim
from hwmodels.gates.record import UnitSpec
from hwmodels.gates.table import gates_of
from hwmodels.machine.comparators import network
from hwmodels.rtl import selectors
from hwmodels.rtl.netlist import Netlist, Words
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

GROUPS = 8_192
CASES = {
    "all_pairs": (("2:4", 8), ("4:8", 8), ("8:16", 8), ("1:8", 8), ("2:4", 16)),
    "half": (("2:4", 8), ("4:8", 8), ("8:16", 8), ("2:6", 8), ("2:4", 16)),
    "bitonic": (("2:4", 8), ("4:8", 8), ("2:6", 8), ("2:4", 16)),
    "planes": (("2:4", 8), ("4:8", 8), ("8:16", 8), ("2:6", 8), ("4:8", 16)),
}
"""Patterns and bits of a key. 2:6: networks have wires without a key. Wider keys have the structure of those of 8 bits."""


def spec_of(variant: str, pattern: str, bits: int = 8, stages: int = 0) -> UnitSpec:
    n, m = map(int, pattern.split(":"))
    return UnitSpec("selector", n, m, variant=variant, width_bits=bits, stages=stages)


@functools.cache
def keys(pattern: str, bits: int) -> NDArray[Any]:
    """Groups of keys with many ties: [groups, M]."""
    m = Pattern.parse(pattern).m
    rng = np.random.default_rng([m, bits])
    most = (1 << bits) - 1
    drawn = rng.integers(0, most + 1, (GROUPS, m))
    kinds = [
        drawn,
        np.sort(drawn, axis=1),
        np.sort(drawn, axis=1)[:, ::-1],
        rng.integers(0, 3, (GROUPS, m)),
        most - rng.integers(0, 2, (GROUPS, m)),
        np.clip(drawn * 3, 0, most),
        np.repeat(drawn[:, :1], m, axis=1),
        # Equal except for one bit, which may be any.
        drawn[:, :1] ^ (rng.integers(0, 2, (GROUPS, m)) << rng.integers(0, bits, (GROUPS, 1))),
    ]
    share = GROUPS // len(kinds)
    return rng.permutation(np.concatenate([kind[:share] for kind in kinds])).astype(f"uint{bits}")


@functools.cache
def pruned(pattern: str, bits: int) -> NDArray[np.bool_]:
    """What is to be kept: keys of an unsigned type, whose magnitudes are in their own order."""
    return nmsim.prune(keys(pattern, bits), pattern)


@functools.cache
def ports(variant: str) -> dict[str, Words]:
    return numbered([{"keys": sliced(keys(*case), case[1])} for case in CASES[variant]])


@functools.cache
def netlist(variant: str) -> Netlist:
    """Of all cases."""
    return quickly([selectors.build(spec_of(variant, *case)) for case in CASES[variant]])


def wrong(found: Netlist, variant: str) -> dict[tuple[str, int], int]:
    """Groups of each case with another mask than `nmsim.prune` gives."""
    outputs = found.evaluate(ports(variant))
    return {
        case: int((unsliced(outputs[f"mask_{i}"], 1, GROUPS) != pruned(*case)).any(axis=1).sum())
        for i, case in enumerate(CASES[variant])
    }


@pytest.mark.parametrize("variant", selectors.VARIANTS)
def test_the_netlist_keeps_what_prune_keeps(variant: str) -> None:
    assert wrong(netlist(variant), variant) == dict.fromkeys(CASES[variant], 0)


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16"])
def test_the_keys_have_ties_at_the_edge_of_what_is_kept(pattern: str) -> None:
    found, kept = keys(pattern, 8), pruned(pattern, 8)
    least_kept = np.where(kept, found, 255).min(axis=1)
    most_dropped = np.where(kept, 0, found).max(axis=1)
    assert (least_kept == most_dropped).sum() > GROUPS // 4


@pytest.mark.parametrize("variant", selectors.VARIANTS)
def test_another_gate_is_noticed(variant: str) -> None:
    mutants = list(netlist(variant).mutants(10, seed=3))
    assert sum(any(wrong(mutant, variant).values()) for mutant in mutants) >= 8


@pytest.mark.parametrize("variant", selectors.VARIANTS)
def test_the_other_rule_of_ties_is_noticed(variant: str) -> None:
    # Both the keys and the mask in reverse order: a selector that keeps the higher index of equal keys.
    for i, (pattern, bits) in enumerate(CASES[variant]):
        reverse = keys(pattern, bits)[:, ::-1]
        given = ports(variant) | {f"keys_{i}": sliced(reverse, bits)}
        mask = unsliced(netlist(variant).evaluate(given)[f"mask_{i}"], 1, GROUPS)[:, ::-1]
        assert (mask != pruned(pattern, bits)).any(axis=1).sum() > GROUPS // 4
        assert (mask.sum(axis=1) == Pattern.parse(pattern).n).all()


STAGED = [("all_pairs", 1), ("all_pairs", 2), ("half", 1), ("half", 4), ("planes", 2), ("planes", 8)]
"""Structures of 4:8 with stages; the most are one after each step, or after each bit of a key of 8."""


def test_pipelines_give_the_same_masks_as_many_cycles_later() -> None:
    found = quickly([selectors.build(spec_of(variant, "4:8", 8, stages)) for variant, stages in STAGED])
    batches = np.split(keys("4:8", 8), 16)
    expected = np.split(pruned("4:8", 8), 16)
    size = len(batches[0])
    state = found.empty_state(size // 64)
    for cycle, batch in enumerate(batches):
        given = numbered([{"keys": sliced(batch, 8)}] * len(STAGED))
        outputs = found.evaluate(given, state=state)
        for i, (variant, stages) in enumerate(STAGED):
            mask = unsliced(outputs[f"mask_{i}"], 1, size)
            arrived = [past for past in range(cycle + 1) if (mask == expected[past]).all()]
            # Batches differ, so a mask that is a cycle early or late is that of no batch or of another one.
            assert arrived == ([cycle - stages] if cycle >= stages else []), f"{variant} {stages}"


def test_comparators_are_those_of_the_structure() -> None:
    built = {
        (variant, pattern): selectors.build(spec_of(variant, pattern)).comparators
        for variant in selectors.VARIANTS
        for pattern in ("2:4", "4:8", "8:16", "16:32")
    }
    assert [built["all_pairs", f"{m // 2}:{m}"] for m in (4, 8, 16, 32)] == [6, 28, 120, 496]
    assert [built["half", f"{m // 2}:{m}"] for m in (4, 8, 16, 32)] == [4, 16, 56, 176]
    assert built["bitonic", "8:16"] == network(Pattern(8, 16), "bitonic").comparators
    assert built["planes", "16:32"] == 0


@pytest.mark.parametrize(("variant", "most"), [("all_pairs", 3400), ("planes", 2200)])
def test_gates_of_8_bit_keys_at_8_16(variant: str, most: int) -> None:
    assert gates_of("selector", Pattern(8, 16), variant=variant, width_bits=8).nand2 <= most


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"variant": "merge"}, "expected a selector of variant all_pairs, half, bitonic, planes"),
        ({"unit": "select"}, "expected a selector"),
        ({"width_bits": 0}, "at least 1 bit"),
        ({"n": 4}, "N below M"),
        ({"stages": 3}, "3 stages; expected at most 2"),
        ({"variant": "planes", "stages": 9}, "9 stages; expected at most 8"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        selectors.build(replace(spec_of("all_pairs", "2:4"), **change))
