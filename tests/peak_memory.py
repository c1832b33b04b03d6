"""Peak memory of `nmsim pack`, `unpack` and `inspect` on one large tensor, each in a fresh process.

``python tests/peak_memory.py [--mib 256] [--all]`` prints the peak over the bytes of the tensor. The peak is that of the
whole process, with Python and its libraries.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
LIMITS = {"pack": 2.0, "unpack": 2.0, "inspect": 1.5}
"""Most bytes of a process over the bytes of a tensor of 256 MiB."""
ITEM_BYTES = {"BF16": 2, "F32": 4, "I8": 1}
FORMATS = (
    "8:16/bitmask", "2:4/index", "8:16/gap", "8:16/gap:1", "8:16/combinatorial", "2:4/joint", "8:16/joint:3",
    "2:4/index/byte", "2:4/gap:1/power_of_two", "8:16/index/no_straddle:32", "32:64/bitmask",
)  # fmt: skip
SOME_FORMATS = ("8:16/bitmask", "8:16/gap:1", "2:4/joint")

RUN = """
import atexit, sys

def tell():
    # The high-water mark of this process; that of getrusage would also count the process that started it.
    lines = open("/proc/self/status").read().splitlines()
    sys.stderr.write("peak " + next(line.split()[1] for line in lines if line.startswith("VmHWM")) + "\\n")

atexit.register(tell)
from nmsim.cli import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Peak:
    """Peak memory of one command on one tensor."""

    command: str
    format: str
    axis: int
    dtype: str
    peak_bytes: int
    tensor_bytes: int

    @property
    def ratio(self) -> float:
        """Peak over the bytes of the tensor."""
        return self.peak_bytes / self.tensor_bytes

    @property
    def is_within(self) -> bool:
        """Whether the ratio keeps its limit."""
        return self.ratio <= LIMITS[self.command]


def write_source(path: Path, dtype: str, tensor_bytes: int, columns: int = 4096) -> None:
    """Write a file of one weight [rows, columns] of random numbers, a MiB at a time."""
    rows = tensor_bytes // ITEM_BYTES[dtype] // columns
    entry = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [0, tensor_bytes]}
    text = json.dumps({"fc.weight": entry}).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _ in range(0, tensor_bytes, MIB):
            numbers = rng.standard_normal(MIB // ITEM_BYTES[dtype], np.float32)
            if dtype == "BF16":
                stream.write((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes())
            else:
                stream.write(
                    numbers.tobytes() if dtype == "F32" else (40 * numbers).astype(np.int8).tobytes()
                )


def peak_bytes(*arguments: str) -> int:
    """Run a command of nmsim in a fresh process; its peak memory.

    Raises
    ------
    RuntimeError
        The command fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(f"nmsim {' '.join(arguments)}: {done.stderr[-300:]}")
    return 1024 * int(done.stderr.splitlines()[-1].split()[1])


def peaks(
    folder: Path,
    *,
    tensor_bytes: int,
    formats: tuple[str, ...],
    axes: tuple[int, ...],
    dtypes: tuple[str, ...],
) -> Iterator[Peak]:
    """Measure all three commands for each dtype, format and axis."""
    for dtype in dtypes:
        source, packed, dense = (folder / f"{name}.safetensors" for name in ("source", "packed", "dense"))
        write_source(source, dtype, tensor_bytes)
        for text, axis in itertools.product(formats, axes):
            asked = ("-p", text, "--axis", str(axis))
            commands = {
                "pack": ("pack", str(source), "-o", str(packed), *asked, "--force"),
                "unpack": ("unpack", str(packed), "-o", str(dense), "--force"),
                "inspect": ("inspect", str(source), *asked),
            }
            for command, arguments in commands.items():
                yield Peak(command, text, axis, dtype, peak_bytes(*arguments), tensor_bytes)


def main() -> int:
    """Print a line per measurement; 1 if one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the tensor, MiB")
    parser.add_argument("--all", action="store_true", help="every format and value type, not some of them")
    asked = parser.parse_args()
    worst = dict.fromkeys(LIMITS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for peak in peaks(
            Path(folder),
            tensor_bytes=asked.mib * MIB,
            formats=FORMATS if asked.all else SOME_FORMATS,
            axes=(-1, 0),
            dtypes=tuple(ITEM_BYTES) if asked.all else ("BF16",),
        ):
            worst[peak.command] = max(worst[peak.command], peak.ratio)
            print(
                f"{peak.command:8}{peak.dtype:5}{peak.format:28}axis {peak.axis:2}  {peak.peak_bytes / MIB:6.0f} MiB"
                f"  {peak.ratio:.2f}",
                flush=True,
            )
    print("worst " + ", ".join(f"{command} {ratio:.2f}" for command, ratio in worst.items()))
    return int(any(ratio > LIMITS[command] for command, ratio in worst.items()))


if __name__ == "__main__":
    sys.exit(main())
