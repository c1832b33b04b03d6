"""A core with real codes and values: its sums are the integer product, and its starts and ends those of the simulator."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwmodels.rtl.pipeline import CLOCKED, WRITE, CoreShape, DataCore, settings
from hwmodels.tensorcore.point import mapping, point
from hwmodels.tensorcore.record import load_core
from hwmodels.tensorcore.services import STAGES
from hwmodels.tensorcore.simulate import random_mask, simulate
from nmsim import encodings, mask
from nmsim.case import Case, GemmShape
from nmsim.format import as_format
from nmsim.pattern import Pattern

KEPT = [STAGES.index(stage) for stage in CLOCKED]
BITS = 8


@dataclass
class Drawn:
    """A core, a product on it, and what the simulator says of the two."""

    core: object
    shape: CoreShape
    weights: np.ndarray
    x: np.ndarray
    kept: np.ndarray
    tile: tuple[int, int]
    block: int
    trace: object


# Pattern; encoding, variant and ranks of registers of the decoder; array rows, columns and depth; tile; what else differs.
CASES = [
    ("2:4", "combinatorial", "serial", 1, (2, 2, 2), (4, 2), {"decoder_elements_per_cycle": 8}),
    ("2:4", "gap", "plain", 0, (2, 2, 4), (4, 4), {"operand_b_bytes_per_cycle": 8, "register_blocks": 1}),
    ("4:8", "combinatorial", "digits", 2, (2, 2, 4), (2, 4), {"accumulator_bytes_per_cycle": 16}),
    ("4:8", "bitmask", "plain", 0, (2, 1, 4), (4, 2), {"decoder_elements_per_cycle": 8, "decoder_latency_cycles": 0}),
]  # fmt: skip


def packed(elems, bits):
    """Bit fields of two's complement, the first lowest."""
    return sum((int(elem) & (1 << bits) - 1) << (bits * at) for at, elem in enumerate(elems))


