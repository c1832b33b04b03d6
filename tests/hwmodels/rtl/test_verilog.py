"""Verilog of units: equal to the bit model in Icarus, clean in Verilator, readable; and the writer against Amaranth itself."""

import functools
import random
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Shape, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hwmodels.gates.record import WIDE_UNITS, UnitSpec
from hwmodels.rtl import catalogue
from hwmodels.rtl.unit import Unit
from hwmodels.rtl.verilog import rtlil, write
from hwmodels.rtl.verilog.files import files
from hwmodels.rtl.verilog.vectors import vectors
from nmsim.errors import SpecError

needs_icarus = pytest.mark.skipif(not shutil.which("iverilog"), reason="iverilog is not installed")
needs_verilator = pytest.mark.skipif(not shutil.which("verilator"), reason="verilator is not installed")
KEY_BITS = 4


def spec_of(text: str) -> UnitSpec:
    """`unit N:M/encoding variant [stages]`."""
    unit, pattern, variant, *stages = text.split()
    pattern, _, encoding = pattern.partition("/")
    n, m = map(int, pattern.split(":"))
    wide = KEY_BITS if unit in WIDE_UNITS else 0
    return UnitSpec(unit, n, m, encoding, variant, wide, int(*stages or "0"))


UNITS = [
    "decoder 4:8/bitmask plain",
    "decoder 4:8/index plain",
    "decoder 4:8/index plain 1",
    "decoder 4:8/gap plain",
    "decoder 2:4/index nibbles",
    "decoder 2:4/joint:3 serial 2",
    "decoder 3:8/combinatorial serial",
    "decoder 4:8/combinatorial digits",
    "decoder 4:8/combinatorial shallow",
    "decoder 8:16/combinatorial serial",
    "decoder 8:16/combinatorial serial 2",
    "decoder 16:32/gap plain",
    "decoder 4:8/tiled plain",
    "decoder 4:8/tiled plain 2",
    "position_decoder 4:8/bitmask plain",
    "position_decoder 2:4/index nibbles",
    "position_decoder 4:8/gap plain",
    "position_decoder 4:8/combinatorial serial",
    "position_decoder 4:8/combinatorial columns 1",
    "encoder 4:8/bitmask plain",
    "encoder 4:8/index plain",
    "encoder 4:8/gap plain",
    "encoder 2:4/index nibbles",
    "encoder 4:8/combinatorial serial",
    "encoder 4:8/tiled plain",
    "encoder 8:16/combinatorial pairs",
    "encoder 4:8/combinatorial slots 2",
    "encoder 2:4/joint:3 pairs",
    "select 4:8 mux",
    "select 4:8 ordered_mux",
    "select 4:8 onehot",
    "select 4:8 crossbar",
    "select 4:8 butterfly",
    "selector 4:8 all_pairs",
    "selector 4:8 half",
    "selector 2:4 planes",
    "lane 2:4/bitmask plain",
    "lane 4:8/index plain 1",
    "lane 4:8/combinatorial digits 2",
]
"""Every kind, encoding and structure."""


@functools.cache
def written(text: str) -> dict[str, str]:
    return files(catalogue.build(spec_of(text)), "unit")


