"""Bit-sliced ports of netlists as arrays of numbers, and several units in one netlist."""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from unittest import mock

import numpy as np
from amaranth.hdl import Module, Signal
from numpy.typing import NDArray

from hwmodels.gates.record import Goal
from hwmodels.rtl import flow
from hwmodels.rtl.netlist import Netlist, Words, bit_slices, integers
from hwmodels.rtl.unit import Unit


def sliced(columns: NDArray[Any], bits: int) -> Words:
    """Numbers [cases, columns] of so many bits each as a port on which column 0 stands lowest."""
    return np.concatenate([bit_slices(column, bits) for column in columns.T])


def unsliced(port: Words, bits: int, cases: int) -> NDArray[Any]:
    """Cut a port into numbers of so many bits: [cases, columns]."""
    return np.stack(
        [integers(port[start : start + bits], cases) for start in range(0, len(port), bits)], axis=1
    )


def quickly(units: Sequence[Unit]) -> Netlist:
    """Map units side by side with a short script: the same passes of Yosys, and no rewriting for gates or depth in abc.

    The cells compute what those of the table's scripts do, since they come of the same description. It takes a third of
    the time. Numbers of gates are not those of the table.
    """
    with mock.patch.dict(flow.SCRIPTS, {"quick": ("strash; ifraig; map; topo",)}):
        return flow.synthesise(SideBySide(units), cast(Goal, "quick"))


class SideBySide(Unit):
    """Independent units as one, since starting a synthesis takes longer than a small unit: port `x` of unit i is `x_i`."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = units
        self.inner = [(i, port) for i, unit in enumerate(units) for port in unit.ports]
        outer = [Signal.like(port, name=f"{port.name}_{i}") for i, port in self.inner]
        given = {id(port) for unit in units for port in unit.inputs}
        is_input = [id(port) in given for _, port in self.inner]
        super().__init__(
            units[0].spec,
            [port for port, taken in zip(outer, is_input, strict=True) if taken],
            [port for port, taken in zip(outer, is_input, strict=True) if not taken],
            boundaries=units[0].spec.stages,
        )
        self.wires = list(zip(outer, is_input, strict=True))

    def elaborate(self, platform: object) -> Module:
        module = Module()
        for i, unit in enumerate(self.units):
            module.submodules[f"unit{i}"] = unit
        for (_, inner), (outer, is_input) in zip(self.inner, self.wires, strict=True):
            module.d.comb += inner.eq(outer) if is_input else outer.eq(inner)
        return module


def numbered(ports: Sequence[Mapping[str, Words]]) -> dict[str, Words]:
    """Ports of each unit as those of all `SideBySide`."""
    return {f"{name}_{i}": words for i, own in enumerate(ports) for name, words in own.items()}
