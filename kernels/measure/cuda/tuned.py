"""Write the fastest measured configurations of kernels as files that launchers read.

``python -m kernels.measure.cuda.tuned rows.csv`` reads rows of the campaign `cuda-tuning` and writes a JSON file per device.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kernels.gpu.tuned import CASE, KERNELS, VERSION, Case, Tuned, path_of
from kernels.stored.errors import KernelError
from nmsim import rows as row_files
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file
from nmsim.rows import Measurement

_NAMED = re.compile(r"(?P<kernel>[a-z_.]+)\[(?P<options>[a-z_]+=\d+(,[a-z_]+=\d+)*)\]")
DENSE_FIRST = "gpu.unpack_mm"
"""The kernel that makes weights dense before it multiplies, the rival of `gpu.gemm_small`."""


def from_rows(rows: Iterable[Measurement]) -> list[Tuned]:
    """Find the fastest configuration per device, kernel and case.

    Rows that are void, and those of several versions on one device, are no ground for a choice.

    Raises
    ------
    KernelError
        Rows of one device that name several versions of Triton or of a kernel's sources, or none.
    """
    # A row without options is what the launcher chose by itself: a case that it wins needs no entry.
    by_device: dict[str, list[tuple[Measurement, str, dict[str, int]]]] = {}
    for row in rows:
        found = _NAMED.fullmatch(row.kernel)
        kernel = found["kernel"] if found else row.kernel
        if kernel not in (*KERNELS, DENSE_FIRST) or row.mark or row.sparse_time_s is None:
            continue
        options = dict(part.split("=") for part in found["options"].split(",")) if found else {}
        by_device.setdefault(row.device, []).append(
            (row, kernel, {name: int(value) for name, value in options.items()})
        )
    tuned = []
    for device, measured in by_device.items():
        best: dict[Case, tuple[float, dict[str, int]]] = {}
        for row, kernel, numbers in measured:
            case = (kernel, f"{row.pattern}/{row.encoding}", row.dtype, row.M, row.N, row.K)
            assert row.sparse_time_s is not None, "others were left out"
            if case not in best or row.sparse_time_s < best[case][0]:
                best[case] = (row.sparse_time_s, numbers)
        sources = {
            kernel: _one(f"{device}: sources of {kernel}", {row.kernel_sources for row, of, _ in measured if of == kernel})
            for kernel in dict.fromkeys(of for _, of, _ in measured if of in KERNELS)
        }  # fmt: skip
        triton = _one(f"{device}: triton", {row.triton for row, _, _ in measured})
        choices = {case: numbers for case, (_, numbers) in best.items() if numbers and case[0] in KERNELS}
        choices |= _thresholds({case: time_s for case, (time_s, _) in best.items()})
        if any(case[0] == "gpu.gemm" for case in choices):
            sources["gpu.gemm"] = sources["gpu.gemm_small"]
        tuned.append(Tuned(device, triton, sources, choices))
    return tuned


def _thresholds(times_s: dict[Case, float]) -> dict[Case, dict[str, int]]:
    """From how many tokens on dense weights were faster, and stayed so; nothing for a shape with one call alone."""
    by_shape: dict[tuple[str, str, int, int], dict[int, bool]] = {}
    for (kernel, form, dtype, tokens, *shape), time_s in times_s.items():
        rival_s = times_s.get((DENSE_FIRST, form, dtype, tokens, shape[0], shape[1]))
        if kernel == "gpu.gemm_small" and rival_s is not None:
            by_shape.setdefault((form, dtype, shape[0], shape[1]), {})[tokens] = rival_s < time_s
    found: dict[Case, dict[str, int]] = {}
    for (form, dtype, outputs, inputs), dense_wins in by_shape.items():
        first = None
        for tokens in sorted(dense_wins, reverse=True):
            if not dense_wins[tokens]:
                break
            first = tokens
        if first is not None:
            found["gpu.gemm", form, dtype, 1, outputs, inputs] = {"dense_tokens": first}
    return found


def _one(what: str, values: set[str]) -> str:
    if len(values) != 1 or "" in values:
        raise KernelError(f"{what}: rows name {', '.join(sorted(map(repr, values)))}: expected one version")
    return values.pop()


def write(tuned: Tuned, path: Path) -> None:
    """Write a file at once as a whole, over an earlier one.

    Raises
    ------
    ContainerError
        It cannot be written.
    """
    document = {
        "version": VERSION,
        "device": tuned.device,
        "triton": tuned.triton,
        "sources": dict(tuned.sources),
        "configurations": [
            dict(zip(CASE, case, strict=True)) | {"options": dict(options)}
            for case, options in tuned.options.items()
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, force=True) as stream:
        stream.write((json.dumps(document, indent=1) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files of all devices in some rows, and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m kernels.measure.cuda.tuned", description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+", help="CSV files of nmsim measure cuda-tuning")
    asked = parser.parse_args(arguments)
    try:
        found = from_rows(row for path in asked.rows for row in row_files.read(path))
        if not found:
            raise KernelError(
                f"no rows of {' or '.join(KERNELS)}: expected those of the campaign cuda-tuning"
            )
        for tuned in found:
            path = path_of(tuned.device)
            write(tuned, path)
            print(f"{path}: {len(tuned.options)} configurations of {tuned.device}")
    except NmsimError as error:
        print(f"tuned: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
