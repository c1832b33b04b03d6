"""Which Triton kernels are compiled ahead of time and inspected, and for what: the rows of `docs/reference/sass.md`.

`python -m kernels.compiled.subjects docs/reference/sass.json` compiles all of them for four architectures, some minutes long.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import triton

from kernels.compiled.pipes import ARCHITECTURES
from kernels.compiled.sass import Code, Subject, inspect
from kernels.gpu import controls
from kernels.gpu.bits import WARP_THREADS
from kernels.gpu.codes import position_table
from kernels.gpu.movers import compress, decompress, prune, units, unshuffle
from kernels.gpu.products import gemm, gemv, grouped, mma, skip_gemv, sparse_activations
from kernels.gpu.products.fragments import ROWS
from kernels.stored.rows import kernel_format
from kernels.stored.shuffled import PLANES
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file
from nmsim.files.output import Output, claimed
from nmsim.format import FormatLike, SparseFormat

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "e4m3",
    torch.int8: "int8",
}
WARPS = 8
"""Of the decode GEMV, by default."""
K = 4096
HALF = torch.float16
P8_16 = kernel_format("8:16/bitmask")
GEMMS = (("8:16/bitmask", 16), ("8:16/bitmask", 64), ("16:32/index", 16), ("2:8/index", 16))
"""Format and tokens of the products in tiles: the last has no decode kernel of its own."""

EIGHT_BITS = (
    ("8:16/bitmask", 1, torch.float8_e4m3fn, None),
    ("8:16/bitmask", 1, torch.float8_e4m3fn, 128),
    ("8:16/bitmask", 4, torch.float8_e4m3fn, None),
    ("8:16/index", 1, torch.float8_e4m3fn, None),
    ("16:32/bitmask", 1, torch.float8_e4m3fn, None),
    ("8:16/bitmask", 1, torch.int8, None),
)
"""Format, tokens, type of values and block of the decode products with scales."""


def _said(format: SparseFormat) -> str:
    return f"{format.pattern} {format.encoding.name}"


def gemv_subject(
    format: FormatLike, tokens: int = 1, *, dtype: torch.dtype = HALF, warps: int = WARPS, pure: bool = False,
    split_k: bool = False, values: torch.dtype | None = None, block: int | None = None,
) -> Subject:  # fmt: skip
    """Name the decode GEMV for a format and a count of tokens; `pure` leaves out inline assembly.

    `values` of 8 bits have scales, one per row or per block.
    """
    format = kernel_format(format)
    made = gemv.constants(format, values or dtype, dtype, tokens, dtype, block=block, k=K)
    made |= {"BIAS_KIND": "none", "WARPS": warps, "ASM": not pure, "SPLIT": split_k}
    pointers = {"values": "*i64", "metadata": "*u8", "x": "*i16", "y": "*i16"}
    if split_k:
        pointers |= {"parts": "*fp32", "counters": "*i32"}
    if position_table(format, torch.device("cpu")) is not None:
        pointers["table"] = "*i32"
    if values is not None:
        pointers["scales"] = "*fp32"
    numbers = {"outputs": "i32", "rows": "i32:16", "units": "i32", "part_units": "i32", "x_bytes": "i32"}
    about = f"{_said(format)} {TYPES[values or dtype]}, {tokens} token{'s' * (tokens > 1)}"
    if values is not None:
        about += f", scales per {'row' if block is None else f'block of {block}'}"
    about += f", {warps} warps" * (warps != WARPS) + ", no inline assembly" * pure + ", parts of K" * split_k
    options = {"enable_fp_fusion": True}
    # Values of 8 bits are read by 8 bytes, so that loads of 16 count no groups.
    elems = 0 if values is None else gemv.TURN_ELEMS
    return Subject(
        f"gemv {about}", gemv.gemv_kernel, pointers, numbers, made, warps, values is None, elems, options
    )


def mma_subject(format: FormatLike, tokens: int, *, dtype: torch.dtype = HALF) -> Subject:
    """Name the product of 5 to 64 tokens in the order of the decode kernel, for a format and a count of tokens."""
    format = kernel_format(format)
    made = mma.constants(format, dtype, tokens) | {"HAS_BIAS": False, "SPLIT": False, "WARPS": mma.WARPS}
    pointers = {"values": "*i32", "metadata": "*u8", "x": "*i32", "y": f"*{TYPES[dtype]}"}
    pointers |= {} if mma.table_of(format, torch.device("cpu")) is None else {"table": "*i32"}
    numbers = {"tokens": "i32", "outputs": "i32", "rows": "i32:16", "units": "i32", "part_steps": "i32"}
    about = f"{_said(format)} {TYPES[dtype]}, {tokens} tokens"
    # In a step a thread takes a unit of each of its rows.
    return Subject(
        f"mma {about}", mma.mma_kernel, pointers, numbers | {"x_words": "i32:16"}, made, mma.WARPS,
        elems=ROWS * made["ELEMS"],
    )  # fmt: skip


def subjects() -> list[Subject]:
    """All kernels of the table: the decode GEMV in all that it can be, then the others, each once or twice."""
    # `tiled` has the compiled code of `combinatorial`: only the table differs.
    order = ("bitmask", "index", "combinatorial")
    keys = sorted(
        (format for format in PLANES if format.encoding.name in order),
        key=lambda format: (format.pattern.m, order.index(format.encoding.name)),
    )
    found = [gemv_subject(format) for format in keys]
    for encoding in ("bitmask", "index"):
        found += [gemv_subject(f"8:16/{encoding}", tokens) for tokens in (2, 4, 8)]
        found.append(gemv_subject(f"8:16/{encoding}", dtype=torch.bfloat16))
        found.append(gemv_subject(f"8:16/{encoding}", pure=True))
        found.append(gemv_subject(f"8:16/{encoding}", split_k=True))
        found.append(gemv_subject(f"16:32/{encoding}", 4, warps=max(gemv.REGISTERS)))
    for text, tokens, values, block in EIGHT_BITS:
        found.append(gemv_subject(text, tokens, values=values, block=block))
    found.append(_grouped(gemv_subject("8:16/bitmask")))
    found += [mma_subject(format, 16) for format in keys]
    found += [mma_subject("8:16/bitmask", tokens) for tokens in (8, 32, 64)]
    found += [mma_subject("8:16/bitmask", 16, dtype=torch.bfloat16), mma_subject("16:32/bitmask", 64)]
    return found + _weights() + _activations() + _controls()


def _grouped(alone: Subject) -> Subject:
    """Name the product of experts that is this one of one matrix."""
    return replace(
        alone,
        name=f"{alone.name}, of experts",
        kernel=grouped.grouped_kernel,
        pointers={**alone.pointers, "experts": "*i64"},
        numbers={
            **alone.numbers,
            **dict.fromkeys(("experts_held", "choices"), "i32"),
            **dict.fromkeys(("k", "expert_words", "expert_bytes"), "i32:16"),
        },
    )


def _weights() -> list[Subject]:
    packed = {"values": "*i16", "metadata": "*u8"}
    # Names stay as they are: committed rows and the page know the kernels by them.
    return [
        *(_gemm(kernel_format(text), tokens) for text, tokens in GEMMS),
        Subject(
            "unpack 8:16 bitmask fp16",
            decompress.decompress_kernel,
            {**packed, "dense": "*i16"},
            {"rows": "i32", "k": "i32:16", "n_groups": "i32:16", "row_bytes": "i32:16"},
            decompress.constants(P8_16, K, HALF),
            decompress.WARPS,
            elems=decompress.TILE_ROWS
            * decompress.TILE_BYTES
            // HALF.itemsize
            // (decompress.WARPS * WARP_THREADS),
        ),
        *(_unshuffle(kernel_format(f"8:16/{encoding}")) for encoding in ("bitmask", "index")),
        Subject(
            "pack 8:16 bitmask fp16, of a mask",
            compress.compress_kernel,
            {**packed, "dense": "*i16", "mask": "*u8", "overfull": "*i8"},
            {"k": "i32:16", "n_groups": "i32:16"},
            units.tile_constants(P8_16, K, HALF),
            units.warps_for(P8_16.pattern, K, HALF),
            elems=16,
        ),
    ]


def _unshuffle(format: SparseFormat) -> Subject:
    pointers = {"values": "*i16", "metadata": "*u8", "dense": "*i16"}
    return Subject(
        f"unpack {_said(format)} fp16, order of the decode kernel",
        unshuffle.unshuffle_kernel,
        pointers,
        {"outputs": "i32", "k": "i32:16", "rows": "i32:16", "units": "i32"},
        unshuffle.constants(format),
        unshuffle.WARPS,
        elems=unshuffle.TILE_ROWS * unshuffle.TILE_ELEMS // (unshuffle.WARPS * WARP_THREADS),
    )


def _gemm(format: SparseFormat, tokens: int) -> Subject:
    made = gemm.constants(format, K, HALF, tokens)
    elems = made["OUTPUTS"] * made["GROUPS"] * made["M"] // (gemm.WARPS * WARP_THREADS)
    return Subject(
        f"gemm {_said(format)} fp16, {tokens} tokens",
        gemm.gemm_kernel,
        {"values": "*i16", "metadata": "*u8", "x": "*fp16", "y": "*fp16"},
        {
            **dict.fromkeys(("outputs", "k", "n_groups", "row_bytes"), "i32:16"),
            **dict.fromkeys(("tokens", "part_groups"), "i32"),
        },
        made | {"HAS_BIAS": False, "SPLIT": False},
        gemm.WARPS,
        elems=elems,
    )


def _activations() -> list[Subject]:
    packed = {"values": "*i16", "metadata": "*u8"}
    # Without an epilogue the loop is all that differs from the product of weights.
    no_epilogue = dict.fromkeys(("HAS_V", "HAS_ETA", "HAS_SCALE", "HAS_BIAS"), False)
    return [
        *(
            _prune(f"{pattern}/{encoding}")
            for pattern in ("2:4", "4:8", "8:16", "16:32")
            for encoding in ("bitmask", "index")
        ),
        _prune("8:16/combinatorial"),
        _prune("8:16/bitmask", vector=True),
        _prune("8:16/bitmask", shift="mean", variance=True),
        Subject(
            "product of pruned activations, 8:16 bitmask fp16, 64 tokens",
            sparse_activations.product_kernel,
            {**packed, "weight": "*fp16", "y": "*fp16"},
            {"tokens": "i32", **dict.fromkeys(("outputs", "k", "n_groups", "row_bytes"), "i32:16")},
            sparse_activations.constants(P8_16, K, HALF, 64) | no_epilogue,
            sparse_activations.warps_for(P8_16.pattern, HALF),
        ),
        Subject(
            "skip gemv 8:16 bitmask fp16, 1 token",
            skip_gemv.skip_gemv_kernel,
            {**packed, "weight": "*i16", "y": "*i16", "sums": "*fp32", "counters": "*i32"},
            {"outputs": "i32:16", "k": "i32:16", "n_groups": "i32:16", "part_groups": "i32"},
            skip_gemv.constants(P8_16, K, HALF) | {"BIAS_KIND": "none", "SPLIT": True},
            skip_gemv.WARPS,
            options={"enable_fp_fusion": True},
        ),
    ]


def _prune(text: str, *, shift: str = "none", vector: bool = False, variance: bool = False) -> Subject:
    format = kernel_format(text)
    warps = units.warps_for(format.pattern, K, HALF)
    made = prune.constants(format, K, HALF, shift=shift, vector=vector, variance=variance)
    pointers = {"values": "*i16", "metadata": "*u8", "x": "*i16", "eta_out": "*fp32", "v_out": "*fp32"}
    pointers |= {"vector": "*fp32"} if vector else {}
    pointers |= {"table": "*i32"} if format.encoding.name == "combinatorial" else {}
    more = ", times a vector" * vector + f", {shift} shift" * (shift != "none") + ", variance" * variance
    return Subject(
        f"prune {_said(format)} fp16{more}",
        prune.prune_kernel,
        pointers,
        {"constant": "fp32", "k": "i32:16", "n_groups": "i32:16"},
        made,
        warps,
        elems=made["GROUPS"] * made["M"] // (warps * WARP_THREADS),
    )


def _controls() -> list[Subject]:
    # They show what the compiler makes of plain code, as a scale for the others.
    block = {"BLOCK": controls.COPY_WORDS}
    return [
        *(
            Subject(
                name, kernel, {"source": "*i32", target: "*i32"}, {"words": "i32:16"}, block, controls.WARPS
            )
            for name, kernel, target in (
                ("copy", controls.copy_kernel, "target"),
                ("read", controls.read_kernel, "sums"),
            )
        ),
        Subject(
            "dense gemv fp16, 1 token",
            controls.dense_kernel,
            {"weight": "*i16", "x": "*i16", "y": "*i16", "parts": "*fp32", "counters": "*i32"},
            {"outputs": "i32:16", "k": "i32:16", "part_elems": "i32:16"},
            controls.constants(HALF, HALF, 1, HALF) | {"BIAS_KIND": "none", "SPLIT": True},
            controls.WARPS,
            options={"enable_fp_fusion": True},
        ),
    ]


def rows() -> list[Code]:
    """Inspect every subject for every architecture."""
    return [inspect(subject, architecture) for subject in subjects() for architecture in ARCHITECTURES]


def main(arguments: list[str]) -> int:
    """Write the table of all subjects to a file, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m kernels.compiled.subjects", description=__doc__)
    parser.add_argument("file", type=Path, help="JSON file to write, docs/reference/sass.json for the page")
    path = parser.parse_args(arguments).file
    try:
        with claimed(Output(path, suffixes=(".json",)), force=True), new_file(path, force=True) as stream:
            found = {"triton": triton.__version__, "rows": [asdict(row) for row in rows()]}
            stream.write((json.dumps(found, indent=1) + "\n").encode())
    except NmsimError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
