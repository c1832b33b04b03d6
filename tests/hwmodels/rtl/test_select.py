"""Select networks: the mapped netlists give what indexing gives, for every mask."""

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from proofs.bit_sliced import numbered, quickly, sliced, unsliced

from hwmodels.gates.record import UnitSpec
from hwmodels.gates.shared import serves, serving
from hwmodels.gates.table import gates_of
from hwmodels.rtl import select
from hwmodels.rtl.netlist import Netlist, Words
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

# A network treats all bits of an element alike, so few of them prove as much.
BITS = 3
PATTERNS = ("2:4", "4:8", "3:8", "1:8", "8:16")
CASES = 12_870
"""Of every pattern: all masks of 8:16, and the others' masks again and again with other elements."""


def spec_of(variant: str, pattern: str, bits: int = BITS) -> UnitSpec:
    n, m = map(int, pattern.split(":"))
    return UnitSpec("select", n, m, variant=variant, width_bits=bits)


@functools.cache
def netlist(variant: str) -> Netlist:
    """The networks of all patterns."""
    return quickly([select.build(spec_of(variant, pattern)) for pattern in PATTERNS])


@functools.cache
def kept(pattern: str) -> NDArray[np.int64]:
    """Positions of every mask, ascending, repeated: [cases, N]."""
    n, m = map(int, pattern.split(":"))
    masks = np.array(list(itertools.combinations(range(m), n)))
    return np.resize(masks, (CASES, n))


def control(variant: str, pattern: str, positions: NDArray[Any]) -> dict[str, Words]:
    """The port that says what is selected."""
    n, m = map(int, pattern.split(":"))
    if variant in ("mux", "ordered_mux"):
        return {"positions": sliced(positions, (m - 1).bit_length())}
    if variant == "butterfly":
        return {"mask": sliced((1 << positions).sum(axis=1)[:, None], m)}
    per_slot = m if variant == "crossbar" else m - n + 1
    first = np.arange(n) * (variant == "onehot")
    return {"lines": sliced(1 << (positions - first), per_slot)}


@functools.cache
def cases(variant: str, order: str = "ascending") -> tuple[dict[str, Words], list[NDArray[Any]]]:
    """Ports of all networks, and the elements that they must select."""
    rng = np.random.default_rng(18)
    ports, expected = [], []
    for pattern in PATTERNS:
        n, m = map(int, pattern.split(":"))
        positions = kept(pattern) if order == "ascending" else rng.integers(0, m, (CASES, n))
        elements = rng.integers(0, 1 << BITS, (CASES, m))
        ports.append({"x": sliced(elements, BITS), **control(variant, pattern, positions)})
        expected.append(np.take_along_axis(elements, positions, axis=1))
    return numbered(ports), expected


def wrong(found: Netlist, variant: str, order: str = "ascending") -> dict[str, int]:
    """Cases of each pattern whose selected elements are not those at the positions."""
    ports, expected = cases(variant, order)
    outputs = found.evaluate(ports)
    return {
        pattern: int((unsliced(outputs[f"y_{i}"], BITS, CASES) != expected[i]).any(axis=1).sum())
        for i, pattern in enumerate(PATTERNS)
    }


@pytest.mark.parametrize("variant", select.VARIANTS)
def test_every_mask_selects_its_elements(variant: str) -> None:
    assert wrong(netlist(variant), variant) == dict.fromkeys(PATTERNS, 0)


@pytest.mark.parametrize("variant", ["mux", "crossbar"])
def test_networks_of_all_inputs_take_positions_in_any_order(variant: str) -> None:
    assert wrong(netlist(variant), variant, "drawn") == dict.fromkeys(PATTERNS, 0)


@pytest.mark.parametrize("variant", ["onehot", "crossbar"])
def test_a_slot_without_a_line_is_zero(variant: str) -> None:
    found = netlist(variant)
    ports = {port: np.full((len(bits), 1), ~np.uint64(0)) for port, bits in found.inputs.items()}
    lines = ports["lines_1"].reshape(4, -1)
    lines[1] = 0
    y = found.evaluate(ports)["y_1"].reshape(4, BITS)
    assert not y[1].any()
    assert y[[0, 2, 3]].all()


@pytest.mark.parametrize("variant", select.VARIANTS)
def test_another_gate_is_noticed(variant: str) -> None:
    # Some changes compute the same: two lines of a slot are never set, so XOR serves for OR.
    mutants = list(netlist(variant).mutants(16, seed=5))
    noticed = sum(any(wrong(mutant, variant).values()) for mutant in mutants)
    assert noticed >= 12


