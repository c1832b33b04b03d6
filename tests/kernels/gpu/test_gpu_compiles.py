"""The Triton kernels compile ahead of time for an H100 or H200, and spill next to nothing; no GPU is needed.

Triton's interpreter takes what its compiler refuses, so one is no stand-in for the other. A process does one of both: the
compiler works in a process of its own.
"""

import re

import pytest
from triton_compiles import lines_of

pytest.importorskip("torch")
pytest.importorskip("triton")

MOST_STACK_BYTES = 0
"""Of a thread. Triton 3.9 spills nothing in these variants, 3.6 puts 8 bytes of one on the stack to stay at 128 registers."""

CODE = """
import os, re, subprocess, sys, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.gpu.movers import prune, units
from kernels.gpu.products import sparse_activations
from kernels.stored.rows import kernel_format
from nmsim.pattern import Pattern

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def check(title, fn, pointers, numbers, constants, warps):
    missing = [name for name in fn.arg_names if name not in pointers | numbers and name not in constants]
    constants = constants | {name: None for name in missing}
    types = {name: (pointers | numbers).get(name, "constexpr") for name in fn.arg_names}
    apart = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(fn.arg_names) if n in pointers}
    source = ASTSource(fn, types, constexprs=constants, attrs=apart)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        text = subprocess.run([TOOLS + "/cuobjdump", "-res-usage", cubin.name], capture_output=True, text=True).stdout
    found = {name: int(re.search(name + r":(\\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL")}
    print(title, found, flush=True)


for pattern, encoding, k, dtype, shift, scored, variance in (
    ("8:16", "bitmask", 4096, torch.float16, "none", False, False),
    ("3:7", "index", 4096, torch.bfloat16, "vector", False, True),
    ("16:32", "combinatorial", 4096, torch.float32, "median", True, True),
    ("2:4", "index", 1, torch.float16, "mean", False, False),
    ("8:16", "bitmask", 2560, torch.float16, "median", False, False),
):
    raw = "*i32" if dtype == torch.float32 else "*i16"
    pointers = {"x": raw, "values": raw, "metadata": "*u8", "eta_out": "*fp32", "v_out": "*fp32"}
    pointers |= {"vector": "*fp32"} if scored else {}
    pointers |= {"shift": "*fp32"} if shift == "vector" else {}
    pointers |= {"table": "*i32"} if encoding == "combinatorial" else {}
    made = prune.constants(kernel_format(f"{pattern}/{encoding}"), k, dtype, shift=shift, vector=scored, variance=variance)
    numbers = {"constant": "fp32", "k": "i32", "n_groups": "i32"}
    if k == 1:
        del numbers["k"]
        made["k"] = 1  # as a launch has it
    warps = units.warps_for(Pattern.parse(pattern), k, dtype)
    check(f"prune {pattern} {encoding} {dtype} {shift}", prune.prune_kernel, pointers, numbers, made, warps)

for pattern, encoding, dtype, tokens, whole in (
    ("8:16", "bitmask", torch.float16, 64, True),
    ("3:7", "index", torch.bfloat16, 1, False),
    ("16:32", "combinatorial", torch.float32, 64, False),
):
    kind = "*" + NAMES[dtype]
    pointers = {"values": "*i32" if dtype == torch.float32 else "*i16", "metadata": "*u8", "weight": kind, "y": kind}
    pointers |= dict.fromkeys(("v", "eta", "row_sums", "scale", "bias"), "*fp32") if whole else {}
    pointers |= {"table": "*i32"} if encoding == "combinatorial" else {}
    numbers = dict.fromkeys(("tokens", "outputs", "k", "n_groups", "row_bytes"), "i32")
    made = sparse_activations.constants(kernel_format(f"{pattern}/{encoding}"), 4096, dtype, tokens)
    made |= {name: whole for name in ("HAS_V", "HAS_ETA", "HAS_SCALE", "HAS_BIAS")}
    check(
        f"product {pattern} {encoding} {dtype}", sparse_activations.product_kernel, pointers, numbers, made,
        sparse_activations.warps_for(Pattern.parse(pattern), dtype),
    )
"""


def test_kernels_compile_for_sm_90_and_spill_next_to_nothing(tmp_path):
    lines = lines_of(CODE, tmp_path)
    assert len(lines) == 8
    for line in lines:
        stack, local = re.search(r"'STACK': (\d+), 'LOCAL': (\d+)", line).groups()
        assert int(stack) <= MOST_STACK_BYTES, line
        assert int(local) == 0, line
