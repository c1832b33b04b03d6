"""The page on compiled kernels, written from the rows that `python -m kernels.compiled.subjects`
gave (`reference/sass.json`)."""

import json
from pathlib import Path
from typing import Any

import hwmodels
from nmsim.pattern import Pattern

ROWS = Path(__file__).resolve().parents[1] / "reference" / "sass.json"
MACHINES = {80: "a100-sxm", 90: "h200", 100: "b200"}
GROUP_ELEMS = 16
DENSE_BYTES = 32
"""Of 16 dense elements."""

HEAD = """# Compiled kernels

This page shows what Triton {triton} makes of the kernels for an A100 (sm_80), an H100 or H200 (sm_90) and a B200 (sm_100).
They are compiled ahead of time; no GPU has run them. Rows are in [sass.json](sass.json). This command makes them anew, and
`make docs` this page:

```
python -m kernels.compiled.subjects docs/reference/sass.json
```

Registers, stack and local bytes are the output of `cuobjdump -res-usage`. Loads and instructions are listed by `nvdisasm`. **No
kernel here has a byte of stack or local memory on any of the three GPUs, unless its row says so.**

## The decode GEMV

**How instructions are counted.** The loop's body lies between the target of a backward branch and that branch, and has no
other backward branch inside. Of several such loops it is the one with the most unconditional 16-byte loads. All of a weight
goes through this loop, except the ends of its rows. All its instructions count, those of the uniform datapath too. They are
divided by the groups of 16 elements that a thread takes in one turn. That is the number of 16-byte loads. A thread reads
the 8 values of a group by one of them, and no other load is so wide. The sums over warps and the sum of parts are outside
the loop and are not counted.

**Issue to memory** is the time to issue the loop's instructions over the time to read its weights from memory. Both are at the
rates of the machine's datasheet: (instructions per group / (SMs x lanes x clock)) / (bytes per group / bandwidth). Above 1 the
instructions limit the kernel. The ratio has no latency, no limit on loads in flight, and no slower rate of
single kinds of instructions. It says what cannot be reached, not what is reached. **At most, over dense** follows from it: 32
bytes of 16 dense elements over the stored ones, less if instructions take longer than bytes. A dense product at the
datasheet's bandwidth is 1.
"""

STREAMS = """## Kernels that move data

Pruning, packing and unpacking read and write each element once, and memory should be their limit. Instructions are those of the
loop for 16 elements, or of the whole kernel if it has no loop. Bytes are those read and written for them. With these four
patterns a thread takes a whole unit of 16 or 32 elements and sorts its groups. Other patterns, and float32, use another,
slower method. `combinatorial` codes are summed term by term, and a variance is summed tile by tile. Those two cannot come
near the bandwidth of a copy on an H200. The loop of pruning times a vector contains the correction of ties. It is skipped
if there are none.
"""
TILES = """## Products in tiles

The GEMM for few tokens takes packed rows of any pattern. Instructions are those of its loop, including those of the matrix
units. Of several loops the page takes one. So the count is incomplete if codes are decoded in a loop of their own. One
token of a pattern without a decode kernel of its own uses this GEMM too. So does all of `combinatorial` of 16:32, which is
decoded by a loop over 32 positions for each code. Convert such weights to `bitmask` before they are multiplied.
"""
OTHERS = """## The other kernels

Loads from memory are those of the whole kernel, with their bytes per thread. `combinatorial` of 8:16 finds its positions in a
table of 12870 words (51 KB). One load of a warp reads up to 32 different places. `bitmask` reads two tables of 1 KB.
`combinatorial` has few instructions, but saves no bytes, because its 14 bits are stored in 16.
"""
STREAM_BYTES = {"prune": 32, "unpack": 32, "pack": 32 + 16}
"""Of 16 dense elements of 16 bits; a mask for packing has one byte per element."""


