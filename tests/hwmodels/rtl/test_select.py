"""Select networks: the mapped netlists give what indexing gives, for every mask."""

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bit_sliced import numbered, quickly, sliced, unsliced
from numpy.typing import NDArray

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import flow, select
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
    first = 0 if variant == "crossbar" else np.arange(n)
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
    # Some changes compute the same: a line of a slot is never set beside another, so OR and XOR cannot be told apart.
    mutants = list(netlist(variant).mutants(16, seed=5))
    noticed = sum(any(wrong(mutant, variant).values()) for mutant in mutants)
    assert noticed >= 12


def test_a_slot_that_takes_the_next_element_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = select.words
    monkeypatch.setattr(select, "words", lambda value, bits: sound(value.rotate_right(bits), bits))
    units = [select.build(spec_of("onehot", pattern)) for pattern in PATTERNS]
    assert all(wrong(quickly(units), "onehot").values())


def test_ordered_lines_of_16_bits_take_at_most_1600_gates() -> None:
    found = flow.synthesise(select.build(spec_of("onehot", "8:16", 16)), "area")
    assert found.nand2 <= 1600
    assert found.flip_flops == 0


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
