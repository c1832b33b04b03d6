"""The page on compiled kernels, written from the rows that `python -m kernels.sass_subjects` gave (`reference/sass.json`)."""

import json
from pathlib import Path
from typing import Any

import hwmodels

ROWS = Path(__file__).resolve().parent / "reference" / "sass.json"
MACHINES = {80: "a100-sxm", 90: "h200", 100: "b200"}
WIDE_BYTES = 16
GROUP_VALUE_BYTES = 16
METADATA_BYTES = {
    "bitmask": {},
    "index": {"4:8": 3, "8:16": 4, "16:32": 5},
    "combinatorial": {},
}
"""Of 16 elements, where they are not the two bytes of all others."""

HEAD = """# Compiled kernels

What Triton {triton} makes of the kernels for an A100 (sm_80), an H100 or H200 (sm_90) and a B200 (sm_100), compiled ahead
of time; no GPU has run them. Rows are in [sass.json](sass.json); this command makes them anew, and `make docs` this page:

```
python -m kernels.sass_subjects docs/reference/sass.json
```

Registers, stack and local bytes are what `cuobjdump -res-usage` says, loads and instructions what `nvdisasm` lists. **No
kernel here has a byte of stack or local memory on any of the three, but where its row says so.**

## The decode GEMV

**How instructions are counted.** The loop's body lies between the target of a backward branch and that branch, and has no
other backward branch inside. Of several such loops it is the one with the most unconditional 16-byte loads: the one that
all of a weight goes through but the ends of its rows. All its instructions count, those of the uniform path too. They are
divided by the groups of 16 elements that a thread takes in one turn: as many as there are 16-byte loads, for a thread reads
the 8 values of a group by one of them and nothing else so wide. What stands outside the loop, the sums over warps and the
sum of parts, is not in it.

**Issue to memory** is the time to issue the loop's instructions over the time to read its weights from memory, both at the
rates of the machine's datasheet: (instructions a group / (SMs x lanes x clock)) / (bytes a group / bandwidth). Above 1 the
instructions bound the kernel. Nothing but that is in the ratio: no latency, no limit on loads under way, no slower rate of
single kinds of instructions. It says what cannot be reached, not what is.
"""

OTHERS = """
## The other kernels

Loads from memory are those of the whole kernel, of so many bytes a thread; loops here are not divided by groups. One turn
of the GEMV of rows takes 8 elements of the padded group a thread. So `combinatorial` of 16:32, which alone of the four
patterns has no table small enough, costs {walk:.0f} instructions per 16 elements on sm_90 where `bitmask` of 16:32 costs
{bitmask:.0f}: a walk through 32 positions for each code, by every thread that needs it. Such weights are better turned into
`bitmask` before they are multiplied. `combinatorial` of 8:16 finds its positions in a table of 12870 words (51 KB), one
load at up to 32 different places for a warp, where `bitmask` reads two tables of 1 KB: few instructions, but not a byte
less, for its 14 bits are stored in 16.
"""


def page() -> str:
    """The whole page as Markdown."""
    found = json.loads(ROWS.read_text(encoding="utf-8"))
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["name"], {})[row["architecture"]] = row
    gemv = {name: codes for name, codes in rows.items() if codes[90]["loop_groups"]}
    others = {name: codes for name, codes in rows.items() if name not in gemv}
    lines = [
        HEAD.format(triton=found["triton"]),
        "| gemv | warps | registers, sm_80 / 90 / 100 | instructions a group, sm_80 / 90 / 100 | loads of the loop, sm_90 |"
        " bytes a group | issue to memory, A100 / H200 / B200 |",
        "|---|---|---|---|---|---|---|",
        *(_gemv_line(name, codes) for name, codes in gemv.items()),
        OTHERS.format(
            walk=2 * rows["gemv of rows, 16:32 combinatorial fp16, 1 token"][90]["loop_instructions"],
            bitmask=_per_group(rows["gemv 16:32 bitmask fp16, 1 token"][90]),
        ),
        "| kernel | warps | registers, sm_80 / 90 / 100 | instructions, sm_80 / 90 / 100 | of them a loop | loads, sm_90 |",
        "|---|---|---|---|---|---|",
        *(_other_line(name, codes) for name, codes in others.items()),
    ]
    return "\n".join(lines) + "\n"


def _gemv_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    pattern, encoding = name.split()[1:3]
    n_bytes = GROUP_VALUE_BYTES + METADATA_BYTES[encoding].get(pattern, 2)
    ratios = [_issue_to_memory(_per_group(codes[sm]), n_bytes, machine) for sm, machine in MACHINES.items()]
    cells = [
        name.removeprefix("gemv ") + _spilled(codes),
        codes[90]["warps"],
        _three(codes, lambda row: str(row["registers"])),
        _three(codes, lambda row: f"{_per_group(row):.4g}"),
        _loads(codes[90]["loop_loads"]),
        n_bytes,
        " / ".join(f"{ratio:.2f}" for ratio in ratios),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _other_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    cells = [
        name + _spilled(codes),
        codes[90]["warps"],
        _three(codes, lambda row: str(row["registers"])),
        _three(codes, lambda row: str(row["instructions"])),
        _three(codes, lambda row: str(row["loop_instructions"])),
        _loads(codes[90]["loads"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _per_group(row: dict[str, Any]) -> float:
    return float(row["loop_instructions"] / row["loop_groups"])


def _issue_to_memory(instructions: float, n_bytes: int, machine: str) -> float:
    spec = hwmodels.load(machine)
    lanes_per_s = spec.cores.value * spec.issue_lanes_per_core_per_cycle.value * spec.clock_hz.value
    return float(instructions / lanes_per_s / (n_bytes / spec.dram_bandwidth_bytes_per_s.value))


def _three(codes: dict[int, dict[str, Any]], text: Any) -> str:
    return " / ".join(text(codes[architecture]) for architecture in MACHINES)


def _loads(widths: dict[str, int]) -> str:
    return ", ".join(f"{count} of {width} B" for width, count in widths.items())


def _spilled(codes: dict[int, dict[str, Any]]) -> str:
    found = [
        f"sm_{architecture}: {row['stack_bytes']} B of stack, {row['local_bytes']} B local, {row['spills']} spills"
        for architecture, row in codes.items()
        if row["stack_bytes"] or row["local_bytes"] or row["spills"]
    ]
    return f" (**{'; '.join(found)}**)" if found else ""
