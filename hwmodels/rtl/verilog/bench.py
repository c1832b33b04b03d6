"""Self-checking test benches in Verilog-2001, and the vectors that they read."""

from dataclasses import dataclass

from amaranth.hdl import Signal

from hwmodels.rtl.unit import Unit
from hwmodels.rtl.verilog.vectors import vectors
from nmsim.units import ceil_div

HANDSHAKE = ("in_valid", "in_ready", "out_valid", "out_ready")
"""Ports that a bench drives itself."""


@dataclass(frozen=True)
class Bench:
    """A test bench, and its vectors: one hexadecimal number per line, for `$readmemh`."""

    verilog: str
    vectors: str


def bench(unit: Unit, name: str) -> Bench:
    """Write a test bench of a unit.

    A vector holds inputs, expected outputs, and which bits of the outputs are compared. The bench counts vectors whose answer
    differs, prints `PASS` or `FAIL`, and ends.

    Parameters
    ----------
    unit : Unit
    name : str
        Of the unit's module. The bench is `<name>_tb`, and it reads `<name>_tb.hex`.

    Raises
    ------
    SpecError
        A kind of unit that has no vectors.
    """
    lines = []
    inputs, outputs = (
        [signal for signal in side if signal.name not in HANDSHAKE] for side in (unit.inputs, unit.outputs)
    )
    for given, expected in vectors(unit.spec):
        value = 0
        for signal in inputs:
            value = value << len(signal) | given[signal.name]
        compared = 0
        for signal in outputs:
            value = value << len(signal) | expected.get(signal.name, 0)
            known = (1 << len(signal)) - 1 if signal.name in expected else 0
            compared = compared << len(signal) | known
        lines.append(value << sum(map(len, outputs)) | compared)
    digits = ceil_div(sum(map(len, inputs)) + 2 * sum(map(len, outputs)), 4)
    write = _of_rows if unit.spec.unit == "lane" else _of_answers
    verilog = write(unit, name, _Plan(inputs, outputs, len(lines)))
    return Bench(verilog, "".join(f"{line:0{digits}x}\n" for line in lines))


@dataclass(frozen=True)
class _Plan:
    """What a vector holds, and how many there are."""

    inputs: list[Signal]
    outputs: list[Signal]
    count: int

    @property
    def given(self) -> int:
        """Bits of the inputs."""
        return sum(map(len, self.inputs))

    @property
    def asked(self) -> int:
        """Bits of the outputs."""
        return sum(map(len, self.outputs))

    def names(self, side: list[Signal]) -> str:
        """Ports, highest bits of a vector first."""
        return ", ".join(signal.name for signal in side)


def _head(unit: Unit, name: str, plan: _Plan, *, remark: str) -> str:
    """The comment and the declarations that all benches have."""
    wires = [f"  wire {_range(len(signal))}{signal.name};\n" for signal in (*plan.inputs, *plan.outputs)]
    return f"""\
// Test bench of {name}: {unit.spec}.
// Compares {plan.count} vectors from {name}_tb.hex, and prints PASS or FAIL:
//   iverilog -g2005 -o {name}_tb.vvp {name}.v {name}_tb.v && vvp {name}_tb.vvp
// A vector holds, highest bits first: {plan.names(plan.inputs)}; expected {plan.names(plan.outputs)}; and which
// of their bits are compared. {remark}
module {name}_tb;
  localparam COUNT = {plan.count};
  reg {_range(plan.given + 2 * plan.asked)}vectors [0:COUNT-1];
  reg {_range(plan.given)}inputs;
  reg {_range(2 * plan.asked)}answer;
  wire {_range(plan.asked)}expected, compared;
  wire {_range(plan.asked)}outputs = {{{plan.names(plan.outputs)}}};
  wire is_wrong = ((outputs ^ expected) & compared) !== {plan.asked}'d0;
  reg clk = 1'b0;
  integer errors;
{"".join(wires)}  assign {{{plan.names(plan.inputs)}}} = inputs;
  assign {{expected, compared}} = answer;
"""


