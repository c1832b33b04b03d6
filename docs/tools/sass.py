"""The page on compiled kernels, written from the rows that `python -m kernels.compiled.subjects`
gave (`reference/sass.json`)."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import hwmodels
from hwmodels.counted.table import counted_kernels
from nmsim.pattern import Pattern

ROWS = Path(__file__).resolve().parents[1] / "reference" / "sass.json"
MACHINES = {80: "a100-sxm", 89: "rtx4090", 90: "h200", 100: "b200"}
NAMES = "A100 / RTX 4090 / H200 / B200"
ARCHITECTURES = "sm_80 / 89 / 90 / 100"
GROUP_ELEMS = 16
WARP_THREADS = 32
PARTITIONS = 4
DENSE_BYTES = 32
"""Of 16 dense elements."""

HEAD = """# Compiled kernels

This page shows what Triton {triton} makes of the kernels for four GPUs. They are an A100 (sm_80), an RTX 4090 (sm_89), an H100
or H200 (sm_90) and a B200 (sm_100). They are compiled ahead of time; no GPU has run them. Rows are in [sass.json](sass.json).
This command makes them anew, and `make docs` this page:

```
python -m kernels.compiled.subjects docs/reference/sass.json
```

Registers, stack and local bytes are the output of `cuobjdump -res-usage`. Loads and instructions are listed by `nvdisasm`. **No
kernel here has a byte of stack or local memory on any of the four GPUs, unless its row says so.** What follows from the counts
for the time of a product is on [Goals by counting](gpu-goals.md).

## How it is counted

**Instructions.** The loop's body lies between the target of a backward branch and that branch, and has no
other backward branch inside. Of several such loops it is the one with the most unconditional 16-byte loads. All of a weight
goes through this loop, except the ends of its rows. All its instructions count, those of the uniform datapath too. They are
divided by the groups of 16 elements that a thread takes in one turn. That is the number of 16-byte loads. A thread reads
the 8 values of a group by one of them, and no other load is so wide. The sums over warps and the sum of parts are outside
the loop and are not counted.

**Programs** are those that a multiprocessor holds at a time, by registers, shared memory and warps.

**Issue to memory** is the time of the busiest pipe over the time to read the weights from memory. Both are at the rates of the
datasheet. A multiprocessor starts four instructions of a warp per cycle. Some pipes take fewer: 64 lanes for integer addition,
logic and shifts, 16 for population count and its kind. `kernels.compiled.pipes` lists all rates with their sources. Above 1 the
instructions limit the kernel. The ratio has no latency. It says what cannot be reached, not what is reached. **At most, over
dense** follows from it: 32 bytes of 16 dense elements over the stored ones, less if instructions take longer than bytes.
A dense product at the datasheet's bandwidth is 1.

**Round trips** are waits for memory that follow each other in one turn (`kernels.compiled.trips`). A load that L1 serves
counts a tenth. Below 1.4, all loads of a turn are under way together, or were asked for a turn before.

**Wavefronts** are passes through L1 for 32 threads with 16 elements each. The kernel runs on the emulator with random weights,
and every address is seen (`kernels.compiled.wavefronts`). The lower figure counts words that one bank must give in turn, the
upper one lines of 128 bytes. On an H200 some 31 cycles pass while memory delivers 18 bytes for each of 32 threads to each
multiprocessor. More wavefronts than that make L1 the limit.
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
NARROW_TYPES = ("e4m3", "int8")
SCALE_BYTES = 4
TILE_KERNELS = ("gemm", "mma")


def page() -> str:
    """The whole page as Markdown."""
    found = json.loads(ROWS.read_text(encoding="utf-8"))
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["name"], {})[row["architecture"]] = row
    gemv = {name: codes for name, codes in rows.items() if name.split()[0] == "gemv"}
    streams = {name: codes for name, codes in rows.items() if name.split()[0] in STREAM_BYTES}
    tiles = {name: codes for name, codes in rows.items() if name.split()[0] in TILE_KERNELS}
    others = {name: codes for name, codes in rows.items() if name not in gemv | streams | tiles}
    lines = [
        HEAD.format(triton=found["triton"]),
        "## The decode GEMV\n",
        *_code_table("gemv", gemv, "loop_loads", "instructions per group"),
        *_limit_table("gemv", gemv, is_product=True),
        TILES,
        *_code_table("kernel", tiles, "loop_loads", "instructions for 16 elements"),
        *_limit_table("kernel", tiles, is_product=True),
        STREAMS,
        *_code_table("kernel", streams, "loads", "instructions for 16 elements"),
        *_limit_table("kernel", streams, is_product=False),
        OTHERS,
        f"| kernel | warps | registers, {ARCHITECTURES} | instructions, {ARCHITECTURES} | of them in a loop | loads, sm_90 |"
        " round trips, sm_90 |",
        "|---|---|---|---|---|---|---|",
        *(_other_line(name, codes) for name, codes in others.items()),
    ]
    return "\n".join(lines) + "\n"


