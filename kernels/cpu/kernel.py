"""A whole kernel as LLVM IR: a few rows at a time, panels of K that stay in a cache, steps.

Lanes run along K, or hold tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from kernels.cpu import avx2, avx512, decode
from kernels.cpu.code import (
    F32,
    FIRST_LEVEL,
    I64,
    POINTER,
    SECOND_LEVEL,
    Code,
    Part,
    Value,
    number_in_all_lanes,
    numbers,
    vector,
    zero,
)  # fmt: skip
from kernels.cpu.recipe import Recipe
from kernels.stored.rows import CACHE_LINE_BYTES


@dataclass(frozen=True)
class Row:
    """Where a row begins."""

    number: Value
    values: Value
    metadata: Value


class RowBody:
    """Lanes run along K, and every token has sums of its own."""

    def __init__(self, code: Code, recipe: Recipe) -> None:
        self.code, self.recipe = code, recipe
        self._kind = vector(F32, recipe.lanes)
        self.rows_abreast = recipe.rows_abreast
        self._chains = 2 if recipe.tokens == 1 else 1

    def begin(self) -> list[Value]:
        """Sums of every row and token, all zero."""
        count = self.rows_abreast * self.recipe.tokens * self._chains
        return [self.code.variable(self._kind, zero(self._kind)) for _ in range(count)]

    def prefetch(self, rows: Sequence[Row], step: Value) -> None:
        """Ask for what every row reads some time later, which may be of its next row.

        In every step, though several steps share a cache line: a core that is busy with misses drops such a request.
        """
        code, recipe = self.code, self.recipe
        if not recipe.prefetches:
            return
        ahead = recipe.ahead_bytes
        values_at = code.ir.mul(step, I64(recipe.value_bytes * recipe.step_kept))
        codes_at = code.ir.mul(step, I64(recipe.step_metadata_bytes))
        for row in rows:
            code.prefetch(code.at(row.values, values_at, ahead.values), SECOND_LEVEL)
            if ahead.values_soon:
                code.prefetch(code.at(row.values, values_at, ahead.values_soon), FIRST_LEVEL)
            if recipe.pattern is not None:
                code.prefetch(code.at(row.metadata, codes_at, ahead.metadata), SECOND_LEVEL)

    def step(self, rows: Sequence[Row], sums: Sequence[Value], step: Value) -> None:
        """Add one step of every row."""
        code, recipe = self.code, self.recipe
        build, given = code.ir, code.arguments
        x_at = code.at(given["x"], build.mul(step, I64(4 * recipe.step_elems)))
        x = [code.at(x_at, build.mul(I64(token), given["x_token_bytes"])) for token in range(recipe.tokens)]
        values_at = build.mul(step, I64(recipe.value_bytes * recipe.step_kept))
        codes_at = build.mul(step, I64(recipe.step_metadata_bytes))
        values = [code.at(row.values, values_at) for row in rows]
        codes = [code.at(row.metadata, codes_at) for row in rows]
        find = self._dense if recipe.pattern is None else avx2.parts if recipe.isa == "avx2" else avx512.parts
        for i, of_row in enumerate(find(code, recipe, codes, values, x)):
            for number, part in enumerate(of_row):
                for token, picked in enumerate(part.x):
                    place = sums[(i * recipe.tokens + token) * self._chains + number % self._chains]
                    total = build.load(place, typ=self._kind)
                    added = code.multiply_add(part.weights, picked, total)
                    build.store(added if part.keep is None else build.select(part.keep, added, total), place)

    @staticmethod
    def _dense(
        code: Code, recipe: Recipe, codes: Sequence[Value], values: Sequence[Value], x: Sequence[Value]
    ) -> list[list[Part]]:
        lanes = recipe.lanes
        places = range(recipe.step_elems // lanes)
        xs = [[code.load(code.at(token, 4 * lanes * v), vector(F32, lanes)) for token in x] for v in places]
        return [
            [
                Part(numbers(code, recipe.dtype, code.at(row, lanes * recipe.value_bytes * v), lanes), xs[v])
                for v in places
            ]
            for row in values
        ]

    def end(self, rows: Sequence[Row], sums: Sequence[Value]) -> None:
        """Write the sums to y."""
        code = self.code
        places = iter(sums)
        for row in rows:
            for token in range(self.recipe.tokens):
                lanes = code.ir.load(next(places), typ=self._kind)
                for _ in range(1, self._chains):
                    lanes = code.ir.fadd(lanes, code.ir.load(next(places), typ=lanes.type))
                at = code.at(
                    code.arguments["y"], code.ir.mul(row.number, I64(4 * self.recipe.tokens)), 4 * token
                )
                code.store(code.sum_of_lanes(lanes), at)


class ColumnBody:
    """Lanes hold tokens: each stored value meets the row of x [K, tokens] that its position names."""

    def __init__(self, code: Code, recipe: Recipe) -> None:
        self.code, self.recipe = code, recipe
        self.rows_abreast = recipe.rows_abreast
        self._lanes = recipe.lanes
        self._vectors = recipe.tokens // recipe.lanes
        self._x_bytes = 4 * recipe.tokens

    def begin(self) -> list[Value]:
        """Sums of every row, all zero."""
        nothing = zero(vector(F32, self._lanes))
        return [self.code.variable(nothing.type, nothing) for _ in range(2 * self.rows_abreast)]

    def step(self, rows: Sequence[Row], sums: Sequence[Value], step: Value) -> None:
        """Add one step of every row."""
        code, recipe = self.code, self.recipe
        build = code.ir
        x_at = code.at(code.arguments["x"], build.mul(step, I64(self._x_bytes * recipe.step_elems)))
        values_at = build.mul(step, I64(recipe.value_bytes * recipe.step_kept))
        codes_at = build.mul(step, I64(recipe.step_metadata_bytes))
        for i, row in enumerate(rows):
            values, codes = code.at(row.values, values_at), code.at(row.metadata, codes_at)
            for j, x in enumerate(self._x_of_kept(x_at, codes)):
                weight = number_in_all_lanes(
                    code, recipe.dtype, code.at(values, recipe.value_bytes * j), self._lanes
                )
                for v in range(self._vectors):
                    place = sums[2 * i + (v if self._vectors == 2 else j % 2)]
                    part = code.load(code.at(x, 4 * self._lanes * v), vector(F32, self._lanes))
                    build.store(code.multiply_add(weight, part, build.load(place, typ=part.type)), place)

    def prefetch(self, rows: Sequence[Row], panel: Value) -> None:
        """Ask for each row's part of the next panel. Rows of a block are far apart, so that no hardware foresees it."""
        code, recipe = self.code, self.recipe
        if not recipe.prefetches:
            return
        build = code.ir
        for row in rows:
            for start, step_bytes in (
                (row.values, recipe.value_bytes * recipe.step_kept),
                (row.metadata, recipe.step_metadata_bytes),
            ):
                size = step_bytes * recipe.panel_steps
                at = code.at(start, build.mul(panel, I64(step_bytes)), size)
                for line in range(0, size, CACHE_LINE_BYTES):
                    code.prefetch(code.at(at, line), SECOND_LEVEL)

    def _x_of_kept(self, x: Value, codes: Value) -> list[Value]:
        """Addresses of the rows of x that the stored values of a step meet, one after the other."""
        code, recipe = self.code, self.recipe
        if recipe.pattern is None:
            return [code.at(x, self._x_bytes * element) for element in range(recipe.step_elems)]
        found = decode.ones(code, recipe, codes)
        return [code.at(x, code.ir.mul(position, I64(self._x_bytes))) for position in found]

    def end(self, rows: Sequence[Row], sums: Sequence[Value]) -> None:
        """Add the sums to y. Everything is read before anything is written: a row may be there twice."""
        code, results = self.code, []
        kind = vector(F32, self._lanes)
        for i, row in enumerate(rows):
            of_row = [code.ir.load(place, typ=kind) for place in sums[2 * i : 2 * i + 2]]
            if self._vectors == 1:
                of_row = [code.ir.fadd(*of_row)]
            at = code.at(code.arguments["y"], code.ir.mul(row.number, I64(self._x_bytes)))
            for v, lanes in enumerate(of_row):
                place = code.at(at, 4 * self._lanes * v)
                results.append((code.ir.fadd(code.load(place, kind), lanes), place))
        for total, at in results:
            code.store(total, at)