def simulated(folder: Path, texts: dict[str, str]) -> str:
    """What the test bench prints."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    sources = [name for name in texts if name.endswith(".v")]
    subprocess.run(["iverilog", "-g2005", "-o", "unit.vvp", *sources], cwd=folder, check=True)
    done = subprocess.run(["vvp", "-n", "unit.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@needs_icarus
@pytest.mark.parametrize("text", UNITS)
def test_icarus_finds_what_the_bit_model_gives(tmp_path, text):
    count = sum(1 for _ in vectors(spec_of(text)))
    assert count >= 6
    assert simulated(tmp_path, written(text)) == f"PASS {count} vectors"


@needs_verilator
def test_verilator_finds_nothing_to_warn_of(tmp_path):
    for number, text in enumerate(UNITS):
        name = f"unit{number}"
        (tmp_path / f"{name}.v").write_text(
            files(catalogue.build(spec_of(text)), name, with_bench=False)[f"{name}.v"]
        )
        linted = subprocess.run(
            ["verilator", "--lint-only", "-Wall", f"{name}.v"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (linted.returncode, linted.stderr) == (0, ""), text


FAULTS: list[tuple[str, str, str]] = [
    ("decoder 4:8/index plain", "place_3 == 3'd7", "place_3 == 3'd6"),
    ("decoder 4:8/index plain", "place_0 < place_1", "place_0 <= place_1"),
    ("decoder 8:16/combinatorial serial", "code < 14'd12870", "code < 14'd12871"),
    ("decoder 8:16/combinatorial serial 2", "<= left_10;", "<= left_12;"),
    ("encoder 4:8/combinatorial serial", "6'd35", "6'd34"),
    ("select 4:8 ordered_mux", "positions[11] ?", "positions[10] ?"),
    ("selector 4:8 all_pairs", " >= ", " > "),
    ("selector 2:4 planes", " & ", " | "),
    ("lane 4:8/index plain 1", "in_ready && ", ""),
    ("lane 4:8/combinatorial digits 2", "bad | illegal", "bad & illegal"),
]


@needs_icarus
@pytest.mark.parametrize(("text", "right", "wrong"), FAULTS)
def test_a_fault_in_the_verilog_is_found(tmp_path, text, right, wrong):
    texts = written(text)
    assert right in texts["unit.v"], texts["unit.v"]
    faulty = texts | {"unit.v": texts["unit.v"].replace(right, wrong, 1)}
    assert re.search(r"\nFAIL [1-9]\d* of \d+ vectors$", simulated(tmp_path, faulty))


@needs_icarus
def test_a_bench_without_its_vectors_fails(tmp_path):
    texts = {name: text for name, text in written(UNITS[0]).items() if name != "unit_tb.hex"}
    assert simulated(tmp_path, texts).splitlines()[-1].startswith("FAIL 256 of 256")


@pytest.mark.parametrize("text", UNITS)
def test_names_are_those_of_people(text):
    text = written(text)["unit.v"]
    assert set(re.findall(r"\$\w*", text)) <= {"$signed"}
    assert max(map(len, text.splitlines())) <= 128
    assert not re.search(r"\b(signal|s\d+|_\d+)\b", text)


def test_the_header_says_what_the_unit_is():
    text = written("decoder 8:16/combinatorial serial 2")["unit.v"].partition("module")[0]
    for fact in (
        "8:16", "combinatorial, 14 bits per group", "format version 1", "2 cycles", "valid = 0", "serial",
    ):  # fmt: skip
        assert fact in text
    assert "0 cycles: combinational" in written("select 4:8 mux")["unit.v"]


def test_notes_stand_at_their_signals():
    text = written("decoder 4:8/index plain")["unit.v"]
    assert re.search(r"// place_j: .*\n(  //.*\n)?  wire \[2:0\] place_0 = ", text)
    assert "// bit p is 1 if element p is kept\n  output wire [7:0]  mask" in text


@pytest.mark.parametrize("name", ["8to16", "case", "a-b", "", "é"])
def test_a_module_has_a_name_of_verilog(name):
    with pytest.raises(SpecError, match="expected letters, digits and _"):
        files(catalogue.build(spec_of(UNITS[0])), name)


class Made(Unit):
    """A module of a test."""

    def __init__(
        self, inputs: list[Signal], outputs: list[Signal], build: Callable[[Module], None], **more: Any
    ) -> None:
        super().__init__(UnitSpec("select", 2, 4, variant="mux", width_bits=1), inputs, outputs, **more)
        self.build = build

    def elaborate(self, platform: object) -> Module:
        module = Module()
        self.build(module)
        return module


def text_of(outputs: list[Signal], build: Callable[[Module], None], inputs: list[Signal]) -> str:
    return write.module(Made(inputs, outputs, build), "made")


def test_nameless_wires_become_expressions():
    a, b, y = Signal(4, name="a"), Signal(4, name="b"), Signal(6, name="y")

    def build(module: Module) -> None:
        module.d.comb += y.eq(Mux(a[0], a + b + 1, a & ~b))

    text = text_of([y], build, [a, b])
    assert "assign y = a[0] ? ({2'd0, a} + {2'd0, b} + 6'd1) : {2'd0, a & ~b};" in text


def test_registers_switches_and_names_of_verilog():
    case, y = Signal(2, name="case"), Signal(4, name="y")
    count = Signal(4, name="count")

    def build(module: Module) -> None:
        module.d.comb += y.eq(~count)
        with module.Switch(case):
            with module.Case(1, 2):
                module.d.sync += count.eq(count + 1)
            with module.Case(3):
                module.d.sync += count.eq(9)

    text = text_of([y], build, [case])
    assert "input  wire [1:0] case_," in text
    assert (
        "  always @(posedge clk)\n"
        "    if (rst) count <= 4'd0;\n"
        "    else case (case_)\n"
        "      2'd1, 2'd2: count <= count + 4'd1;\n"
        "      2'd3: count <= 4'd9;\n"
        "      default: ;\n"
        "    endcase\n"
    ) in text


def test_a_vector_whose_bits_need_each_other_is_taken_apart():
    a, y = Signal(3, name="a"), Signal(3, name="y")

    def build(module: Module) -> None:
        module.d.comb += [y[2].eq(a[2] & a[0]), y[1].eq(y[2] ^ a[1]), y[0].eq(y[1] | a[0])]

    text = text_of([y], build, [a])
    assert "wire y_2 = a[2] & a[0];" in text
    assert "assign y = {y_2, y_1, y_1 | a[0]};" in text


def test_what_is_not_known_is_refused():
    address, y = Signal(2, name="address"), Signal(4, name="y")

    def remember(module: Module) -> None:
        module.submodules.memory = memory = Memory(shape=4, depth=4, init=[])
        port = memory.read_port(domain="comb")
        module.d.comb += [port.addr.eq(address), y.eq(port.data)]

    def divide(module: Module) -> None:
        module.d.comb += y.eq(address.as_signed() // Const(-2, 3))

    for build in (remember, divide):
        with pytest.raises(SpecError, match="not known here|cannot be written"):
            text_of([y], build, [address])
    with pytest.raises(SpecError, match="expected digits 0 and 1"):
        rtlil.parse("module \\top\n  wire width 2 \\a\nconnect \\a 2'x0\nend\n")


class Drawn(Elaboratable):
    """A module of operators, conditions and registers, drawn at random."""

    notes: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, seed: int, clocked: bool) -> None:
        self.rng = random.Random(seed)
        self.domains = ["comb", "sync"] if clocked else ["comb"]
        self.inputs = [self.signal(f"in{i}", 7) for i in range(3)]
        self.outputs = [self.signal(f"out{i}", 9) for i in range(3)]
        self.ports = [*self.inputs, *self.outputs]

    def signal(self, name: str, most: int) -> Signal:
        return Signal(Shape(self.rng.randint(1, most), self.rng.random() < 0.3), name=name)

    def expression(self, depth: int) -> Value:
        rng = self.rng
        if not depth or rng.random() < 0.15:
            return rng.choice(self.pool) if rng.random() < 0.85 else Const(rng.randrange(16), 4)

        def one() -> Value:
            return self.expression(depth - 1)

        def part() -> Value:
            value = one()
            low = rng.randrange(len(value))
            return value[low : rng.randint(low + 1, len(value))]

        return rng.choice(
            [
                lambda: one() + one(), lambda: one() - one(), lambda: one()[:6] * one()[:5], lambda: one() & one(),
                lambda: one() | one(), lambda: one() ^ one(), lambda: ~one(), lambda: one() == one(),
                lambda: one() < one(), lambda: one() >= one(), lambda: Mux(one().any(), one(), one()),
                lambda: Cat(one(), one()), lambda: one().all(), lambda: one().xor(), part, lambda: -one(),
                lambda: one()[:9] << one()[:2], lambda: one() >> one()[:3], lambda: one()[:1].replicate(3),
                lambda: one().as_signed(),
            ]
        )()  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        module, rng = Module(), self.rng
        self.pool: list[Value] = list(self.inputs)
        for number in range(rng.randint(3, 7)):
            target = self.signal(f"s{number}", 9)
            domain = module.d[rng.choice(self.domains)]
            kind = rng.choice(["whole", "whole", "if", "nested", "switch", "bits"])
            if kind == "whole":
                domain += target.eq(self.expression(3))
            elif kind == "if":
                with module.If(self.expression(2).any()):
                    domain += target.eq(self.expression(2))
                with module.Elif(self.expression(1).any()):
                    domain += target.eq(self.expression(1))
            elif kind == "nested":
                with module.If(self.expression(2).any()):
                    with module.If(self.expression(1).any()):
                        domain += target.eq(self.expression(2))
                    if rng.random() < 0.5:
                        domain += target[0].eq(1)
                if rng.random() < 0.7:
                    with module.Else():
                        domain += target.eq(self.expression(1))
            elif kind == "switch":
                key = self.expression(2)[:4]
                with module.Switch(key):
                    for value in rng.sample(range(1 << len(key)), min(3, 1 << len(key))):
                        with module.Case(value):
                            domain += target.eq(self.expression(1))
            else:
                domain += [bit.eq(self.expression(1)) for bit in target]
            self.pool.append(target)
        for output in self.outputs:
            module.d[rng.choice(self.domains)] += output.eq(self.expression(3)[:40])
        return module


def answers_of_amaranth(made: Drawn, steps: list[list[int]]) -> list[list[int]]:
    clocked = len(made.domains) > 1
    simulator = Simulator(made)
    if clocked:
        simulator.add_clock(1e-6)
    found = []

    async def bench(context: Any) -> None:
        for step in steps:
            for signal, value in zip(made.inputs, step, strict=True):
                negative = signal.shape().signed and value >> (len(signal) - 1)
                context.set(signal, value - (1 << len(signal)) if negative else value)
            await (context.tick() if clocked else context.delay(1e-6))
            found.append([context.get(output) & ((1 << len(output)) - 1) for output in made.outputs])

    simulator.add_testbench(bench)
    simulator.run()
    return found


def bench_of(
    modules: list[tuple[str, Drawn, list[list[int]], list[list[int]]]], texts: dict[str, str]
) -> str:
    """A bench of many modules: one simulation is quicker than many."""
    lines = ["module tb;", "reg clk, rst;", "integer errors;"]
    for name, made, _, _ in modules:
        wires = [port for port in ("clk", "rst") if re.search(rf"input +wire +{port}\b", texts[name])]
        lines += [f"reg [{len(port) - 1}:0] {name}_{port.name};" for port in made.inputs]
        lines += [f"wire [{len(port) - 1}:0] {name}_{port.name};" for port in made.outputs]
        pins = [f".{port.name}({name}_{port.name})" for port in made.ports] + [
            f".{port}({port})" for port in wires
        ]
        lines.append(f"{name} {name}_unit ({', '.join(pins)});")
    lines.append("initial begin")
    for name, made, steps, answers in modules:
        lines += ["errors = 0; clk = 0; rst = 1;", *(f"{name}_{port.name} = 0;" for port in made.inputs)]
        lines.append("#1 clk = 1; #1 clk = 0; rst = 0;")
        for step, answer in zip(steps, answers, strict=True):
            lines += [f"{name}_{port.name} = {value};" for port, value in zip(made.inputs, step, strict=True)]
            lines.append("#1 clk = 1; #1;")
            lines += [
                f"if ({name}_{port.name} !== {value}) errors = errors + 1;"
                for port, value in zip(made.outputs, answer, strict=True)
            ]
            lines.append("clk = 0;")
        lines.append(f'if (errors) $display("{name}: %0d errors", errors);')
    return "\n".join([*lines, '$display("done"); $finish;', "end", "endmodule", ""])


def drawn_modules() -> tuple[list[tuple[str, Drawn, list[list[int]], list[list[int]]]], dict[str, str]]:
    modules, texts = [], {}
    for number in range(48):
        rng = random.Random(1000 + number)
        # Each is elaborated twice, and must draw the same.
        first, second = (Drawn(number, clocked=number % 2 == 1) for _ in range(2))
        steps = [[rng.getrandbits(len(port)) for port in first.inputs] for _ in range(16)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            text = write.module(first, f"drawn{number}")  # type: ignore[arg-type]
            try:
                answers = answers_of_amaranth(second, steps)
            except NameError:
                continue  # a module without a register has no clock
        modules.append((f"drawn{number}", second, steps, answers))
        texts[f"drawn{number}"] = text
    return modules, texts


@needs_icarus
def test_the_writer_keeps_what_amaranth_means(tmp_path):
    modules, texts = drawn_modules()
    assert len(modules) > 40
    sources = {f"{name}.v": text for name, text in texts.items()} | {"tb.v": bench_of(modules, texts)}
    assert simulated(tmp_path, sources) == "done"
    assert {"case", "always", "<=", "$signed", " ? ", " == "} <= {
        mark
        for mark in ("case", "always", "<=", "$signed", " ? ", " == ")
        if any(mark in text for text in texts.values())
    }
    # The bench finds a fault.
    name, _, _, answers = modules[0]
    answers[3][0] ^= 1
    assert simulated(tmp_path, sources | {"tb.v": bench_of(modules, texts)}) == f"{name}: 1 errors\ndone"
