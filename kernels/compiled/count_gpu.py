"""Counts of the compiled GPU kernels that the cost model carries: pipes, wavefronts, round trips, programs.

`python -m kernels.compiled.count_gpu hwmodels/data/gpu_kernels.csv` writes the rows of the Triton that runs it, and keeps the
rows of other versions. `--architecture 90` counts for one GPU only. Some minutes long.
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.compiled import subjects
from kernels.compiled.pipes import ARCHITECTURES
from kernels.compiled.sass import Subject, inspect
from kernels.compiled.wavefronts import GROUP_ELEMS, WARP_THREADS, Wavefronts, wavefronts
from kernels.gpu import controls
from kernels.gpu.products import gemv, mma
from kernels.ops import compress
from kernels.stored.rows import kernel_format
from kernels.stored.shuffled import WARP_ROWS, shuffle
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file
from nmsim.files.output import Output, claimed
from nmsim.support.sources import read_text

COLUMNS = (
    *("triton", "kernel", "pattern", "encoding", "dtype", "tokens", "warps", "architecture"),
    *("program_rows", "elems", "bytes_per_elem", "registers", "programs", "pipe", "issue_cycles"),
    *("serial_trips", "wavefronts_least", "wavefronts_most", "launches"),
)
DECODE_FORMATS = tuple(
    f"{pattern}/{encoding}"
    for pattern in ("2:4", "4:8", "8:16", "16:32")
    for encoding in ("bitmask", "index")
)
TOKENS = (1, 2, 4, 8)
MMA_TOKENS = (8, 16, 32, 64)
WARPS = (4, 8, 16)
"""Of the formats that are counted in full, 8:16; the others are counted with `subjects.WARPS`."""
FULL = ("8:16/bitmask", "8:16/index")
PAGE_BYTES = 512
"""What the CUDA allocator of torch aligns to."""
RUN_ROWS, RUN_K = 64, 2048
"""Weights that the emulator multiplies with to count wavefronts."""


@dataclass(frozen=True)
class Counted:
    """A kernel that the model knows.

    Parameters
    ----------
    subject : Subject
    kernel : str
        What it does: gemv, mma, dense, prune or copy.
    pattern, encoding : str
        Empty of a kernel without a pattern.
    tokens : int
        Most tokens that it multiplies; 0 if it multiplies none.
    program_rows : int
        Rows of the dense matrix that the warps of a program share; 1 if all is one row.
    bytes_per_elem : float
        Bytes from and to memory per element of the dense matrix.
    elems : int
        Of the dense matrix that a thread takes in a turn; 0 if the subject says it.
    run : callable, optional
        Runs it on the emulator, see `wavefronts`; of a kernel without one, wavefronts are those of its loads in a row.
    """

    subject: Subject
    kernel: str
    pattern: str
    encoding: str
    tokens: int
    program_rows: int
    bytes_per_elem: float
    elems: int = 0
    run: Callable[[], int] | None = None


def counted() -> list[Counted]:
    """All kernels that the model knows: the decode GEMV for some tokens and warps, what bounds it, and pruning."""
    found = [_gemv(text, 1, subjects.WARPS) for text in DECODE_FORMATS if text not in FULL]
    found += [_gemv(text, tokens, warps) for text in FULL for tokens in TOKENS for warps in WARPS]
    found += [_mma(text, tokens) for text in FULL for tokens in MMA_TOKENS]
    named = {subject.name: subject for subject in subjects.subjects()}
    threads = controls.WARPS * WARP_THREADS
    dense_elems = controls.DENSE_ROWS * controls.DENSE_ELEMS // threads
    found.append(
        Counted(named["dense gemv fp16, 1 token"], "dense", "", "", 1, controls.DENSE_ROWS, 2.0, dense_elems)
    )
    # A word of a copy is two elements of 16 bits.
    found.append(Counted(named["copy"], "copy", "", "", 0, 1, 4.0, 2 * controls.COPY_WORDS // threads))
    for pattern in ("2:4", "4:8", "8:16", "16:32"):
        for encoding in ("bitmask", "index"):
            subject = named[f"prune {pattern} {encoding} fp16"]
            found.append(
                Counted(subject, "prune", pattern, encoding, 0, 1, 2.0 + _stored(f"{pattern}/{encoding}"))
            )
    return found


def _stored(text: str) -> float:
    """Bytes of values of 16 bits and of codes per element of the dense matrix."""
    format = kernel_format(text)
    pattern = format.pattern
    code_bits = pattern.n * (pattern.m - 1).bit_length() if format.encoding.name == "index" else pattern.m
    return (2 * pattern.n + code_bits / 8) / pattern.m


def _gemv(text: str, tokens: int, warps: int) -> Counted:
    def run() -> int:
        made = torch.Generator().manual_seed(tokens)
        weight = shuffle(compress(torch.randn(RUN_ROWS, RUN_K, generator=made).half(), text))
        weight = replace(weight, values=on_page(weight.values), metadata=on_page(weight.metadata))
        x = on_page(torch.randn(tokens, RUN_K, generator=made).half())
        gemv.launch(x, weight, x.new_empty(tokens, RUN_ROWS), warps=subjects.WARPS, n_parts=1)
        return RUN_ROWS * RUN_K

    pattern, encoding = text.split("/")
    # Parts of K are what most layers need.
    subject = subjects.gemv_subject(text, tokens, warps=warps, split_k=True)
    return Counted(subject, "gemv", pattern, encoding, tokens, WARP_ROWS, _stored(text), run=run)


def _mma(text: str, tokens: int) -> Counted:
    def run() -> int:
        made = torch.Generator().manual_seed(tokens)
        rows = mma.WARPS * WARP_ROWS
        weight = shuffle(compress(torch.randn(rows, RUN_K, generator=made).half(), text))
        weight = replace(weight, values=on_page(weight.values), metadata=on_page(weight.metadata))
        x = on_page(torch.randn(tokens, RUN_K, generator=made).half())
        mma.launch(x, weight, x.new_empty(tokens, rows), n_parts=1)
        return rows * RUN_K

    pattern, encoding = text.split("/")
    subject = subjects.mma_subject(text, tokens)
    # Each warp of a program has rows of its own.
    return Counted(subject, "mma", pattern, encoding, tokens, mma.WARPS * WARP_ROWS, _stored(text), run=run)


def on_page(tensor: Tensor) -> Tensor:
    """Copy a tensor to where a GPU's allocator would put it: the start of lines would otherwise be that of main memory."""
    room = torch.empty(tensor.nbytes + PAGE_BYTES, dtype=torch.uint8)
    start = -room.data_ptr() % PAGE_BYTES
    return room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def rows(architectures: Sequence[int] = ARCHITECTURES) -> Iterator[tuple[Any, ...]]:
    """Count every kernel for some architectures: `COLUMNS`, a row each."""
    seen: dict[tuple[str, str, str, int], Wavefronts] = {}
    for item in counted():
        subject = item.subject
        # Addresses are the same for all architectures and warps: one run counts for all.
        key = (item.kernel, item.pattern, item.encoding, item.tokens)
        if item.run and key not in seen:
            seen[key] = wavefronts(item.run, subject.kernel.fn.__name__)
        found = seen.get(key)
        for architecture in architectures:
            code = inspect(subject, architecture)
            elems = item.elems or code.loop_groups * GROUP_ELEMS or subject.elems
            pipe = max(code.cycles, key=code.cycles.__getitem__)
            # In a row, each wavefront moves 128 bytes for 32 threads.
            plain = item.bytes_per_elem * GROUP_ELEMS * WARP_THREADS / 128
            least, most = (found.least, found.most) if found else (plain, plain)
            yield (
                triton.__version__, item.kernel, item.pattern, item.encoding, "fp16", item.tokens, subject.warps,
                architecture, item.program_rows, elems, item.bytes_per_elem, code.registers, code.programs, pipe,
                code.cycles[pipe], code.serial_trips, least, most, found.launches if found else 1,
            )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write the counts to a file, as CSV."""
    parser = argparse.ArgumentParser(prog="python -m kernels.compiled.count_gpu", description=__doc__)
    parser.add_argument(
        "file", type=Path, help="CSV file to write, hwmodels/data/gpu_kernels.csv for the model"
    )
    parser.add_argument(
        "--architecture",
        type=int,
        choices=ARCHITECTURES,
        action="append",
        help="count for this one; all by default",
    )
    asked = parser.parse_args(arguments)
    path = asked.file
    try:
        kept: list[dict[str, str]] = []
        # A run knows one version of Triton: rows of others stay.
        if path.exists():
            kept = [
                row
                for row in csv.DictReader(io.StringIO(read_text(path)))
                if row["triton"] != triton.__version__
            ]
        with claimed(Output(path, suffixes=(".csv",)), force=True), new_file(path, force=True) as stream:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            made = [tuple(map(str, row)) for row in rows(asked.architecture or ARCHITECTURES)]
            listed = sorted([tuple(row[name] for name in COLUMNS) for row in kept] + made)
            writer.writerows([COLUMNS, *listed])
            stream.write(text.getvalue().encode())
    except NmsimError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