def _unit(unit: Unit, name: str, clock: str) -> str:
    """The instance of the unit."""
    pins = [f"    .{port}({port})" for port in (*clock.split(), *(signal.name for signal in unit.ports))]
    return f"\n  {name} unit (\n" + ",\n".join(pins) + "\n  );\n"


VERDICT = """\
    if (errors == 0) $display("PASS %0d vectors", COUNT);
    else $display("FAIL %0d of %0d vectors", errors, COUNT);
    $finish;
  end
endmodule
"""


def _of_answers(unit: Unit, name: str, plan: _Plan) -> str:
    """A bench of a unit that answers each input, after as many cycles as it has stages."""
    given, asked, stages = plan.given, plan.asked, unit.spec.stages
    # The first answers of a pipeline belong to no input, so the bench waits and runs on after the last input.
    remark = "What else a unit says of illegal input is not."
    return (
        _head(unit, name, plan, remark=remark)
        + f"  localparam LATENCY = {stages};\n  integer at;\n"
        + _unit(unit, name, "clk" if stages else "")
        + f"""
  initial begin
    $readmemh("{name}_tb.hex", vectors);
    errors = 0;
    for (at = 0; at < COUNT + LATENCY; at = at + 1) begin
      if (at < COUNT) inputs = vectors[at][{given + 2 * asked - 1}:{2 * asked}];
      #1;
      if (at >= LATENCY) begin
        answer = vectors[at - LATENCY][{2 * asked - 1}:0];
        #1;
        if (is_wrong) begin
          errors = errors + 1;
          if (errors <= 10) $display("vector %0d: inputs %h, outputs %h, expected %h", at - LATENCY,
            vectors[at - LATENCY][{given + 2 * asked - 1}:{2 * asked}], outputs, expected);
        end
      end
      clk = 1'b1;
      #1 clk = 1'b0;
    end
"""
        + VERDICT
    )


def _of_rows(unit: Unit, name: str, plan: _Plan) -> str:
    """A bench of a lane: groups are offered with gaps, sums are taken with delays."""
    given, asked = plan.given, plan.asked
    # Gaps and delays are what a handshake can go wrong at. The bench ends even if a unit never answers.
    remark = "Sums are compared at the last group of a row."
    return (
        _head(unit, name, plan, remark=remark)
        + """\
  reg rst = 1'b1, in_valid = 1'b0, out_ready = 1'b0, is_taken;
  wire in_ready, out_valid;
  reg [15:0] drawn = 16'hace1;
  integer offered, taken, cycles;
"""
        + _unit(unit, name, "clk rst")
        + f"""
  initial begin
    $readmemh("{name}_tb.hex", vectors);
    errors = 0;
    offered = 0;
    taken = 0;
    inputs = {given}'d0;
    #1 clk = 1'b1;
    #1 clk = 1'b0;
    rst = 1'b0;
    for (cycles = 0; taken < COUNT && cycles < 100 * COUNT; cycles = cycles + 1) begin
      // A shift register with feedback draws gaps and delays.
      drawn = {{drawn[14:0], drawn[15] ^ drawn[13] ^ drawn[12] ^ drawn[10]}};
      in_valid = offered < COUNT && (drawn[0] || drawn[3]);
      out_ready = drawn[5] || drawn[9];
      if (offered < COUNT) inputs = vectors[offered][{given + 2 * asked - 1}:{2 * asked}];
      #1;
      is_taken = in_valid && in_ready === 1'b1;
      if (out_ready && out_valid === 1'b1) begin
        while (taken < COUNT - 1 && vectors[taken][{given + 2 * asked - 1}] === 1'b0) taken = taken + 1;
        answer = vectors[taken][{2 * asked - 1}:0];
        #1;
        if (is_wrong) begin
          errors = errors + 1;
          if (errors <= 10) $display("row up to vector %0d: outputs %h, expected %h", taken, outputs, expected);
        end
        taken = taken + 1;
      end
      clk = 1'b1;
      #1 clk = 1'b0;
      if (is_taken) offered = offered + 1;
    end
    if (taken < COUNT) errors = errors + 1;
"""
        + VERDICT
    )


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""