def test_a_slot_that_takes_the_next_element_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = select.words
    monkeypatch.setattr(select, "words", lambda value, bits: sound(value.rotate_right(bits), bits))
    units = [select.build(spec_of("onehot", pattern)) for pattern in PATTERNS]
    assert all(wrong(quickly(units), "onehot").values())


NESTED = ("2:4", "4:8", "1:2", "4:6", "2:2", "8:9")
"""Patterns of which groups fill a group of 8:16, or a part of it."""


@pytest.mark.parametrize("variant", select.VARIANTS)
@pytest.mark.parametrize("narrow", NESTED)
def test_the_network_of_8_16_serves_the_groups_of_narrower_patterns(variant: str, narrow: str) -> None:
    wide, inner = Pattern(8, 16), Pattern.parse(narrow)
    assert serves(wide, inner)
    copies = wide.n // inner.n
    own = np.array(list(itertools.combinations(range(inner.m), inner.n)))
    # All masks of all groups side by side, if they are not too many to count: 1,296 of 2:4 and 4,900 of 4:8.
    every = list(itertools.islice(itertools.product(range(len(own)), repeat=copies), CASES))
    positions = np.concatenate(
        [own[[masks[group] for masks in every]] + group * inner.m for group in range(copies)], axis=1
    )
    positions = np.resize(positions, (CASES, wide.n))
    elements = np.random.default_rng(4).integers(0, 1 << BITS, (CASES, wide.m))
    at = PATTERNS.index("8:16")
    given = dict(cases(variant)[0])
    given |= {
        f"{name}_{at}": words
        for name, words in {"x": sliced(elements, BITS), **control(variant, "8:16", positions)}.items()
    }
    found = unsliced(netlist(variant).evaluate(given)[f"y_{at}"], BITS, CASES)
    assert (found == np.take_along_axis(elements, positions, axis=1)).all()


def reach(pattern: Pattern, slots: int, group_elements: int) -> list[set[int]]:
    """Elements that each slot may need, if groups of N slots stand side by side from each multiple of a wide group on."""
    copies = slots // pattern.n
    return [
        {group * pattern.m + j + i for i in range(pattern.m - pattern.n + 1)}
        for group in range(copies)
        for j in range(pattern.n)
        if copies * pattern.m <= group_elements
    ]


def test_a_network_serves_those_patterns_whose_lines_it_contains() -> None:
    patterns = [Pattern(n, m) for m in range(1, 13) for n in range(1, m + 1)]
    for wide, narrow in itertools.product(patterns, patterns):
        own = reach(wide, wide.n, wide.m)
        inner = reach(narrow, wide.n, wide.m) if wide.n % narrow.n == 0 else []
        contained = bool(inner) and all(a <= b for a, b in zip(inner, own, strict=True))
        assert serves(wide, narrow) == contained, f"{wide} {narrow}"


def test_the_serving_pattern_serves_all_and_a_smaller_one_does_not() -> None:
    for names in (["2:4", "4:8", "8:16"], ["1:4", "2:4"], ["1:4", "8:16"], ["3:4", "2:4"], ["4:8"]):
        patterns = [Pattern.parse(name) for name in names]
        found = serving(patterns)
        assert all(serves(found, pattern) for pattern in patterns)
        smaller = [Pattern(n, m) for m in range(1, found.m) for n in range(1, m + 1)]
        assert not any(all(serves(other, pattern) for pattern in patterns) for other in smaller)
    with pytest.raises(SpecError, match="expected at least one"):
        serving([])


def test_ordered_lines_of_16_bits_take_at_most_1600_gates() -> None:
    assert gates_of("select", Pattern(8, 16), variant="onehot", width_bits=16).nand2 <= 1600


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"variant": "benes"}, "expected a select of variant mux, ordered_mux, onehot, crossbar, butterfly"),
        ({"unit": "selector"}, "expected a select"),
        ({"width_bits": 0}, "at least 1 bit"),
        ({"n": 4}, "N below M"),
        ({"stages": 1}, "1 stages; expected at most 0"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        select.build(replace(spec_of("onehot", "2:4"), **change))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ports_are_those_of_the_pattern(pattern: str) -> None:
    n, m = Pattern.parse(pattern).n, Pattern.parse(pattern).m
    widths = {
        variant: {port.name: len(port) for port in select.build(spec_of(variant, pattern)).ports}
        for variant in select.VARIANTS
    }
    data = {"x": m * BITS, "y": n * BITS}
    assert widths["mux"] == widths["ordered_mux"] == data | {"positions": n * (m - 1).bit_length()}
    assert widths["onehot"] == data | {"lines": n * (m - n + 1)}
    assert widths["crossbar"] == data | {"lines": n * m}
    assert widths["butterfly"] == data | {"mask": m}