def page() -> str:
    """The whole page as Markdown."""
    found = json.loads(ROWS.read_text(encoding="utf-8"))
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["name"], {})[row["architecture"]] = row
    gemv = {name: codes for name, codes in rows.items() if codes[90]["loop_groups"]}
    streams = {name: codes for name, codes in rows.items() if name.split()[0] in STREAM_BYTES}
    tiles = {name: codes for name, codes in rows.items() if name.startswith("gemm ")}
    others = {name: codes for name, codes in rows.items() if name not in gemv | streams | tiles}
    lines = [
        HEAD.format(triton=found["triton"]),
        "| gemv | warps | registers, sm_80 / 90 / 100 | instructions per group, sm_80 / 90 / 100 | loads of the loop, sm_90 |"
        " bytes per group | issue to memory, A100 / H200 / B200 | at most, over dense |",
        "|---|---|---|---|---|---|---|---|",
        *(_product_line(name, codes) for name, codes in gemv.items()),
        TILES,
        "| gemm | warps | registers, sm_80 / 90 / 100 | instructions for 16 elements, sm_80 / 90 / 100 |"
        " loads of the loop, sm_90 | bytes | issue to memory, A100 / H200 / B200 | at most, over dense |",
        "|---|---|---|---|---|---|---|---|",
        *(_product_line(name, codes) for name, codes in tiles.items()),
        STREAMS,
        "| kernel | warps | registers, sm_80 / 90 / 100 | instructions for 16 elements, sm_80 / 90 / 100 | loads, sm_90 |"
        " bytes | issue to memory, A100 / H200 / B200 |",
        "|---|---|---|---|---|---|---|",
        *(_stream_line(name, codes) for name, codes in streams.items()),
        OTHERS,
        "| kernel | warps | registers, sm_80 / 90 / 100 | instructions, sm_80 / 90 / 100 | of them in a loop | loads, sm_90 |",
        "|---|---|---|---|---|---|",
        *(_other_line(name, codes) for name, codes in others.items()),
    ]
    return "\n".join(lines) + "\n"


def _product_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    n_bytes = _stored_bytes(name)
    most = [DENSE_BYTES / n_bytes / max(1.0, ratio) for ratio in _ratios(codes, n_bytes)]
    cells = _cells(name.split(maxsplit=1)[1], name, codes, codes[90]["loop_loads"], n_bytes)
    return _line([*cells, " / ".join(f"{ratio:.2f}x" for ratio in most)])


def _stream_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    n_bytes = _stored_bytes(name) + STREAM_BYTES[name.split()[0]]
    return _line(_cells(name, name, codes, codes[90]["loads"], n_bytes))


def _cells(
    title: str, name: str, codes: dict[int, dict[str, Any]], loads: dict[str, int], n_bytes: float
) -> list[Any]:
    return [
        title + _spilled(codes),
        codes[90]["warps"],
        _three(codes, lambda row: str(row["registers"])),
        _three(codes, lambda row: f"{_per_group(row):.4g}"),
        _loads(loads),
        f"{n_bytes:g}",
        " / ".join(f"{ratio:.2f}" for ratio in _ratios(codes, n_bytes)),
    ]


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _ratios(codes: dict[int, dict[str, Any]], n_bytes: float) -> list[float]:
    return [_issue_to_memory(_per_group(codes[sm]), n_bytes, machine) for sm, machine in MACHINES.items()]


def _stored_bytes(name: str) -> float:
    """Bytes of values and codes of 16 elements.

    A bitmask has one bit per element; combinatorial codes are stored in as many.
    """
    pattern, encoding = Pattern.parse(name.split()[1]), name.split()[2]
    kept = GROUP_ELEMS * pattern.n / pattern.m
    code_bits = kept * (pattern.m - 1).bit_length() if encoding == "index" else GROUP_ELEMS
    return 2 * kept + code_bits / 8


def _other_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    cells = [
        name + _spilled(codes),
        codes[90]["warps"],
        _three(codes, lambda row: str(row["registers"])),
        _three(codes, lambda row: str(row["instructions"])),
        _three(codes, lambda row: str(row["loop_instructions"])),
        _loads(codes[90]["loads"]),
    ]
    return _line(cells)


def _per_group(row: dict[str, Any]) -> float:
    groups = row["loop_groups"] or row["elems"] / GROUP_ELEMS
    return float((row["loop_instructions"] or row["instructions"]) / groups)


def _issue_to_memory(instructions: float, n_bytes: float, machine: str) -> float:
    spec = hwmodels.load_machine(machine)
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
