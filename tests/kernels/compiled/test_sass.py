"""What the compiler makes of the decode GEMV for an H100 or H200: no spills, wide loads, few instructions; no GPU is needed.

A process interprets or compiles, so that the compiler works in one of its own, once for all tests here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.compiled import listing, pipes, sass  # noqa: E402
from kernels.compiled import subjects as sass_subjects  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402

TABLE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "sass.json"
GATES = {"bitmask": 110, "index": 88}
"""Machine instructions that a thread may execute in the inner loop for 16 elements, one token, on sm_90."""
COMPILED = {
    f"gemv 8:16 {encoding} {dtype}, 1 token": encoding for encoding in GATES for dtype in ("fp16", "bf16")
}
PRUNED = "prune 8:16 bitmask fp16"
PRUNE_BYTES_CYCLES = 348
"""Cycles of a partition in which an H200 moves the 50 bytes per thread of a warp: 132 x 4 partitions x 32 threads x 1.98 GHz
over 4.8 TB/s are 6.97 per byte."""
PRUNE_SHARE = 0.85
"""Share of the bandwidth of a copy that pruning may not be kept from by its instructions, a copy reaching all of 4.8 TB/s."""
TRIPS = 1.4
"""Waits for memory that follow each other in a turn of the decode GEMV: one for DRAM, and L1's for gathers and tables."""
FEW_TOKENS = ("gemv 8:16 bitmask fp16, 2 tokens", "gemv 8:16 index fp16, 4 tokens")
BIG = "gemv 16:32 index fp16, 4 tokens, 16 warps"
"""What takes the most registers."""

CODE = """
import json, sys
from dataclasses import asdict
from kernels.compiled import sass
from kernels.compiled import subjects as sass_subjects
for subject in sass_subjects.subjects():
    if subject.name in sys.argv[1:]:
        print(json.dumps(asdict(sass.inspect(subject, 90))), flush=True)
"""


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    answer = subprocess.run(
        [sys.executable, "-c", CODE, *COMPILED, *FEW_TOKENS, BIG, PRUNED],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=env | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
    )
    assert answer.returncode == 0, answer.stderr
    rows = {row["name"]: row for row in map(json.loads, answer.stdout.splitlines())}
    assert rows.keys() == {*COMPILED, *FEW_TOKENS, BIG, PRUNED}
    return rows


@pytest.fixture(scope="module")
def committed():
    return json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*COMPILED, BIG])
def test_nothing_spills_and_values_come_by_16_bytes(name, found):
    row = found[name]
    assert (row["stack_bytes"], row["local_bytes"], row["spills"]) == (0, 0, 0)
    assert row["loop_loads"]["16"] == row["loop_groups"] == 2
    # For each group x is gathered at eight places, for four tokens by 8 bytes; the rest are codes and tables.
    if name == BIG:
        assert row["loop_loads"] == {"16": 2, "8": 8 * 2 + 1, "2": 1}
    elif COMPILED[name] == "bitmask":
        assert row["loop_loads"] == {"16": 2, "4": 2 * 2, "2": 8 * 2 + 2}
    else:
        assert row["loop_loads"] == {"16": 2, "4": 2, "2": 8 * 2}


@pytest.mark.parametrize("name", [*COMPILED, *FEW_TOKENS, BIG])
def test_a_turn_waits_for_dram_once(name, found):
    row = found[name]
    assert 1 <= row["serial_trips"] <= TRIPS
    assert row["programs"] * row["warps"] >= 32  # enough loads are under way


@pytest.mark.parametrize("name", COMPILED)
def test_instructions_of_a_group_are_few(name, found):
    row = found[name]
    # 8 gathers, 16 conversions and 8 products are in any of them.
    assert 32 < row["loop_instructions"] / row["loop_groups"] <= GATES[COMPILED[name]]


def test_pruning_leaves_time_for_its_bytes(found):
    row = found[PRUNED]
    assert (row["stack_bytes"], row["local_bytes"], row["spills"]) == (0, 0, 0)
    assert row["loads"] == {"16": 2}
    assert row["elems"] == 16
    # Threads that break ties run all that is counted, others a fifth less.
    assert 100 < max(row["cycles"].values()) <= PRUNE_BYTES_CYCLES / PRUNE_SHARE


def test_the_committed_table_is_that_of_the_compiler(found, committed):
    rows = {(row["name"], row["architecture"]): row for row in committed["rows"]}
    names = [subject.name for subject in sass_subjects.subjects()]
    assert len(names) == len(set(names))
    assert list(rows) == [(name, sm) for name in names for sm in pipes.ARCHITECTURES]
    if committed["triton"] != triton.__version__:
        pytest.skip(f"the table is of Triton {committed['triton']}, this is {triton.__version__}")
    for name, row in found.items():
        assert rows[name, 90] == row, (
            "python -m kernels.compiled.subjects docs/reference/sass.json makes the table anew"
        )


