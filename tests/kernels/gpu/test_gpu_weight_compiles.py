"""The Triton kernels for packed weights and skipped rows compile ahead of time, spill nothing and load 16 bytes at once.

`tests/kernels/gpu/test_gpu_compiles.py` says why this is not what the interpreter tests, and why it needs a process.
"""

import pytest
from triton_compiles import lines_of

pytest.importorskip("torch")
pytest.importorskip("triton")

CODE = """
import torch
from kernels.gpu.movers import compress, decompress, units
from kernels.gpu.products import gemm, skip_gemv
from kernels.compiled.sass import Subject, inspect
from kernels.stored.rows import kernel_format

RAW = {torch.float32: "*i32", torch.float16: "*i16", torch.bfloat16: "*i16"}
NAMES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


def check(name, arch, kernel, pointers, numbers, constants, warps, encoding=""):
    pointers = pointers | ({"table": "*i32"} if encoding == "combinatorial" else {})
    code = inspect(Subject(f"{name} {encoding}", kernel, pointers, numbers, constants, warps), arch)
    print(code.name, arch, code.spills + code.stack_bytes + code.local_bytes, code.registers, flush=True)


for arch, pattern, encoding, dtype, tokens in (
    (90, "8:16", "bitmask", torch.float16, 16),
    (90, "16:32", "combinatorial", torch.float32, 64),
    (90, "3:7", "index", torch.float16, 16),
    (80, "4:8", "index", torch.bfloat16, 64),
):
    made = gemm.constants(kernel_format(f"{pattern}/{encoding}"), 4096, dtype, tokens)
    check(
        f"gemm {pattern} {dtype} {tokens}", arch, gemm.gemm_kernel,
        {"values": RAW[dtype], "metadata": "*u8", "x": NAMES[dtype], "bias": NAMES[dtype], "y": NAMES[dtype],
         "sums": "*fp32", "counters": "*i32"},
        {"tokens": "i32", "outputs": "i32:16", "k": "i32:16", "n_groups": "i32:16", "row_bytes": "i32:16",
         "part_groups": "i32"},
        made | {"HAS_BIAS": True, "SPLIT": True}, gemm.WARPS, encoding,
    )

for arch, pattern, encoding, dtype in (
    (90, "8:16", "bitmask", torch.float16),
    (80, "3:7", "combinatorial", torch.float32),
):
    format = kernel_format(f"{pattern}/{encoding}")
    raw = {"values": RAW[dtype], "metadata": "*u8"}
    stored = {"k": "i32:16", "n_groups": "i32:16"}
    check(
        f"unpack {pattern} {dtype}", arch, decompress.decompress_kernel, raw | {"dense": RAW[dtype]},
        stored | {"rows": "i32", "row_bytes": "i32:16"},
        decompress.constants(format, 4096, dtype), decompress.WARPS, encoding,
    )
    check(
        f"pack {pattern} {dtype}", arch, compress.compress_kernel,
        raw | {"dense": RAW[dtype], "mask": "*u8", "overfull": "*i8"},
        stored, units.tile_constants(format, 4096, dtype), units.warps_for(format.pattern, 4096, dtype), encoding,
    )
    check(
        f"skip_gemv {pattern} {dtype}", arch, skip_gemv.skip_gemv_kernel,
        raw | {"weight": RAW[dtype], "y": RAW[dtype], "sums": "*fp32", "counters": "*i32"},
        stored | {"outputs": "i32:16", "part_groups": "i32"},
        skip_gemv.constants(format, 4096, dtype) | {"BIAS_KIND": "none", "SPLIT": True}, skip_gemv.WARPS, encoding,
    )
"""


def test_kernels_compile_and_spill_nothing(tmp_path):
    lines = lines_of(CODE, tmp_path)
    assert len(lines) == 10
    for line in lines:
        assert line.split()[-2] == "0", line
