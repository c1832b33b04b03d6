"""What decoders and encoders must give, and how many cases a netlist has wrong."""

import functools
import itertools
import unittest.mock
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import flow
from hwmodels.rtl.netlist import Netlist, Words, bit_slices, integers
from hwmodels.rtl.unit import Unit
from nmsim import encodings
from nmsim.errors import EncodingError
from nmsim.layouts.nibbles import MASK_OF_NIBBLE
from nmsim.pattern import Pattern

NARROW_BITS = 20
"""Codes of so many bits are all tried."""
Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class Cases:
    """Codes [cases], the mask of each, and whether a mask has it; of several groups, the first group's mask lowest."""

    codes: Numbers
    masks: Numbers
    legal: NDArray[np.bool_]


def quickly_mapped(unit: Unit) -> Netlist:
    """Map a unit without any work on its gates: the same function in a quarter of the time."""
    with unittest.mock.patch.dict(flow.SCRIPTS, {"area": ("strash; map; topo",)}):
        return flow.synthesise(unit, "area")


def all_masks(pattern: Pattern) -> Numbers:
    """Every mask of a pattern, in numeric order."""
    every = np.arange(1 << pattern.m, dtype=np.uint64)
    masks: Numbers = every[np.bitwise_count(every) == pattern.n]
    return masks


@functools.cache
def code_cases(encoding: str, pattern: Pattern, variant: str = "") -> Cases:
    """All codes of an encoding up to 20 bits.

    Of wider codes: those of all masks, each single flip of many of them, words with fields that nearly fit, and any words.
    """
    if variant == "nibbles":
        mask_of = MASK_OF_NIBBLE[pattern.m]
        masks = np.array([mask_of.get(code, 0) for code in range(16)], np.uint64)
        return Cases(np.arange(16, dtype=np.uint64), masks, np.isin(np.arange(16), list(mask_of)))
    legal_codes, masks, bits = legal_codes_of(encoding, pattern)
    if bits <= NARROW_BITS:
        codes = np.arange(1 << bits, dtype=np.uint64)
    else:
        rng = np.random.default_rng(pattern.m)
        some = rng.choice(legal_codes, min(2000, len(legal_codes)), replace=False)
        flipped = some[:, None] ^ (np.uint64(1) << np.arange(bits, dtype=np.uint64))
        twice = some ^ np.uint64(1) << rng.integers(0, bits, len(some), dtype=np.uint64)
        twice ^= np.uint64(1) << rng.integers(0, bits, len(some), dtype=np.uint64)
        words = rng.integers(0, 1 << bits, 30_000, dtype=np.uint64)
        codes = np.concatenate([legal_codes, flipped.ravel(), twice, words])
    order = np.argsort(legal_codes)
    at = np.minimum(np.searchsorted(legal_codes[order], codes), len(order) - 1)
    legal = legal_codes[order][at] == codes
    return Cases(codes, np.where(legal, masks[order][at], 0), legal)


@functools.cache
def legal_codes_of(encoding: str, pattern: Pattern) -> tuple[Numbers, Numbers, int]:
    """All legal codes, their masks (of all groups that a code covers), and the bits of a code; of many groups, a sample."""
    coder = encodings.get(encoding)
    groups = coder.groups_per_code(pattern)
    singles = all_masks(pattern)
    if len(singles) ** groups <= 1 << 16:
        rows = np.array(list(itertools.product(singles, repeat=groups)), np.uint64)
    else:
        rows = np.random.default_rng(groups).choice(singles, (20_000, groups))
    codes = np.asarray(coder.encode(rows.ravel(), pattern)).astype(np.uint64)
    shifts = np.arange(groups, dtype=np.uint64) * np.uint64(pattern.m)
    # Of a sample, the same row may have been drawn twice.
    codes, first = np.unique(codes, return_index=True)
    return codes, (rows << shifts).sum(axis=1, dtype=np.uint64)[first], coder.code_bits(pattern)


def sampled_masks(pattern: Pattern, count: int) -> list[int]:
    """Legal masks of a pattern that has too many, drawn alike; half of them again with one element changed, and any words."""
    rng = np.random.default_rng(pattern.m)
    ranks = rng.integers(0, pattern.configurations, count, dtype=np.uint64)
    masks = [int(mask) for mask in encodings.get("combinatorial").decode(ranks, pattern)]
    changed = [mask ^ 1 << int(rng.integers(pattern.m)) for mask in masks[::2]]
    words: list[int] = rng.integers(0, 1 << pattern.m, count).tolist()
    return masks + changed + words


def sampled_codes(encoding: str, pattern: Pattern, count: int) -> dict[int, int | None]:
    """Codes of any width -> their masks, or None for those that the encoding refuses: drawn, one bit changed, any words."""
    coder, rng = encodings.get(encoding), np.random.default_rng(count)
    bits = coder.code_bits(pattern)
    legal = [int(code) for code in coder.encode(sampled_masks(pattern, count)[:count], pattern)]
    changed = [code ^ 1 << int(rng.integers(bits)) for code in legal]
    words = [int.from_bytes(rng.bytes(16), "little") >> (128 - bits) for _ in range(count)]
    return {code: mask_or_none(encoding, pattern, code) for code in (*legal, *changed, *words)}