NAME = "multiply"
BLOCK_ROWS = 32
"""Rows that read a panel of x before the next panel is."""
ARGUMENTS = [
    ("first_row", I64), ("last_row", I64), ("steps", I64), ("panel_steps", I64),
    ("x", POINTER), ("x_token_bytes", I64), ("values", POINTER), ("values_row_bytes", I64),
    ("metadata", POINTER), ("metadata_row_bytes", I64), ("table", POINTER), ("y", POINTER),
]  # fmt: skip
"""y is float32 [rows, tokens]; all else is read. At least one row, one step.

Lanes along K write y. Lanes that hold tokens add to it, panel by panel.
"""


def module_for(recipe: Recipe) -> Any:
    """Write the IR of a kernel."""
    module = ir.Module(name=NAME)
    code = Code(module, NAME, ARGUMENTS)
    if recipe.by_columns:
        _by_panels(code, ColumnBody(code, recipe))
    else:
        _by_streams(code, RowBody(code, recipe))
    code.finish()
    return module


def _by_panels(code: Code, body: ColumnBody) -> None:
    """Blocks of rows share a panel of x, which stays in a cache, before the next panel is read."""
    given, build = code.arguments, code.ir
    with code.loop("block", given["first_row"], given["last_row"], I64(BLOCK_ROWS)) as block:
        block_end = code.least(build.add(block, I64(BLOCK_ROWS)), given["last_row"])
        with code.loop("panel", I64(0), given["steps"], given["panel_steps"]) as panel:
            panel_end = code.least(build.add(panel, given["panel_steps"]), given["steps"])
            with code.loop("rows", block, block_end, I64(body.rows_abreast)) as first:
                rows = _rows(code, first, I64(1), body.rows_abreast)
                sums = body.begin()
                body.prefetch(rows, panel)
                with code.loop("step", panel, panel_end, I64(1)) as step:
                    body.step(rows, sums, step)
                body.end(rows, sums)


