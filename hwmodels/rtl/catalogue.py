"""Which units there are: every one that can be built, and those that the table of synthesis holds."""

import importlib
from collections.abc import Iterator
from itertools import product
from typing import Final

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.unit import Unit
from nmsim.errors import SpecError, brief, brief_names

_ROOM: Final = "hwmodels.rtl"
_FILES: Final = {
    ("decoder", "combinatorial"): "combinatorial",
    ("decoder", "tiled"): "tiled",
    ("position_decoder", "combinatorial"): "combinatorial",
    ("position_decoder", "tiled"): "tiled",
    ("encoder", "tiled"): "tiled",
    ("decoder", ""): "decoders",
    ("position_decoder", ""): "decoders",
    ("encoder", ""): "encoders",
    ("select", ""): "select",
    ("selector", ""): "selectors",
    ("lane", ""): "lane",
}
"""Unit and encoding -> file with its `build`; an empty encoding stands for all others."""


def build(spec: UnitSpec) -> Unit:
    """Build a unit.

    Parameters
    ----------
    spec : UnitSpec

    Raises
    ------
    SpecError
        No such unit, or one that its file does not know.
    """
    file = _FILES.get((spec.unit, spec.encoding)) or _FILES.get((spec.unit, ""))
    if file is None:
        units = dict.fromkeys(unit for unit, _ in _FILES)
        raise SpecError(f"unit {brief(spec.unit)}: expected one of {brief_names(units)}")
    if spec.stages and spec.unit != "lane":
        file = "pipeline" if importlib.util.find_spec(f"{_ROOM}.pipeline") else file
    unit: Unit = importlib.import_module(f"{_ROOM}.{file}").build(spec)
    return unit
