"""Machine instructions of the compiled kernels, counted in the assembly LLVM writes. Needs no CPU that could run them.

`python -m kernels.compiled.count_cpu > hwmodels/data/cpu_instructions.csv` writes the counts that the cost model carries.
"""

import functools
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from kernels.cpu.compiled import assembly
from kernels.cpu.recipe import COLUMN_TOKENS, ROW_TOKENS, Recipe, recipe_for
from kernels.stored.errors import KernelError
from kernels.stored.rows import DTYPES, STEP_ELEMS, TABLED, kernel_format
from nmsim.errors import brief
from nmsim.format import FormatLike

CPUS = {"avx2": "znver3", "avx512": "znver4"}
"""Instruction set -> the CPU, by LLVM's name, that is compiled for."""
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ENCODINGS = ("bitmask", "index", "combinatorial")
COUNTED_TOKENS = (*ROW_TOKENS, *COLUMN_TOKENS)
COUNT_COLUMNS = (
    *("instruction_set", "dtype", "pattern", "encoding", "tokens"),
    *("lanes_per_element", "x_bytes_per_element"),
)
WIDEST, WIDE_LANES, NARROW_LANES = "%zmm", 16, 8
"""How registers of 16 lanes are written. An instruction without one counts as 8 lanes, whatever it does."""


def instructions_per_group(format: FormatLike, dtype: Any, *, tokens: int, isa: str) -> float:
    """Count the instructions of the innermost loop per group of M elements of one row.

    All of them: loads, decoding, multiply-adds of all tokens, and the row's share of what several rows share.

    Parameters
    ----------
    format : SparseFormat, Pattern or str
        2:4, 4:8, 8:16 or 16:32. Not 16:32 as `combinatorial` or `tiled`, whose codes other code decodes before.
    dtype : dtype or its name
        Of the stored values.
    tokens : int
        1 to 16; counted is the kernel that serves so many.
    isa : {"avx2", "avx512"}

    Returns
    -------
    float
        Instructions per group.

    Raises
    ------
    KernelError
        Something that no compiled kernel is made for.

    Notes
    -----
    Source: counted, in the output of the LLVM that llvmlite carries, for Zen 3 (avx2) and Zen 4 (avx512).
    """
    format = kernel_format(format)
    pattern = format.pattern
    name = np.dtype(dtype).name if not isinstance(dtype, str) else dtype
    if pattern not in STEP_ELEMS or (pattern.m == 32 and format.encoding.name in TABLED):
        raise KernelError(
            f"{format.short}: no compiled kernel reads it, expected {', '.join(map(str, STEP_ELEMS))}, "
            "and 16:32 as bitmask or index"
        )
    if name not in DTYPES:
        raise KernelError(f"dtype {brief(dtype)}: expected one of {', '.join(DTYPES)}")
    if isa not in CPUS:
        raise KernelError(f"isa={brief(isa)}: expected one of {', '.join(CPUS)}, which have compiled kernels")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= COLUMN_TOKENS[-1]:
        raise KernelError(f"tokens={brief(tokens)}: expected an int from 1 to {COLUMN_TOKENS[-1]}")
    recipe = recipe_for(format, name, tokens, isa)
    return len(inner_loop(recipe)) * pattern.m / elements_per_round(recipe)


def lanes_per_element(recipe: Recipe) -> float:
    """Count the 32-bit lanes that the innermost loop issues per element of one dense row, all tokens included."""
    issued = sum(WIDE_LANES if WIDEST in line else NARROW_LANES for line in inner_loop(recipe))
    return issued / elements_per_round(recipe)


def elements_per_round(recipe: Recipe) -> int:
    """Count the elements of all rows that a round of the innermost loop goes through."""
    return recipe.rows_abreast * recipe.step_elems * recipe.unrolled_steps


def x_bytes_per_element(recipe: Recipe) -> float:
    """Count the bytes of x that the innermost loop loads per element of one dense row.

    Lanes along K load x once for all rows of a step. Lanes that hold tokens load it for each stored value of each row. The
    rows of a dense matrix meet the same elements and share the load.
    """
    loaded = 4.0 * recipe.tokens
    if recipe.by_columns and recipe.pattern is not None:
        return loaded * recipe.step_kept / recipe.step_elems
    return loaded / recipe.rows_abreast


def count_table() -> Iterator[tuple[str, str, str, str, int, float, float]]:
    """Count every compiled kernel: `COUNT_COLUMNS`, a row each, as the cost model carries them."""
    for isa, (short, dtype) in itertools.product(CPUS, SHORT_NAMES.items()):
        stored = [(str(pattern), encoding) for pattern, encoding in itertools.product(STEP_ELEMS, ENCODINGS)]
        stored.remove(("16:32", "combinatorial"))
        for pattern, encoding in (*stored, ("dense", "")):
            for tokens in COUNTED_TOKENS:
                format = kernel_format(f"{pattern}/{encoding}") if encoding else None
                recipe = recipe_for(format, dtype, tokens, isa)
                lanes, x_bytes = lanes_per_element(recipe), x_bytes_per_element(recipe)
                yield isa, short, pattern, encoding, tokens, round(lanes, 4), round(x_bytes, 4)


@functools.cache
def inner_loop(recipe: Recipe) -> tuple[str, ...]:
    """The instructions of a kernel's innermost loop: the block that jumps back to its own beginning."""
    body: list[str] = []
    label = ""
    for line in assembly(recipe, CPUS.get(recipe.isa, CPUS["avx2"])).splitlines():
        text = line.split("#")[0].strip()
        if begin := re.fullmatch(r"(\.\w+):", text):
            label, body = begin[1], []
        elif text and not text.startswith("."):
            body.append(text)
            if re.fullmatch(rf"j\w+\s+{re.escape(label)}", text) and label:
                return tuple(body)
    raise AssertionError("a kernel without a loop")


if __name__ == "__main__":
    for row in (COUNT_COLUMNS, *count_table()):
        sys.stdout.write(",".join(map(str, row)) + "\n")
