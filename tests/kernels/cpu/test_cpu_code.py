"""The machine code itself: what AVX-512 kernels consist of, and the numbers the documentation gives."""

import platform
import re
from pathlib import Path

import pytest

from kernels.compiled.count_cpu import inner_loop, instructions_per_group
from kernels.cpu.compiled import assembly
from kernels.cpu.recipe import Recipe
from kernels.stored.rows import STEP_ELEMS, kernel_format

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "cpu-kernels.md"
COUNTED_TOKENS = (1, 4, 16)
pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="LLVM for x86 is needed to compile these kernels",
)


def recipe(pattern, encoding, tokens=1, dtype="float32", isa="avx512"):
    return Recipe(kernel_format(f"{pattern}/{encoding}"), dtype, tokens, isa)


@pytest.mark.parametrize("target", ["znver4", "skylake-avx512"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_avx512_expands_masks_in_registers(dtype, target):
    text = assembly(recipe("8:16", "bitmask", dtype=dtype), target)
    assert re.search(r"vexpandps\s+%zmm\d+, %zmm\d+ {%k\d} {z}", text)
    assert not re.search(r"vexpandps\s+\S*\(", text)  # slow on Zen when it reads memory
    assert re.search(r"vfmadd\w+\s+%zmm\d+, %zmm\d+, %zmm\d+ {%k\d}", text)


def test_avx512_inner_loop_of_8_16_is_seven_instructions_a_group_and_the_loop():
    loop = inner_loop(recipe("8:16", "bitmask"))
    names = [line.split()[0] for line in loop]
    assert names.count("vexpandps") == names.count("vfmadd231ps") == names.count("kmovw") == 4
    assert names.count("prefetcht1") == 2 * 4  # values and codes of four rows
    assert names.count("prefetcht0") == 4
    assert len(loop) <= 4 * 7 + 6
    assert not any("%rsp" in line for line in loop)


@pytest.mark.parametrize("pattern", ["8:16", "16:32"])
def test_avx512_permutes_by_positions(pattern):
    loop = inner_loop(recipe(pattern, "index"))
    # LLVM may see that two halves of 16 elements lie side by side, and permute one whole register.
    assert sum(bool(re.match(r"vperm([it]2ps|d|ps)\s.*%zmm", line)) for line in loop) == 4
    assert not any("%rsp" in line for line in loop)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tokens", [8, 16])
def test_avx512_multiplies_only_what_is_kept_by_many_tokens(tokens, dtype):
    of = recipe("8:16", "index", tokens, dtype)
    loop = inner_loop(of)
    register = {8: "ymm", 16: "zmm"}[tokens]
    products = [line for line in loop if line.startswith("vfmadd") and f"%{register}" in line]
    assert len(products) == of.rows_abreast * of.step_kept
    assert not any("%rsp" in line for line in loop)


def test_avx2_looks_nothing_up_for_index_and_keeps_sums_in_registers():
    for pattern in STEP_ELEMS:
        loop = inner_loop(recipe(str(pattern), "index", isa="avx2"))
        assert not any("%rsp" in line for line in loop), pattern
        assert not any("zmm" in line or "{%k" in line for line in loop)


def table():
    """Instructions a group, in Markdown."""
    head = "| | " + " | ".join(
        f"{isa}, {t} token{'s' * (t > 1)}" for isa in ("avx2", "avx512") for t in COUNTED_TOKENS
    )
    lines = [head + " |", "|---" * (1 + 2 * len(COUNTED_TOKENS)) + "|"]
    for pattern in map(str, STEP_ELEMS):
        for encoding in ("bitmask", "index", "combinatorial"):
            if (pattern, encoding) == ("16:32", "combinatorial"):
                continue
            counts = [
                f"{instructions_per_group(f'{pattern}/{encoding}', 'float32', tokens=tokens, isa=isa):.1f}"
                for isa in ("avx2", "avx512")
                for tokens in COUNTED_TOKENS
            ]
            lines.append(f"| {pattern} {encoding} | " + " | ".join(counts) + " |")
    return lines


def test_the_counts_of_the_page_are_those_of_the_compiler():
    written = PAGE.read_text(encoding="utf-8").splitlines()
    for line in table()[2:]:
        name, *counts = [cell.strip() for cell in line.strip("| ").split("|")]
        (row,) = [other for other in written if other.startswith(f"| {name} |")]
        stated = [float(cell) for cell in row.strip("| ").split("|")[1:]]
        # Another LLVM may schedule a loop a little differently; the page would then need to be written anew.
        assert stated == pytest.approx([float(count) for count in counts], rel=0.15), "\n".join(table())