def _by_streams(code: Code, body: RowBody) -> None:
    """The rows are cut into a few parts side by side. Each part is one stream of bytes, from its first row to its last.

    Without prefetches, rows side by side are neighbours.
    """
    given, build, count = code.arguments, code.ir, body.rows_abreast
    apart, end, step_rows = I64(1), given["last_row"], I64(count)
    if body.recipe.prefetches:
        n_rows = build.sub(given["last_row"], given["first_row"])
        apart, step_rows = build.udiv(build.add(n_rows, I64(count - 1)), I64(count)), I64(1)
        end = build.add(given["first_row"], apart)
    with code.loop("rows", given["first_row"], end, step_rows) as first:
        rows = _rows(code, first, apart, count)
        sums = body.begin()
        _steps(code, body, rows, sums)
        body.end(rows, sums)


def _steps(code: Code, body: RowBody, rows: Sequence[Row], sums: Sequence[Value]) -> None:
    """Go along the rows, some steps per round; then the steps that are left one by one."""
    given, build, unrolled = code.arguments, code.ir, body.recipe.unrolled_steps
    whole = build.sub(given["steps"], build.urem(given["steps"], I64(unrolled)))
    with (
        build.if_then(build.icmp_signed(">", whole, I64(0))),
        code.loop("round", I64(0), whole, I64(unrolled)) as first,
    ):
        body.prefetch(rows, first)
        for i in range(unrolled):
            body.step(rows, sums, build.add(first, I64(i)))
    if unrolled > 1:
        with (
            build.if_then(build.icmp_signed("<", whole, given["steps"])),
            code.loop("step", whole, given["steps"], I64(1)) as step,
        ):
            body.step(rows, sums, step)


def _rows(code: Code, first: Value, apart: Value, count: int) -> list[Row]:
    """Rows side by side. Beyond the last the last comes again, and its result is stored again."""
    given, build = code.arguments, code.ir
    last = build.sub(given["last_row"], I64(1))
    rows = []
    for i in range(count):
        row = code.least(build.add(first, build.mul(apart, I64(i))), last)
        rows.append(
            Row(
                row,
                code.at(given["values"], build.mul(row, given["values_row_bytes"])),
                code.at(given["metadata"], build.mul(row, given["metadata_row_bytes"])),
            )
        )
    return rows
