"""A whole kernel as LLVM IR: rows a few at a time, panels of K that stay in a cache, steps."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from kernels.cpu.bodies import ColumnBody, Row, RowBody
from kernels.cpu.code import I64, POINTER, Code, Value
from kernels.cpu.recipe import Recipe

NAME = "multiply"
BLOCK_ROWS = 32
"""Rows that read a panel of x before the next panel is."""
ARGUMENTS = [
    ("first_row", I64), ("last_row", I64), ("steps", I64), ("panel_steps", I64),
    ("x", POINTER), ("x_token_bytes", I64), ("values", POINTER), ("values_row_bytes", I64),
    ("metadata", POINTER), ("metadata_row_bytes", I64), ("table", POINTER), ("y", POINTER),
]  # fmt: skip
"""y is float32 [rows, tokens] and is added to; all else is read. At least one row, one step."""


def module_for(recipe: Recipe) -> Any:
    """Write the IR of a kernel."""
    module = ir.Module(name=NAME)
    code = Code(module, NAME, ARGUMENTS)
    given, build = code.arguments, code.ir
    body = (ColumnBody if recipe.by_columns else RowBody)(code, recipe)
    with code.loop("block", given["first_row"], given["last_row"], I64(BLOCK_ROWS)) as block:
        block_end = code.least(build.add(block, I64(BLOCK_ROWS)), given["last_row"])
        with code.loop("panel", I64(0), given["steps"], given["panel_steps"]) as panel:
            panel_end = code.least(build.add(panel, given["panel_steps"]), given["steps"])
            with code.loop("rows", block, block_end, I64(body.rows_abreast)) as first:
                rows = _rows(code, first, body.rows_abreast)
                sums = body.begin()
                with code.loop("step", panel, panel_end, I64(1)) as step:
                    body.step(rows, sums, step)
                body.end(rows, sums)
    code.finish()
    return module


def _rows(code: Code, first: Value, count: int) -> list[Row]:
    """Rows side by side. Beyond the last the last comes again, and its result is stored again."""
    given, build = code.arguments, code.ir
    last = build.sub(given["last_row"], I64(1))
    rows = []
    for i in range(count):
        row = code.least(build.add(first, I64(i)), last)
        rows.append(
            Row(
                row,
                code.at(given["values"], build.mul(row, given["values_row_bytes"])),
                code.at(given["metadata"], build.mul(row, given["metadata_row_bytes"])),
            )
        )
    return rows
