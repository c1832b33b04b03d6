"""The control of a tensor core's pipeline: which stage works on which block when, as `hwmodels.tensorcore.simulate` has it.

Every stage owns one block at a time, and hands it over whole. It begins the next block in the cycle in which three things hold:
it has nothing left to do, the block has come, and there is room behind it. A block comes some cycles after the stage before let
it go: a shift register delays it by the latency. Room is counted in credits: one is taken if a stage begins a block, and given
back if the next stage ends one. The array begins a wave only if a buffer of sums is free.

A stage whose work on every block takes no time cannot be clocked. `settings` leaves it out and adds its room to the stage
before. That changes nothing, provided that no latency lies between the two: the block passes in the cycle in which it comes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.memory import Memory
from numpy.typing import NDArray

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import catalogue
from hwmodels.rtl.netlist import Netlist, bit_slices
from hwmodels.rtl.unit import Unit
from hwmodels.tensorcore.services import IN_BLOCKS, STAGES
from hwmodels.tensorcore.trace import ABSENT, Trace
from nmsim import encodings
from nmsim.errors import SpecError, brief, brief_names
from nmsim.pattern import Pattern

Integers = NDArray[np.int64]
STAGE_BITS = 9
"""Bits of a duration: a stage works on a block for at most 511 cycles."""
LATENCY_BITS, ROOM_BITS, WAVE_BITS, BUFFER_BITS = 4, 4, 6, 3
"""Bits of the settings: latency, room, blocks of a wave, buffers of sums."""
WRITE = "write"
ARRAY = "multiply"
"""The stage that waits for a free buffer of sums."""
CLOCKED = tuple(stage for stage in STAGES[:IN_BLOCKS] if stage != "prune")
"""Stages of a product with sparse weights."""


class StageSignals(NamedTuple):
    """What a stage gives to its datapath, and what it takes.

    took : Signal
        Cycles of the block that it would begin now.
    start, end : Signal
        1 in the cycle before the first one, and in the last one, of its work on a block.
    left : Signal
        Cycles of work that are left, the present one included; 0 if it has nothing to do.
    """

    took: Signal
    start: Signal
    end: Signal
    left: Signal


class Pipeline(Unit):
    """The control of some stages of the pipeline and of the writing of sums.

    Latencies, rooms, the blocks of a wave and the buffers of sums are inputs that stay as they are for a whole product. So one
    circuit stands for any core.

    Parameters
    ----------
    stages : sequence of str
        Of `STAGES`, in their order, without `write`, which is always there. Both `multiply` and the stage before `write` are
        needed.

    Raises
    ------
    SpecError
        Other stages, or in another order.

    Examples
    --------
    >>> pipeline = Pipeline(("decode", "multiply", "accumulate"))
    >>> [signal.name for signal in pipeline.outputs][:2]
    ['start_decode', 'end_decode']
    """

    def __init__(self, stages: Sequence[str] = CLOCKED) -> None:
        self.stages = tuple(stages)
        ordered = tuple(stage for stage in STAGES[:IN_BLOCKS] if stage in self.stages)
        if self.stages != ordered or ARRAY not in self.stages:
            raise SpecError(
                f"stages {brief_names(self.stages)}: expected some of {brief_names(STAGES[:IN_BLOCKS])} in this "
                f"order, {ARRAY} among them"
            )
        # Names of signals say which stage they belong to, since people read the Verilog and a test drives it by name.
        self.at: dict[str, StageSignals] = {}
        for stage in (*self.stages, WRITE):
            self.at[stage] = StageSignals(
                Signal(STAGE_BITS, name=f"took_{stage}"),
                Signal(name=f"start_{stage}"),
                Signal(name=f"end_{stage}"),
                Signal(STAGE_BITS, name=f"left_{stage}"),
            )
        self.offered = Signal(name="offered")
        self.latency = {stage: Signal(LATENCY_BITS, name=f"latency_{stage}") for stage in self.stages[:-1]}
        self.room = {stage: Signal(ROOM_BITS, name=f"room_{stage}") for stage in self.stages[:-1]}
        self.blocks_per_wave = Signal(WAVE_BITS, name="blocks_per_wave")
        self.buffers = Signal(BUFFER_BITS, name="buffers")
        first = self.stages[0]
        super().__init__(
            UnitSpec("pipeline", 1, 1, variant="control"),
            (
                self.offered,
                *(signals.took for signals in self.at.values()),
                *self.latency.values(),
                *self.room.values(),
                self.blocks_per_wave,
                self.buffers,
            ),
            tuple(wire for signals in self.at.values() for wire in (signals.start, signals.end)),
            notes={
                "offered": f"1 if there is a block for {first} to begin",
                f"took_{first}": f"cycles of the block that {first} would begin now, at least 1; the others alike",
                f"start_{first}": f"{first} begins a block at the next edge of the clock",
                f"end_{first}": f"the last cycle of {first} on a block",
                f"left_{first}": "cycles that are left to work, this one included",
                f"latency_{first}": "cycles between its end on a block and the arrival at the next stage",
                f"room_{first}": "blocks that it may be ahead of the next stage",
                f"credits_taken_{first}": "blocks begun here that the next stage has not ended",
                "blocks_per_wave": "blocks whose products are added to the same sums",
                "buffers": "waves whose sums are held at a time",
                "waves_held": "waves begun by the array whose sums are not written",
            },
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module = Module()
        for before, stage, after in zip(
            (None, *self.stages[:-1]), self.stages, (*self.stages[1:], None), strict=True
        ):
            here = self.offered if before is None else self._arrival(module, before, stage)
            ready = [here]
            if after is not None:
                ready.append(self._room_left(module, stage, after))
            if stage == ARRAY:
                ready.append(self._buffer_free(module))
            self._work(module, stage, ready)
        self._work(module, WRITE, [self._wave_summed(module)])
        return module

    def _work(self, module: Module, stage: str, ready: Sequence[Value]) -> None:
        """Count down the cycles of a block, and begin the next if all is ready."""
        own = self.at[stage]
        module.d.comb += [
            own.end.eq(own.left == 1),
            own.start.eq((own.left <= 1) & Cat(*ready).all()),
        ]
        with module.If(own.start):
            module.d.sync += own.left.eq(own.took)
        with module.Elif(own.left != 0):
            module.d.sync += own.left.eq(own.left - 1)

    def _arrival(self, module: Module, before: str, stage: str) -> Value:
        """Whether a block waits at a stage: blocks come the latency after the stage before ended them."""
        longest = (1 << LATENCY_BITS) - 1
        on_the_way = Signal(longest, name=f"on_the_way_to_{stage}")
        arrives = Signal(name=f"arrives_at_{stage}")
        waiting = Signal(ROOM_BITS, name=f"waiting_at_{stage}")
        module.d.sync += on_the_way.eq(Cat(self.at[before].end, on_the_way))
        module.d.comb += arrives.eq(Array([self.at[before].end, *on_the_way])[self.latency[before]])
        module.d.sync += waiting.eq(waiting + arrives - self.at[stage].start)
        return (waiting != 0) | arrives

    def _room_left(self, module: Module, stage: str, after: str) -> Value:
        """Whether a stage may begin one more block before the next stage ends one."""
        taken = Signal(ROOM_BITS, name=f"credits_taken_{stage}")
        given_back = self.at[after].end
        module.d.sync += taken.eq(taken + self.at[stage].start - given_back)
        return (taken < self.room[stage]) | ((taken == self.room[stage]) & given_back)

    def _buffer_free(self, module: Module) -> Value:
        """Whether the array may begin a block. The first one of a wave needs a free buffer of sums."""
        block, held = Signal(WAVE_BITS, name="block_of_wave"), Signal(BUFFER_BITS, name="waves_held")
        start, written = self.at[ARRAY].start, self.at[WRITE].end
        first = Signal(name="first_of_wave")
        module.d.comb += first.eq(block == 0)
        with module.If(start):
            module.d.sync += block.eq(Mux(block + 1 == self.blocks_per_wave, 0, block + 1))
        module.d.sync += held.eq(held + (start & first) - written)
        return ~first | (held < self.buffers) | ((held == self.buffers) & written)

    def _wave_summed(self, module: Module) -> Value:
        """Whether the sums of a wave wait to be written."""
        ended, waiting = Signal(WAVE_BITS, name="blocks_summed"), Signal(BUFFER_BITS, name="waves_summed")
        end, complete = self.at[self.stages[-1]].end, Signal(name="wave_complete")
        module.d.comb += complete.eq(end & (ended + 1 == self.blocks_per_wave))
        with module.If(end):
            module.d.sync += ended.eq(Mux(complete, Const(0, WAVE_BITS), ended + 1))
        module.d.sync += waiting.eq(waiting + complete - self.at[WRITE].start)
        return (waiting != 0) | complete


@dataclass(frozen=True, eq=False)
class Settings:
    """The inputs of a `Pipeline` for one product on one core.

    Parameters
    ----------
    stages : tuple of str
    took_cycles : int64 array [blocks, stages]
    write_cycles : int64 array [waves]
    latency_cycles, room_blocks : int64 array [stages - 1]
        Between each stage and the next.
    blocks_per_wave, buffers : int
    """

    stages: tuple[str, ...]
    took_cycles: Integers
    write_cycles: Integers
    latency_cycles: Integers
    room_blocks: Integers
    blocks_per_wave: int
    buffers: int


def settings(trace: Trace) -> Settings:
    """Take the settings of a pipeline from a trace of one core.

    Parameters
    ----------
    trace : Trace

    Returns
    -------
    Settings
        Without the stages that take no time.

    Raises
    ------
    SpecError
        More than one core. A stage that takes time for some blocks only, or one that takes none, behind a latency. A number
        of more bits than the circuit has for it.

    Examples
    --------
    >>> from hwmodels.tensorcore.simulate import simulate
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(8, 64, 256), "8:16", dtype="int8")
    >>> from dataclasses import replace
    >>> from hwmodels.tensorcore.record import load_core
    >>> core = replace(load_core("edge-npu-8x16"), cores=1, dram_latency_cycles=9, l2_latency_cycles=5)
    >>> settings(simulate(case, core, trace=True).trace).stages
    ('dram', 'l2', 'shared', 'decode', 'select', 'multiply', 'accumulate')
    """
    if trace.start_cycle.shape[2] != 1:
        raise SpecError(f"trace of {trace.start_cycle.shape[2]} cores: expected one")
    took = trace.duration_cycles[..., 0]
    kept = []
    room, latency = trace.room_blocks.copy(), trace.latency_cycles
    for stage, name in enumerate(STAGES[:IN_BLOCKS]):
        if (took[:, stage] > 0).all():
            kept.append(stage)
            continue
        if took[:, stage].any():
            raise SpecError(f"stage {name}: no time for some blocks, expected for all or for none")
        if not kept or latency[kept[-1]] or latency[stage]:
            raise SpecError(
                f"stage {name}: takes no time and has a latency, expected work or no latency around it"
            )
        # Blocks pass it at once, so those that it may be ahead of the next stage wait before it.
        room[kept[-1]] += room[stage]
    between = kept[:-1]
    found = Settings(
        tuple(STAGES[stage] for stage in kept),
        took[:, kept],
        trace.write_cycles,
        latency[between],
        room[between],
        trace.blocks_per_wave,
        trace.accumulator_buffers,
    )
    for name, values, bits, least in (
        ("durations", np.append(found.took_cycles, found.write_cycles), STAGE_BITS, 1),
        ("latencies", found.latency_cycles, LATENCY_BITS, 0),
        ("rooms", found.room_blocks, ROOM_BITS, 1),
        ("blocks of a wave", np.array([found.blocks_per_wave]), WAVE_BITS, 1),
        ("buffers", np.array([found.buffers]), BUFFER_BITS, 1),
    ):
        if values.min() < least or values.max() >> bits:
            raise SpecError(
                f"{name} of {values.min()} to {values.max()}: expected {least} to {(1 << bits) - 1}"
            )
    return found


@dataclass(frozen=True, eq=False)
class Run:
    """When the stages of a pipeline began and ended. `ABSENT` if they never did.

    Parameters
    ----------
    start_cycle, end_cycle : int64 array [blocks, stages]
        As in a `Trace`: the cycle in which a stage begins a block, and the first one after its end.
    write_start_cycle, write_end_cycle : int64 array [waves]
    """

    start_cycle: Integers
    end_cycle: Integers
    write_start_cycle: Integers
    write_end_cycle: Integers

    @property
    def cycles(self) -> int:
        """Cycles of the whole product; `ABSENT` if it never ended."""
        return int(self.write_end_cycle[-1])


def run(netlist: Netlist, products: Sequence[Settings], *, most_cycles: int) -> list[Run]:
    """Run the netlist of a `Pipeline` on many products at once, each in a bit of its own.

    Parameters
    ----------
    netlist : Netlist
        Of a pipeline with the stages of all products.
    products : sequence of Settings
    most_cycles : int
        Where to stop if some product has not ended.

    Returns
    -------
    list of Run
        For each product.

    Raises
    ------
    SpecError
        No products, or they differ in their stages.
    """
    kinds = {product.stages for product in products}
    if len(kinds) != 1:
        raise SpecError(
            f"products of {len(kinds)} lists of stages ({brief(sorted(kinds))}): expected one list"
        )
    stages = (*kinds.pop(), WRITE)
    count = len(products)
    # One column for each stage. Products have different numbers of blocks: behind the last, anything may stand.
    blocks = max(len(product.took_cycles) for product in products) + 1
    took = np.ones((len(stages), count, blocks), np.int64)
    ends_at = np.zeros((len(stages), count), np.int64)
    for at, product in enumerate(products):
        took[:-1, at, : len(product.took_cycles)] = product.took_cycles.T
        took[-1, at, : len(product.write_cycles)] = product.write_cycles
        ends_at[:-1, at], ends_at[-1, at] = len(product.took_cycles), len(product.write_cycles)
    values = {"blocks_per_wave": bit_slices([product.blocks_per_wave for product in products], WAVE_BITS)}
    values["buffers"] = bit_slices([product.buffers for product in products], BUFFER_BITS)
    for place, stage in enumerate(stages[:-2]):
        for name, bits, of in (
            ("latency", LATENCY_BITS, "latency_cycles"),
            ("room", ROOM_BITS, "room_blocks"),
        ):
            values[f"{name}_{stage}"] = bit_slices([getattr(one, of)[place] for one in products], bits)
    state = netlist.empty_state(-(-count // 64))
    begun, ended = counted = np.zeros((2, len(stages), count), np.int64)
    times = np.full((2, len(stages), count, blocks), ABSENT, np.int64)
    rows, columns = np.ogrid[: len(stages), :count]
    for cycle in range(most_cycles):
        values["offered"] = bit_slices((begun[0] < ends_at[0]).astype(np.int64), 1)
        following = took[rows, columns, np.minimum(begun, blocks - 1)]
        for place, stage in enumerate(stages):
            values[f"took_{stage}"] = bit_slices(following[place], STAGE_BITS)
        seen = netlist.evaluate(values, state=state)
        words = np.stack([seen[f"{word}_{stage}"][0] for word in ("start", "end") for stage in stages])
        set_bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :count]
        at_once = np.nonzero(set_bits.reshape(2, len(stages), count))
        times[*at_once, np.minimum(counted[at_once], blocks - 1)] = cycle
        counted[at_once] += 1
        if (ended[-1] >= ends_at[-1]).all():
            break
    return [
        Run(
            times[0, :-1, at, : ends_at[0, at]].T,
            times[1, :-1, at, : ends_at[0, at]].T,
            times[0, -1, at, : ends_at[-1, at]],
            times[1, -1, at, : ends_at[-1, at]],
        )
        for at in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class CoreShape:
    """The size of a `DataCore`, and of the blocks that it works on. All blocks are equal.

    Parameters
    ----------
    pattern : Pattern
        Of operand A; `array_depth` is a multiple of its N.
    encoding, variant : str
        Of the position decoders.
    array_rows, array_cols, array_depth : int
        A step of the array multiplies `array_depth` kept values of each row with what they meet in each column.
    row_strips, col_strips : int
        Times that the array is laid over a tile.
    windows : int
        Steps in which one strip walks through a block.
    value_bits, sum_bits : int
        Signed values, and their sums.
    decoders : int
        Groups that are decoded per cycle; divides the groups of a block.
    decoder_stages : int
        Ranks of registers in each decoder; at most the latency of the stage.
    window_cycles : int
        Cycles in which operand B gives one window; divides `array_cols`.
    sum_cycles : int
        Cycles in which one step is added to the sums; divides `array_rows` times `array_cols`.
    """

    pattern: Pattern
    encoding: str
    variant: str
    array_rows: int
    array_cols: int
    array_depth: int
    row_strips: int
    col_strips: int
    windows: int
    value_bits: int = 8
    sum_bits: int = 32
    decoders: int = 1
    decoder_stages: int = 0
    window_cycles: int = 1
    sum_cycles: int = 1

    @property
    def groups_per_row(self) -> int:
        """Groups of one row that a step takes."""
        return self.array_depth // self.pattern.n

    @property
    def groups(self) -> int:
        """Groups of operand A in a block."""
        return self.row_strips * self.array_rows * self.windows * self.groups_per_row

    @property
    def steps(self) -> int:
        """Steps of the array on a block."""
        return self.row_strips * self.col_strips * self.windows

    @property
    def took_cycles(self) -> dict[str, int]:
        """Cycles that a block takes: one for each word that the stage writes."""
        return {
            "decode": -(-self.groups // self.decoders),
            "select": self.steps * self.window_cycles,
            "multiply": self.steps,
            "accumulate": self.steps * self.sum_cycles,
        }


class DataCore(Elaboratable):
    """A core that decodes, selects, multiplies and accumulates real blocks, under the control of a `Pipeline`.

    Each stage reads a block that is whole and writes one into a buffer, one word per cycle of its work. Between two stages
    there are as many buffers as the room between them. Blocks come from memories that hold the whole product. They stand for
    what the stages before have brought. Sums stay in the accumulators until the write of their wave has ended.

    Parameters
    ----------
    shape : CoreShape
    product : Settings
        Latencies, rooms, and the durations of the stages up to `shared` and of the write. Those of the four stages follow from
        the shape.
    codes : sequence of int [blocks * groups]
        Of operand A, in the order in which strips walk: row strip, window, row, group.
    values : sequence of int [blocks * row strips * windows]
        Kept values of a step, packed: row, lane; the first lowest.
    operand_b : sequence of int [blocks * column strips * windows * window cycles]
        What operand B gives in a cycle, packed: column, group, element; the first lowest.

    Attributes
    ----------
    control : Pipeline
    sums : Memory
        Rows of `array_rows` * `array_cols` sums by buffer and strip, packed: row, column; the first lowest.
    """

    _MustUse__silence = True  # As of a `Unit`.

    def __init__(
        self,
        shape: CoreShape,
        product: Settings,
        *,
        codes: Sequence[int],
        values: Sequence[int],
        operand_b: Sequence[int],
    ) -> None:
        self.shape, self.product = shape, product
        self.control = Pipeline(product.stages)
        self.codes, self.values, self.operand_b = codes, values, operand_b
        cells = shape.array_rows * shape.array_cols
        strips = shape.row_strips * shape.col_strips
        self.sums = Memory(shape=unsigned(cells * shape.sum_bits), depth=product.buffers * strips, init=[])

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module = Module()
        module.submodules.control = self.control
        self._set(module)
        steps = {stage: self._step(module, stage) for stage in self.shape.took_cycles}
        self._decode(module, steps["decode"])
        self._select(module, steps["select"])
        self._multiply(module, steps["multiply"])
        self._accumulate(module, steps["accumulate"])
        return module

    def _set(self, module: Module) -> None:
        """Give the control its settings."""
        control, product = self.control, self.product
        blocks = len(product.took_cycles)
        begun = Signal(range(blocks + 1), name="blocks_begun")
        module.d.sync += begun.eq(begun + control.at[product.stages[0]].start)
        module.d.comb += [
            control.offered.eq(begun < blocks),
            control.blocks_per_wave.eq(product.blocks_per_wave),
            control.buffers.eq(product.buffers),
        ]
        for at, stage in enumerate(product.stages[:-1]):
            module.d.comb += [
                control.latency[stage].eq(int(product.latency_cycles[at])),
                control.room[stage].eq(int(product.room_blocks[at])),
            ]
        own = self.shape.took_cycles
        for at, stage in enumerate((*product.stages, WRITE)):
            took = product.write_cycles if stage == WRITE else product.took_cycles[:, at]
            if stage in own:
                module.d.comb += control.at[stage].took.eq(own[stage])
                continue
            following = Signal(range(len(took) + 1), name=f"next_at_{stage}")
            module.d.sync += following.eq(following + control.at[stage].start)
            module.d.comb += control.at[stage].took.eq(Array(took.tolist())[following])

    def _step(self, module: Module, stage: str) -> "_Step":
        """Count the blocks of a stage, and its cycles on a block."""
        own, blocks = self.control.at[stage], len(self.product.took_cycles)
        step = Signal(range(self.shape.took_cycles[stage] + 1), name=f"step_of_{stage}")
        following, block = (
            Signal(range(blocks + 1), name=f"{word}_at_{stage}") for word in ("next", "block")
        )
        with module.If(own.start):
            module.d.sync += [step.eq(0), block.eq(following), following.eq(following + 1)]
        with module.Else():
            module.d.sync += step.eq(step + 1)
        return _Step(own.left != 0, step, block)

    def _buffer(self, module: Module, stage: str, width_bits: int, words: int) -> "_Buffer":
        """Make the memory between a stage and the next: as many blocks of words as there is room for."""
        room = int(self.product.room_blocks[self.product.stages.index(stage)])
        memory = Memory(shape=unsigned(width_bits), depth=room * words, init=[])
        module.submodules[f"after_{stage}"] = memory
        return _Buffer(module, memory, room, words)

    def _given(self, module: Module, name: str, width_bits: int, words: Sequence[int]) -> "_Buffer":
        """Make the memory of an operand of the whole product."""
        memory = Memory(shape=unsigned(width_bits), depth=len(words), init=words)
        module.submodules[name] = memory
        blocks = len(self.product.took_cycles)
        return _Buffer(module, memory, blocks, len(words) // blocks)

    def _decode(self, module: Module, step: "_Step") -> None:
        """Turn codes into positions, some groups per cycle."""
        shape, at_once = self.shape, self.shape.decoders
        code_bits = encodings.get(shape.encoding).code_bits(shape.pattern)
        slot_bits = shape.pattern.n * (shape.pattern.m - 1).bit_length()
        packed = [
            sum(int(code) << (code_bits * at) for at, code in enumerate(self.codes[start : start + at_once]))
            for start in range(0, len(self.codes), at_once)
        ]
        words = self._given(module, "codes", code_bits * at_once, packed).read(step.block, step.cycle)
        self.positions = self._buffer(module, "decode", slot_bits, shape.groups)
        for place in range(at_once):
            decoder = catalogue.build(
                UnitSpec(
                    "position_decoder",
                    shape.pattern.n,
                    shape.pattern.m,
                    shape.encoding,
                    shape.variant,
                    stages=shape.decoder_stages,
                )
            )
            module.submodules[f"decoder_{place}"] = decoder
            module.d.comb += decoder.inputs[0].eq(words.word_select(place, code_bits))
            found = Cat(port for port in decoder.outputs if port.name.startswith("position"))
            # The address waits as many cycles as the positions do.
            address = self.positions.address(step.block, step.cycle * at_once + place)
            enable, where = step.busy, address
            for rank in range(shape.decoder_stages):
                held = (
                    Signal(name=f"enable_{place}_{rank}"),
                    Signal.like(address, name=f"where_{place}_{rank}"),
                )
                module.d.sync += [held[0].eq(enable), held[1].eq(where)]
                enable, where = held
            self.positions.write(where, found, enable=enable)

    def _select(self, module: Module, step: "_Step") -> None:
        """Give each lane the element of operand B that its kept value meets."""
        shape, bits = self.shape, self.shape.value_bits
        of_row, group_bits = shape.groups_per_row, shape.pattern.m * bits
        # If operand B takes some cycles per window, each of them feeds a part of the columns, so that no port is wider.
        columns = shape.array_cols // shape.window_cycles
        window = step.cycle // shape.window_cycles
        part = step.cycle % shape.window_cycles
        strip = window // shape.windows
        row_strip, col_strip = strip // shape.col_strips, strip % shape.col_strips
        first_group = (row_strip * shape.windows + window % shape.windows) * shape.array_rows * of_row
        offered = self._given(module, "operand_b", columns * of_row * group_bits, self.operand_b).read(
            step.block, (col_strip * shape.windows + window % shape.windows) * shape.window_cycles + part
        )
        width = shape.array_rows * columns * shape.array_depth * bits
        self.selected = self._buffer(module, "select", width, shape.steps * shape.window_cycles)
        spec = UnitSpec("select", shape.pattern.n, shape.pattern.m, variant="mux", width_bits=bits)
        found = []
        for column, row, group in itertools.product(range(columns), range(shape.array_rows), range(of_row)):
            network = catalogue.build(spec)
            module.submodules[f"select_{row}_{column}_{group}"] = network
            x, positions = network.inputs
            module.d.comb += [
                x.eq(offered.word_select(column * of_row + group, group_bits)),
                positions.eq(self.positions.read(step.block, first_group + row * of_row + group)),
            ]
            found.append(network.outputs[0])
        where = self.selected.address(step.block, step.cycle)
        self.selected.write(where, Cat(*found), enable=step.busy)

    def _multiply(self, module: Module, step: "_Step") -> None:
        """Multiply what each row keeps with what it meets in each column, and add up the lanes."""
        shape, bits, lanes = self.shape, self.shape.value_bits, self.shape.array_depth
        row_strip = step.cycle // (shape.windows * shape.col_strips)
        own = row_strip * shape.windows + step.cycle % shape.windows
        kept = self._given(module, "values", shape.array_rows * lanes * bits, self.values).read(
            step.block, own
        )
        met = Cat(
            self.selected.read(step.block, step.cycle * shape.window_cycles + part)
            for part in range(shape.window_cycles)
        )
        found = []
        for row, column in itertools.product(range(shape.array_rows), range(shape.array_cols)):
            pairs = (
                (
                    kept.word_select(row * lanes + lane, bits).as_signed(),
                    met.word_select((column * shape.array_rows + row) * lanes + lane, bits).as_signed(),
                )
                for lane in range(lanes)
            )
            total = Signal(signed(shape.sum_bits), name=f"sum_of_row_{row}_column_{column}")
            module.d.comb += total.eq(sum(one * other for one, other in pairs))
            found.append(total)
        self.products = self._buffer(module, "multiply", len(found) * shape.sum_bits, shape.steps)
        where = self.products.address(step.block, step.cycle)
        self.products.write(where, Cat(*found), enable=step.busy)

    def _accumulate(self, module: Module, step: "_Step") -> None:
        """Add each step's products to the sums of its strip, some sums per cycle."""
        shape, product = self.shape, self.product
        cells = shape.array_rows * shape.array_cols // shape.sum_cycles
        word, part = step.cycle // shape.sum_cycles, step.cycle % shape.sum_cycles
        wave, in_wave = step.block // product.blocks_per_wave, step.block % product.blocks_per_wave
        strips = shape.row_strips * shape.col_strips
        module.submodules.sums = self.sums
        held, write = (
            self.sums.read_port(domain="comb"),
            self.sums.write_port(granularity=cells * shape.sum_bits),
        )
        at = (wave % product.buffers) * strips + word // shape.windows
        first = (in_wave == 0) & (word % shape.windows == 0)
        module.d.comb += [held.addr.eq(at), write.addr.eq(at), write.en.eq(step.busy << part)]
        added = self.products.read(step.block, word)
        for cell in range(cells * shape.sum_cycles):
            old, new = (data.word_select(cell, shape.sum_bits) for data in (held.data, added))
            # The first products of a wave replace what its buffer held.
            module.d.comb += write.data.word_select(cell, shape.sum_bits).eq(Mux(first, 0, old) + new)


class _Step(NamedTuple):
    """The block of a stage, the cycle within that block, and whether the stage works at all."""

    busy: Value
    cycle: Signal
    block: Signal


class _Buffer(NamedTuple):
    """A memory of some blocks of words; block b lies at place b modulo their number."""

    module: Module
    memory: Memory
    blocks: int
    words: int

    def address(self, block: Value, word: Value) -> Signal:
        """Where a word of a block lies."""
        found = Signal(range(max(2, self.blocks * self.words)))
        self.module.d.comb += found.eq(block % self.blocks * self.words + word)
        return found

    def read(self, block: Value, word: Value) -> Signal:
        """Read a word of a block in the same cycle."""
        port = self.memory.read_port(domain="comb")
        self.module.d.comb += port.addr.eq(self.address(block, word))
        return port.data

    def write(self, address: Value, data: Value, *, enable: Value) -> None:
        """Write a word at the next edge of the clock."""
        port = self.memory.write_port()
        self.module.d.comb += [port.addr.eq(address), port.data.eq(data), port.en.eq(enable)]