def drawn(place):
    text, encoding, variant, stages, array, tile, changes = CASES[place]
    pattern, rng = Pattern.parse(text), np.random.default_rng(place)
    rates = {
        "decoder_elements_per_cycle": 4 * pattern.m,
        "decoder_latency_cycles": 2,
        "operand_b_bytes_per_cycle": 1024,
        "accumulator_bytes_per_cycle": 2 * array[0] * array[1] * 4,
        "register_blocks": 2,
    }
    core = replace(
        load_core("edge-npu-8x16"),
        cores=1, array_rows=array[0], array_cols=array[1], array_depth=array[2], patterns=(pattern,),
        encodings=(encoding,), fragment_rows=64, fragment_cols=64, accumulator_buffers=1 + place % 2,
        accumulator_bytes=8192, shared_bytes=1000, shared_blocks=8, dram_latency_cycles=3, l2_latency_cycles=2,
        dram_bytes_per_cycle=24.0, l2_bytes_per_cycle=32, shared_bytes_per_cycle=32,
        dram_access_bytes=4, l2_access_bytes=4, shared_access_bytes=4,
        **rates | changes,
    )  # fmt: skip
    # One tile of rows, three of columns: so the order of the waves is that of the columns.
    stored = as_format(text, encoding=encoding)
    long = Case(GemmShape(3 * tile[1], tile[0], 1024), stored, dtype="int8")
    block = int(mapping(point(core, long), tile).tile_k)
    case = replace(long, shape=replace(long.shape, K=3 * block))
    shape, K = case.shape, case.shape.K
    kept = random_mask(shape.N, K, pattern, place)
    weights = np.where(kept, rng.integers(-128, 128, kept.shape), 0)
    x = rng.integers(-128, 128, (shape.M, K))
    assert mapping(point(core, case), tile).tile_k == block
    trace = simulate(case, core, mask=kept, tile=tile, trace=True).trace
    window = pattern.m * (array[2] // pattern.n)
    assert block % window == 0
    of_b = -(-block * array[1] * BITS // (8 * core.operand_b_bytes_per_cycle))
    core_shape = CoreShape(
        pattern=pattern, encoding=encoding, variant=variant,
        array_rows=array[0], array_cols=array[1], array_depth=array[2],
        row_strips=tile[0] // array[0], col_strips=tile[1] // array[1], windows=block // window,
        decoders=core.decoder_elements_per_cycle // pattern.m,
        decoder_stages=stages,
        window_cycles=max(1, of_b * window // block),
        sum_cycles=2 * array[0] * array[1] * 4 // core.accumulator_bytes_per_cycle,
    )  # fmt: skip
    return Drawn(core, core_shape, weights, x, kept, tile, block, trace)


def operands(one):
    """Codes, values and operand B in the order in which the core walks, from the package's own codec and plain indexing."""
    shape, pattern, block = one.shape, one.shape.pattern, one.block
    of_row, window = shape.groups_per_row, shape.groups_per_row * one.shape.pattern.m
    codec = encodings.get(shape.encoding)
    codes, values, operand_b = [], [], []
    columns = shape.array_cols // shape.window_cycles
    for wave in range(len(one.x) // one.tile[1]):
        for start in range(0, one.kept.shape[1], block):
            for row_strip in range(shape.row_strips):
                for k in range(start, start + block, window):
                    rows = slice(row_strip * shape.array_rows, (row_strip + 1) * shape.array_rows)
                    groups = one.kept[rows, k : k + window]
                    codes += codec.encode(
                        mask.to_words(np.ascontiguousarray(groups), pattern), pattern
                    ).tolist()
                    values.append(packed(one.weights[rows, k : k + window][groups], BITS))
            for col_strip in range(shape.col_strips):
                for k in range(start, start + block, window):
                    for part in range(shape.window_cycles):
                        column = wave * one.tile[1] + col_strip * shape.array_cols + part * columns
                        operand_b.append(
                            packed(one.x[column : column + columns, k : k + window].ravel(), BITS)
                        )
    assert len(codes) == len(one.x) // one.tile[1] * (one.kept.shape[1] // block) * shape.groups
    assert of_row * pattern.m == window
    return {"codes": codes, "values": values, "operand_b": operand_b}


def run(one, product, given=None, most_cycles=2000):
    """Sums by wave, and starts and ends by stage; sums are read in the last cycle of their write."""
    core = DataCore(one.shape, product, **(given or operands(one)))
    stages, waves = (*product.stages, WRITE), len(product.write_cycles)
    starts, ends = ({stage: [] for stage in stages} for _ in range(2))
    sums = []
    strips = one.shape.row_strips * one.shape.col_strips

    async def watch(ctx):
        for cycle in range(most_cycles):
            for stage in stages:
                signals = core.control.at[stage]
                if ctx.get(signals.start):
                    starts[stage].append(cycle)
                if ctx.get(signals.end):
                    ends[stage].append(cycle)
            if ctx.get(core.control.at[WRITE].end):
                first = len(sums) % product.buffers * strips
                sums.append([ctx.get(core.sums.data[first + strip]) for strip in range(strips)])
            if len(sums) == waves:
                return
            await ctx.tick()

    simulator = Simulator(core)
    simulator.add_clock(1e-6)
    simulator.add_testbench(watch)
    simulator.run()
    return sums, starts, ends


def as_tile(one, words):
    """The sums of a wave as a matrix [tile rows, tile columns]."""
    shape = one.shape
    cells = shape.array_rows * shape.array_cols
    found = np.zeros(one.tile, np.int64)
    for strip, word in enumerate(words):
        row, column = (part * size for part, size in zip(
            divmod(strip, shape.col_strips), (shape.array_rows, shape.array_cols), strict=True))  # fmt: skip
        elems = [word >> (32 * cell) & 0xFFFFFFFF for cell in range(cells)]
        signed = np.array(elems, np.uint32).view(np.int32).reshape(shape.array_rows, shape.array_cols)
        found[row : row + shape.array_rows, column : column + shape.array_cols] = signed
    return found


def right(one, product, given=None):
    """Whether the sums are the product, and whether all times are those of the simulator."""
    sums, starts, ends = run(one, product, given)
    expected = one.weights @ one.x.T
    tiles = [as_tile(one, words) for words in sums]
    same = len(tiles) * one.tile[1] == len(one.x) and (np.concatenate(tiles, axis=1) == expected).all()
    trace = one.trace
    times = all(
        starts[stage] == trace.start_cycle[:, at, 0].tolist()
        and ends[stage] == trace.end_cycle[:, at, 0].tolist()
        for stage, at in zip(CLOCKED, KEPT, strict=True)
    )
    return bool(same), times and ends[WRITE] == trace.write_end_cycle.tolist()


@pytest.mark.parametrize("place", range(len(CASES)))
def test_sums_are_the_product_and_times_those_of_the_simulator(place):
    one = drawn(place)
    assert len(one.trace.start_cycle) > 3
    assert right(one, settings(one.trace)) == (True, True)


@pytest.mark.parametrize(
    ("name", "stage", "by"),
    [
        ("latency_cycles", "dram", -1),
        ("latency_cycles", "decode", 1),
        ("room_blocks", "shared", 1),
        ("room_blocks", "decode", -1),
        ("room_blocks", "select", -1),
        ("room_blocks", "multiply", -1),
    ],
)
def test_one_cycle_of_latency_or_one_block_of_room_changes_the_times_and_no_sum(name, stage, by):
    one = drawn(0)
    product = settings(one.trace)
    values = getattr(product, name).copy()
    values[CLOCKED.index(stage)] += by
    assert right(one, replace(product, **{name: values})) == (True, False)


def test_positions_that_are_read_before_the_decoder_has_them_spoil_the_sums():
    one = drawn(2)
    product = settings(one.trace)
    latency = product.latency_cycles.copy()
    latency[CLOCKED.index("decode")] -= 1
    assert latency[CLOCKED.index("decode")] < one.shape.decoder_stages
    assert right(one, replace(product, latency_cycles=latency)) == (False, False)


@pytest.mark.parametrize("of", ["codes", "values", "operand_b"])
def test_one_wrong_operand_changes_the_sums_and_no_time(of):
    one = drawn(2)
    given = operands(one)
    # Another code of the same pattern, or one bit of one value.
    given[of][5] = (given[of][5] + 1) % 70 if of == "codes" else given[of][5] ^ 1
    assert right(one, settings(one.trace), given) == (False, True)