def _code_table(
    title: str, kernels: dict[str, dict[int, dict[str, Any]]], loads: str, counted: str
) -> list[str]:
    """What is compiled: registers, programs, instructions and loads."""
    return [
        f"| {title} | warps | registers, {ARCHITECTURES} | programs | {counted} | loads, sm_90 |",
        "|---|---|---|---|---|---|",
        *(
            _line(
                [
                    _title(name) + _spilled(codes),
                    codes[90]["warps"],
                    _each(codes, lambda row: str(row["registers"])),
                    _each(codes, lambda row: str(row["programs"])),
                    _each(codes, lambda row: f"{_per_group(row):.4g}"),
                    _loads(codes[90][loads]),
                ]
            )
            for name, codes in kernels.items()
        ),
        "",
    ]


def _limit_table(title: str, kernels: dict[str, dict[int, dict[str, Any]]], *, is_product: bool) -> list[str]:
    """What limits it: bytes, pipes, wavefronts and round trips."""
    more = " at most, over dense |" if is_product else ""
    return [
        f"| {title} | bytes of 16 elements | issue to memory, {NAMES} | busiest pipe, sm_90 | wavefronts |"
        f" round trips, {ARCHITECTURES} |{more}",
        "|---|---|---|---|---|---|" + "---|" * is_product,
        *(_limit_line(name, codes, is_product=is_product) for name, codes in kernels.items()),
        "",
    ]


def _limit_line(name: str, codes: dict[int, dict[str, Any]], *, is_product: bool) -> str:
    n_bytes = _stored_bytes(name) + (0 if is_product else STREAM_BYTES[name.split()[0]])
    ratios = [_issue_to_memory(codes[sm], n_bytes, machine) for sm, machine in MACHINES.items()]
    cells = [
        _title(name),
        f"{n_bytes:g}",
        " / ".join(f"{ratio:.2f}" for ratio in ratios),
        _pipe(codes[90]),
        _wavefronts(name),
        _each(codes, lambda row: f"{row['serial_trips']:.1f}"),
    ]
    most = [DENSE_BYTES / n_bytes / max(1.0, ratio) for ratio in ratios]
    return _line([*cells, *([" / ".join(f"{ratio:.2f}x" for ratio in most)] if is_product else [])])


def _title(name: str) -> str:
    first, rest = name.split(maxsplit=1)
    return rest if first == "gemv" else name


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _pipe(row: dict[str, Any]) -> str:
    return str(max(row["cycles"], key=row["cycles"].__getitem__))


def _wavefronts(name: str) -> str:
    """Of the kernel for the same format and tokens, if it was run on the emulator."""
    kernel, pattern, encoding, *rest = name.replace(",", "").split()
    tokens = next((int(word) for word, unit in itertools.pairwise(rest) if unit.startswith("token")), 0)
    found = [
        row
        for row in counted_kernels()
        if (row.kernel, row.pattern, row.encoding, row.tokens) == (kernel, pattern, encoding, tokens)
    ]
    if not found or not tokens or rest[0] in NARROW_TYPES or "experts" in rest:
        return ""
    return f"{found[-1].wavefronts_least:.3g} to {found[-1].wavefronts_most:.3g}"


def _stored_bytes(name: str) -> float:
    """Bytes of values, codes and scales per block of 16 elements.

    A bitmask has one bit per element; combinatorial codes are stored in as many.
    """
    pattern, encoding = Pattern.parse(name.split()[1]), name.split()[2]
    kept = GROUP_ELEMS * pattern.n / pattern.m
    code_bits = kept * (pattern.m - 1).bit_length() if encoding == "index" else GROUP_ELEMS
    is_narrow = name.split()[3].strip(",") in NARROW_TYPES
    block = re.search(r"scales per block of (\d+)", name)
    scales = SCALE_BYTES * GROUP_ELEMS / int(block[1]) if block else 0
    return (1 if is_narrow else 2) * kept + code_bits / 8 + scales


def _other_line(name: str, codes: dict[int, dict[str, Any]]) -> str:
    cells = [
        name + _spilled(codes),
        codes[90]["warps"],
        _each(codes, lambda row: str(row["registers"])),
        _each(codes, lambda row: str(row["instructions"])),
        _each(codes, lambda row: str(row["loop_instructions"])),
        _loads(codes[90]["loads"]),
        f"{codes[90]['serial_trips']:.1f}",
    ]
    return _line(cells)


def _per_group(row: dict[str, Any]) -> float:
    groups = row["loop_groups"] or row["elems"] / GROUP_ELEMS
    return float((row["loop_instructions"] or row["instructions"]) / groups)


def _issue_to_memory(row: dict[str, Any], n_bytes: float, machine: str) -> float:
    spec = hwmodels.load_machine(machine)
    groups = row["loop_groups"] or row["elems"] / GROUP_ELEMS
    cycles = max(row["cycles"].values()) / groups / PARTITIONS
    bytes_per_core = float(spec.dram_bandwidth_bytes_per_s.value) / float(spec.cores.value)
    return float(cycles / float(spec.clock_hz.value) / (WARP_THREADS * n_bytes / bytes_per_core))


def _each(codes: dict[int, dict[str, Any]], text: Any) -> str:
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
