"""Selectors: the mapped netlists keep what `nmsim.prune` keeps, ties included, and pipelines do so some cycles later."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bit_sliced import SideBySide, numbered, sliced, unsliced
from numpy.typing import NDArray

import nmsim
from hwmodels.gates.record import UnitSpec
from hwmodels.machine.comparators import network
from hwmodels.rtl import flow, selectors
from hwmodels.rtl.netlist import Netlist, Words
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

GROUPS = 8_192
PATTERNS = ("2:4", "4:8", "8:16", "2:6", "1:8")
"""2:6: the network has wires without a key."""
WIDE_PATTERNS = ("2:4", "4:8")


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
        # Equal but for one bit, which may be any.
        drawn[:, :1] ^ (rng.integers(0, 2, (GROUPS, m)) << rng.integers(0, bits, (GROUPS, 1))),
    ]
    share = GROUPS // len(kinds)
    return np.concatenate([kind[:share] for kind in kinds]).astype(f"uint{bits}")


@functools.cache
def pruned(pattern: str, bits: int) -> NDArray[np.bool_]:
    """What is to be kept: keys of an unsigned type, whose magnitudes are in their own order."""
    return nmsim.prune(keys(pattern, bits), pattern)


def patterns_of(bits: int) -> tuple[str, ...]:
    return PATTERNS if bits == 8 else WIDE_PATTERNS


@functools.cache
def ports(bits: int) -> dict[str, Words]:
    return numbered([{"keys": sliced(keys(pattern, bits), bits)} for pattern in patterns_of(bits)])


@functools.cache
def netlist(variant: str, bits: int = 8) -> Netlist:
    """Of all patterns. The script for delay makes other gates of the same structure in less time."""
    units = [selectors.build(spec_of(variant, pattern, bits)) for pattern in patterns_of(bits)]
    return flow.synthesise(SideBySide(units), "delay")


def wrong(found: Netlist, bits: int = 8) -> dict[str, int]:
    """Groups of each pattern with another mask than `nmsim.prune` gives."""
    outputs = found.evaluate(ports(bits))
    return {
        pattern: int((unsliced(outputs[f"mask_{i}"], 1, GROUPS) != pruned(pattern, bits)).any(axis=1).sum())
        for i, pattern in enumerate(patterns_of(bits))
    }


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("variant", selectors.VARIANTS)
def test_the_netlist_keeps_what_prune_keeps(variant: str, bits: int) -> None:
    assert wrong(netlist(variant, bits), bits) == dict.fromkeys(patterns_of(bits), 0)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_keys_have_ties_at_the_edge_of_what_is_kept(bits: int) -> None:
    for pattern in patterns_of(bits):
        found, kept = keys(pattern, bits), pruned(pattern, bits)
        least_kept = np.where(kept, found, np.iinfo(found.dtype).max).min(axis=1)
        most_dropped = np.where(kept, 0, found).max(axis=1)
        assert (least_kept == most_dropped).sum() > GROUPS // 4


@pytest.mark.parametrize("variant", selectors.VARIANTS)
def test_another_gate_is_noticed(variant: str) -> None:
    mutants = list(netlist(variant).mutants(12, seed=3))
    assert sum(any(wrong(mutant).values()) for mutant in mutants) >= 9