def mask_or_none(encoding: str, pattern: Pattern, code: int) -> int | None:
    """What an encoding says of one code of one group."""
    try:
        return int(encodings.get(encoding).decode([code], pattern)[0])
    except EncodingError:
        return None


def ports_of(spec: UnitSpec, cases: int | None = None) -> dict[str, Words]:
    """Input of a unit: of a decoder all codes, of an encoder all masks; repeated to so many cases."""
    port, numbers, bits = _inputs(spec)
    return {port: bit_slices(np.resize(numbers, cases or len(numbers)), bits)}


def cases_of(spec: UnitSpec) -> int:
    """How many inputs a unit is tried with."""
    return len(_inputs(spec)[1])


def _inputs(spec: UnitSpec) -> tuple[str, Numbers, int]:
    pattern = spec.pattern
    if spec.unit == "encoder":
        return "mask", np.arange(1 << pattern.m, dtype=np.uint64), pattern.m
    bits = 4 if spec.variant == "nibbles" else encodings.get(spec.encoding).code_bits(pattern)
    return "code", code_cases(spec.encoding, pattern, spec.variant).codes, bits


def wrong(outputs: Mapping[str, Words], spec: UnitSpec, cases: int | None = None, *, suffix: str = "") -> int:
    """Count inputs for which a unit's outputs are not what they must be."""
    count = cases or cases_of(spec)
    expected, relevant, flag = expected_of(spec)
    flags, kept = (
        np.resize(relevant, count),
        {name: np.resize(value, count) for name, value in expected.items()},
    )
    bad = np.zeros(count, bool)
    if flag + suffix in outputs:
        bad |= integers(outputs[flag + suffix], count) != flags
    else:
        bad |= ~flags
    for name, value in kept.items():
        bad |= (integers(outputs[name + suffix], count) != value) & flags
    return int(bad.sum())


@functools.cache
def expected_of(spec: UnitSpec) -> tuple[dict[str, Numbers], NDArray[np.bool_], str]:
    """Outputs of a unit for all its inputs, which of them count, and the output that says so."""
    pattern = spec.pattern
    if spec.unit == "encoder":
        every = np.arange(1 << pattern.m, dtype=np.uint64)
        codes, legal = np.zeros(len(every), np.uint64), np.bitwise_count(every) == pattern.n
        codes[legal] = encodings.get(spec.encoding).encode(every[legal], pattern)
        return {"code": codes}, legal, "legal"
    cases = code_cases(spec.encoding, pattern, spec.variant)
    if spec.unit == "decoder":
        return {"mask": cases.masks}, cases.legal, "valid"
    positions: dict[str, Numbers] = {}
    left = cases.masks.copy()
    for slot in range(pattern.n * encodings.get(spec.encoding).groups_per_code(pattern)):
        lowest = left & (~left + np.uint64(1))
        bit = np.bitwise_count(lowest - np.uint64(1)).astype(np.uint64)
        positions[f"position_{slot}"] = bit % np.uint64(pattern.m)
        left ^= lowest
    return positions, cases.legal, "valid"


def unnoticed(netlist: Netlist, spec: UnitSpec, *, count: int = 12, seed: int = 7) -> tuple[list[str], int]:
    """Mutants that change what counts on other inputs and pass all the same, and how many mutants fail."""
    missed, failed = [], 0
    for mutant, changed in _mutants(netlist, spec, count, seed):
        found = wrong(mutant.evaluate(ports_of(spec)), spec) > 0
        failed += found
        if changed and not found:
            missed.append(mutant.name)
    return missed, failed


def _mutants(netlist: Netlist, spec: UnitSpec, count: int, seed: int) -> Iterator[tuple[Netlist, bool]]:
    """Mutants, and whether each differs from the netlist on drawn words in what counts."""
    rng = np.random.default_rng(seed)
    ((port, bits),) = netlist.inputs.items()
    _, numbers, _ = _inputs(spec)
    drawn = rng.choice(numbers, 50_000) ^ (
        np.uint64(1) << rng.integers(0, len(bits), 50_000, dtype=np.uint64)
    )
    words = {port: bit_slices(np.concatenate([drawn, rng.choice(numbers, 50_000)]), len(bits))}
    before = netlist.evaluate(words)
    flag = "legal" if spec.unit == "encoder" else "valid"
    counts = before[flag] if flag in before else ~np.uint64(0)
    for mutant in netlist.mutants(count, seed=seed):
        after = mutant.evaluate(words)
        changed: Any = any(
            ((after[name] ^ before[name]) & (~np.uint64(0) if name == flag else counts)).any()
            for name in before
        )
        yield mutant, bool(changed)