def test_the_committed_table_holds_the_gates_for_all_patterns(committed):
    decode = [row for row in committed["rows"] if row["loop_groups"]]
    assert len(decode) >= 3 * 11
    for row in decode:
        # Without inline assembly it is what the interpreter runs, and no GPU.
        if "no inline assembly" not in row["name"]:
            assert row["architecture"] != 90 or row["serial_trips"] <= TRIPS, row["name"]
            assert (row["stack_bytes"], row["local_bytes"], row["spills"]) == (0, 0, 0), row["name"]
        assert row["loop_loads"]["16"] == row["loop_groups"], row["name"]
    gated = [row for row in decode if row["name"].endswith("1 token") and row["architecture"] == 90]
    for encoding, limit in GATES.items():
        rows = [row for row in gated if encoding in row["name"]]
        assert len(rows) == 5  # four patterns, and one of them in bfloat16
        assert all(row["loop_instructions"] / row["loop_groups"] <= limit for row in rows)


def test_the_page_on_gpu_kernels_has_the_counts_of_the_table(committed):
    text = (TABLE.parents[1] / "explanation" / "gpu-kernels.md").read_text(encoding="utf-8")
    rows = {row["name"]: row for row in committed["rows"] if row["architecture"] == 90}
    for start, name in {
        "| prune, `bitmask` | ": PRUNED,
        "| the same, 16:32 | ": "prune 16:32 bitmask fp16",
        "| prune, `index` | ": "prune 8:16 index fp16",
        "| prune times a vector | ": "prune 8:16 bitmask fp16, times a vector",
        "| prune, mean shift and variance | ": "prune 8:16 bitmask fp16, mean shift, variance",
        "| pack by a mask, `bitmask` | ": "pack 8:16 bitmask fp16, of a mask",
    }.items():
        row = rows[name]
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        count = (row["loop_instructions"] or row["instructions"]) * 16 / row["elems"]
        assert line.split("|")[-2].split(",")[0].strip() == f"{count:.0f}", line


LISTING = """
	.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/                   LDG.E.EF.128 R4, desc[UR4][R2.64] ;
.L_x_2:
        /*0030*/                   LDG.E.U16 R8, desc[UR4][R2.64+0x2] ;
        /*0040*/                   LDG.E.64 R8, desc[UR4][R2.64+0x8] ;
        /*0050*/              @!P1 BRA `(.L_x_2) ;
        /*0060*/              @!P1 BRA `(.L_x_1) ;
.L_x_0:
        /*0070*/              @!P2 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0080*/                   STL.64 [R1], R4 ;
        /*0090*/             @!UP0 UISETP.NE.AND UP0, UPT, UR4, 0x1, UPT ;
        /*00a0*/               @P2 BRA `(.L_x_0) ;
        /*00b0*/                   EXIT ;
"""


def test_loops_are_found_as_the_page_says():
    body, targets = listing.instructions(LISTING)
    assert (len(body), targets) == (12, {".L_x_1": 2, ".L_x_2": 3, ".L_x_0": 7})
    # The outer loop is none: it has another one inside. A predicated wide load is no group, so the other loop wins.
    loop = body[listing.inner_loop(body, targets)]
    assert [listing.operation(line) for line in loop] == ["LDG.E.U16", "LDG.E.64", "BRA"]
    unconditional = LISTING.replace(
        "/*0040*/                   LDG.E.64", "/*0040*/                   LDG.E.128"
    )
    changed, same = listing.instructions(unconditional)
    loop = changed[listing.inner_loop(changed, same)]
    assert [listing.operation(line) for line in loop] == ["LDG.E.U16", "LDG.E.128", "BRA"]
    assert listing.load_widths_bytes(body) == {16: 2, 2: 1, 8: 1}
    assert body[:2][listing.inner_loop(body[:2], targets)] == []


def test_what_cannot_be_inspected_is_refused(monkeypatch):
    subject = sass_subjects.gemv_subject("8:16/bitmask")
    if triton.knobs.runtime.interpret:
        with pytest.raises(KernelError, match="expected TRITON_INTERPRET unset before it starts"):
            sass.inspect(subject, 90)
    monkeypatch.setattr(sass, "TOOLS", Path("/nowhere"))
    with pytest.raises(
        KernelError, match="/nowhere/nvdisasm is missing: expected the tools that Triton's wheel brings"
    ):
        sass._output("nvdisasm")


def test_the_table_has_a_row_for_each(found):
    codes = [sass.Code(**row) for row in found.values()]
    frame = sass.table(codes)
    assert frame["name"].tolist() == list(found)
    assert (frame["instructions_per_group"] > 32).all()
    assert (
        sass.table([sass.Code(**{**found[BIG], "loop_groups": 0, "elems": 0})])["instructions_per_group"]
        .isna()
        .all()
    )
