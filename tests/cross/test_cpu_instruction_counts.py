"""The instruction counts that the cost model carries are those of the kernels, as the compiler at hand writes them."""

import platform

import pandas as pd
import pytest

from hwmodels.estimate.cpu import (
    COUNTS_FILE,
    FEW_TOKENS,
    INSTRUCTION_SETS,
    PANEL_BYTES,
    PANEL_TOKENS,
    STREAMING_LANES,
)
from kernels.compiled import count_cpu
from kernels.cpu.recipe import COLUMN_TOKENS, ROW_TOKENS, recipe_for
from kernels.cpu.recipe import PANEL_BYTES as KERNEL_PANEL_BYTES
from kernels.stored.rows import kernel_format

COMMITTED = pd.read_csv(COUNTS_FILE, keep_default_na=False)
pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="compiles for x86 processors"
)
COMPILER_TOLERANCE = 0.15
"""Another LLVM may schedule otherwise."""


def test_every_kernel_is_counted():
    assert COMMITTED.columns.tolist() == list(count_cpu.COUNT_COLUMNS)
    assert not COMMITTED.duplicated(list(count_cpu.COUNT_COLUMNS[:-1])).any()
    assert len(COMMITTED) == 2 * 3 * (11 + 1) * len(count_cpu.COUNTED_TOKENS)


@pytest.mark.parametrize("place", range(0, len(COMMITTED), 37))
def test_committed_counts_are_those_of_the_compiler(place):
    row = COMMITTED.iloc[place]
    dtype, tokens = count_cpu.SHORT_NAMES[row["dtype"]], int(row["tokens"])
    format = None if row["pattern"] == "dense" else kernel_format(f"{row['pattern']}/{row['encoding']}")
    recipe = recipe_for(format, dtype, tokens, row["instruction_set"])
    assert row["lanes_per_element"] == pytest.approx(
        count_cpu.lanes_per_element(recipe), rel=COMPILER_TOLERANCE
    )
    assert row["x_bytes_per_element"] == pytest.approx(count_cpu.x_bytes_per_element(recipe), abs=1e-4)


@pytest.mark.parametrize("tokens", count_cpu.COUNTED_TOKENS)
@pytest.mark.parametrize("format", ["8:16/bitmask", None])
def test_loads_of_x_are_those_of_the_compiled_loop(format, tokens):
    # What reads a whole register from memory reads x: stored values of 16 bits are widened as they are loaded.
    recipe = recipe_for(kernel_format(format) if format else None, "bfloat16", tokens, "avx512")
    register = {16: "%zmm", 8: "%ymm"}[recipe.lanes]
    loads = [line for line in count_cpu.inner_loop(recipe) if "(" in line and register in line]
    of_x = [line for line in loads if not line.startswith(("vpmovzx", "vpbroadcast", "lea"))]
    elements = count_cpu.elements_per_round(recipe)
    assert 4 * recipe.lanes * len(of_x) / elements == count_cpu.x_bytes_per_element(recipe)


def test_panels_of_x_are_those_of_the_kernels():
    of_sets = {INSTRUCTION_SETS[lanes]: panel_bytes for lanes, panel_bytes in PANEL_BYTES.items()}
    assert of_sets == {isa: KERNEL_PANEL_BYTES[isa] for isa in count_cpu.CPUS}
    assert (COLUMN_TOKENS[-1], ROW_TOKENS[-1]) == (PANEL_TOKENS, FEW_TOKENS)


def test_kernels_that_start_no_rows_are_those_that_ask_for_memory_ahead():
    for lanes, isa in INSTRUCTION_SETS.items():
        assert (lanes in STREAMING_LANES) == recipe_for(None, "float32", 1, isa).prefetches
