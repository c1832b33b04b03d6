"""How long a depth of gates takes: the table of delays, and clock cycles."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.gates import delay
from hwmodels.gates.delay import DELAY_FILE, MARGIN, REGISTER_FO4, DelayFile, fo4_at, latency_cycles
from nmsim.errors import SpecError
from nmsim.support.schema import read_record

FILE = read_record(DelayFile, DELAY_FILE)
NODES = st.floats(3, 180)


def test_every_delay_has_its_source_and_every_source_is_used():
    assert {entry.source for entry in FILE.delays} == set(FILE.sources)
    for entry in FILE.delays:
        found = fo4_at(entry.node_nm)
        assert (found.ps.low, found.ps.nominal, found.ps.high) == (entry.low, entry.nominal, entry.high)
        assert found.source.startswith(FILE.sources[entry.source])


def test_delays_are_those_of_the_polynomials_that_the_file_names():
    """Coefficients of delay over volts, in ps: high performance, then low power."""
    at = {7: (0.7, (-28.58, 76.6, -70.26, 24.69), (-61.79, 196.1, -210.3, 79.55)),
          10: (0.75, (-34.95, 93.65, -85.99, 30.4), (-71.76, 228.6, -246.3, 93.91)),
          14: (0.8, (-40.66, 109.2, -100.6, 35.92), (-85.37, 271.6, -292.2, 111.4)),
          16: (0.85, (0, 24.8, -47.52, 28.87), (-114.6, 366.7, -397.4, 153.6))}  # fmt: skip
    for node, (volts, *both) in at.items():
        fast, slow = (
            sum(c * volts**power for c, power in zip(one, (3, 2, 1, 0), strict=True)) for one in both
        )
        ps = fo4_at(node).ps
        assert ps.low == pytest.approx(fast, rel=0.005)
        assert ps.high == pytest.approx(slow, rel=0.005)
        assert ps.nominal == pytest.approx(math.sqrt(fast * slow), rel=0.005)


@given(NODES, NODES)
def test_a_finer_node_is_never_slower(one, other):
    fine, coarse = (fo4_at(node).ps for node in sorted((one, other)))
    assert fine.nominal <= coarse.nominal * (1 + 1e-12)


@given(st.floats(0, 1000), st.floats(0, 1000), NODES, st.floats(1e8, 3e9))
def test_depth_node_and_clock_by_hand(fo4, more, node, clock_hz):
    cycles = latency_cycles(fo4, node_nm=node, clock_hz=clock_hz)
    ps = fo4_at(node).ps.nominal
    left = 1e12 / clock_hz - REGISTER_FO4 * ps
    assert cycles * left >= fo4 * MARGIN * ps * (1 - 1e-9)
    assert cycles == 0 or (cycles - 1) * left < fo4 * MARGIN * ps
    assert latency_cycles(fo4 + more, node_nm=node, clock_hz=clock_hz) >= cycles
    assert latency_cycles(fo4, node_nm=node, clock_hz=clock_hz / 2) <= cycles
    ends = [latency_cycles(fo4, node_nm=node, clock_hz=clock_hz, end=end) for end in ("low", "nominal")]
    assert ends == sorted(ends)


def test_wires_take_no_cycle_at_any_clock():
    assert latency_cycles(0, node_nm=180, clock_hz=1e15) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            (10, {"node_nm": 2.9, "clock_hz": 1e9}),
            "node_nm=2.9: no delay of a gate is known; expected 3 to 180",
        ),
        (
            (10, {"node_nm": 180, "clock_hz": 5e9}),
            "registers alone take 232 ps of a cycle; expected less than",
        ),
        ((-1, {"node_nm": 7, "clock_hz": 1e9}), "fo4=-1: expected a depth of at least 0"),
        ((math.nan, {"node_nm": 7, "clock_hz": 1e9}), "fo4=nan: expected a depth of at least 0"),
    ],
)
def test_bad_input_is_named(arguments, problem):
    depth, named = arguments
    with pytest.raises(SpecError, match=problem):
        latency_cycles(depth, **named)


def test_a_file_out_of_order_is_refused():
    first, second, *rest = FILE.delays
    with pytest.raises(SpecError, match="180 nm: expected a finer and no slower node than before"):
        DelayFile(FILE.sources, (second, first, *rest))
    with pytest.raises(SpecError, match="expected one of rule, ptm"):
        DelayFile(FILE.sources, (dataclasses.replace(first, source="hearsay"), second))
    with pytest.raises(SpecError, match="expected low <= nominal <= high"):
        dataclasses.replace(first, low=100.0)
    assert delay.Delay is type(first)
