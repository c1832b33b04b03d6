"""The instruction counts that the cost model carries are those of the kernels, as the compiler at hand writes them."""

import platform

import pandas as pd
import pytest

from hwmodels.estimate.cpu import COUNTS_FILE
from kernels.compiled import count_cpu

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
    dtype = count_cpu.SHORT_NAMES[row["dtype"]]
    if row["pattern"] == "dense":
        count = count_cpu.dense_instructions_per_element(dtype, int(row["tokens"]), row["instruction_set"])
    else:
        pattern = row["pattern"]
        groups = count_cpu.instructions_per_group(
            f"{pattern}/{row['encoding']}", dtype, tokens=int(row["tokens"]), isa=row["instruction_set"]
        )
        count = groups / int(pattern.split(":")[1])
    assert row["instructions_per_element"] == pytest.approx(count, rel=COMPILER_TOLERANCE)
