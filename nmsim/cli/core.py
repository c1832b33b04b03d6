"""`nmsim core`: one product on sparse tensor cores that somebody may build, stage by stage."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from nmsim.case import Case, GemmShape
from nmsim.cli import console
from nmsim.cli.core_rows import DENSE, record, show
from nmsim.cli.predict import read_shape
from nmsim.cli.progress import share_bar
from nmsim.errors import NmsimError, SpecError
from nmsim.files import atomic
from nmsim.format import as_format
from nmsim.pattern import Pattern

if TYPE_CHECKING:
    from hwmodels import SparseTensorCore

FLOATS = ("float", "bfloat")
"""What the names of floating-point dtypes begin with, those of eight bits and fewer included."""


def core(
    shape: Annotated[
        str | None,
        typer.Argument(
            help="M,N,K: tokens, out features, in features, such as 1,4096,4096.", metavar="M,N,K"
        ),
    ] = None,
    cores: Annotated[
        list[str] | None,
        typer.Option("--core", "--cores", "-c", help="Cores by name, or .toml files. Default flexible-8x16."),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", "--patterns", "-p", help="Patterns N:M, or dense. Default 2:4,4:8,8:16."),
    ] = None,
    encoding: Annotated[
        list[str] | None, typer.Option("--encoding", "--encodings", "-e", help="Encodings. Default bitmask.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option("--other", help="Pattern of the other operand, on a dual-sided core, or dense."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Value type. Default: the first that the core takes.")
    ] = None,
    sparse_operand: Annotated[str, typer.Option(help="weights or activations.")] = "weights",
    packing: Annotated[
        str, typer.Option(help="bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    simulated: Annotated[
        bool, typer.Option("--simulate", help="Simulate too, on masks drawn at random or those of --weights.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", "-w", help="Safetensors checkpoint whose weights are pruned for --simulate."
        ),
    ] = None,
    tensor: Annotated[str | None, typer.Option("--tensor", "-t", help="Its tensor [N, K] to take.")] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write the core as a .toml file to edit, and do nothing else."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace an existing file of --write.")
    ] = False,
    names: Annotated[
        bool, typer.Option("--list", help="List the cores that ship, and do nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict the cycles of Y[M,N] = X[M,K] W[N,K]^T on sparse tensor cores, with the stage that limits them.

    Cycles are those of a closed form of the pipeline from DRAM to the sums, a lower bound of the cycles of
    --simulate. With --other they are no bound. Energy is a nominal figure with its range. These cores are designs that nobody
    sells.
    """
    import hwmodels

    if names:
        _list(as_json)
        return
    machines = [hwmodels.load_core(name) for name in console.split_names(cores or ["flexible-8x16"], "core")]
    if write is not None:
        _write(machines, write, force)
        return
    if shape is None:
        raise SpecError("no shape given: expected M,N,K, such as nmsim core 1,4096,4096")
    if tensor is not None and weights is None:
        raise NmsimError(f"--tensor {tensor}: expected --weights with the checkpoint it is in")
    if weights is not None and not simulated:
        raise NmsimError("--weights: only a simulation looks at masks; expected --simulate as well")
    if weights is not None and sparse_operand != "weights":
        raise NmsimError(f"--weights: expected sparse weights, got sparse {sparse_operand}")
    gemm = _bounded(read_shape(shape))
    second = None if other in (None, DENSE) else Pattern.parse(other)
    values = _values(weights, tensor) if weights is not None else None
    cases = [
        (
            machine,
            Case(
                gemm,
                as_format(None if text == DENSE else Pattern.parse(text), encoding=name, packing=packing),
                dtype=dtype or machine.dtypes[0],
                sparse_operand=sparse_operand,  # type: ignore[arg-type]
            ),
        )
        for machine in machines
        for text in console.split_names(pattern or ["2:4", "4:8", "8:16"], "pattern")
        for name in console.split_names(encoding or ["bitmask"], "encoding")[: 1 if text == DENSE else None]
    ]
    records, taken = _predicted(cases, second)
    if not taken:
        raise NmsimError("nothing left to predict: expected a pattern and an encoding that a core takes")
    if simulated:
        with share_bar() as tell:
            for place, (machine, case) in enumerate(taken):
                name = f"{case.pattern or DENSE} on {machine.id}"
                records[place] |= _simulate(
                    machine,
                    case,
                    second,
                    values,
                    lambda share, place=place, name=name: tell(name, (place + share) / len(taken)),
                )
    if as_json:
        console.print_json(records)
        return
    beside = f", other operand {second}" if second else ""
    title = f"M={gemm.M}, N={gemm.N}, K={gemm.K}, sparse {sparse_operand}{beside}"
    show(records, title, bound=second is None)


def _predicted(
    cases: list[tuple["SparseTensorCore", Case]], other: Pattern | None
) -> tuple[list[dict[str, Any]], list[tuple["SparseTensorCore", Case]]]:
    """Records of the cases that their cores take, and these cases; why others are left out goes to standard error."""
    records, taken = [], []
    left_out: dict[tuple[str, str, str], list[str]] = {}
    problems: dict[str, None] = {}
    for machine, case in cases:
        try:
            if other is not None and case.pattern is None:
                raise NmsimError(f"pattern {DENSE}: expected a pattern N:M beside --other {other}")
            found, problem = record(machine, case, other)
        except NmsimError as error:
            if len(cases) == 1:
                raise
            patterns = left_out.setdefault(
                (machine.id, case.format.encoding.name if case.format else "", str(error)), []
            )
            patterns += [str(case.pattern)] if case.pattern else []
            continue
        records.append(found)
        taken.append((machine, case))
        if problem:
            problems[problem] = None
    for (_, _, text), patterns in left_out.items():
        whose = f" for {', '.join(patterns)}" if patterns else ""
        _warn(f"left out{whose}: {text}")
    for problem in problems:
        _warn(f"no energy: {problem}")
    return records, taken


def _warn(text: str) -> None:
    console.err.print(text, highlight=False, markup=False)


def _bounded(shape: GemmShape) -> GemmShape:
    """The shape as it is, if byte counts of it stay whole numbers that a machine has."""
    from hwmodels.estimate.table import MAX_DIMENSION

    for name, value in asdict(shape).items():
        if value > MAX_DIMENSION:
            raise SpecError(f"shape {name}={value}: expected at most {MAX_DIMENSION}")
    return shape


def _values(weights: Path, tensor: str | None) -> NDArray[Any]:
    """The tensor whose mask is simulated."""
    from nmsim.files.reader import RawTensor
    from nmsim.files.sharded import open_checkpoint

    with open_checkpoint(weights) as checkpoint:
        some = ", ".join(checkpoint.names[:6])
        if tensor is None:
            raise NmsimError(f"--weights: expected --tensor as well, one of {some}")
        for file in checkpoint.files:
            if tensor in file.tensors:
                values = file.array(tensor)
                break
        else:
            raise NmsimError(
                f"--tensor {tensor}: not in {weights}; expected one of its names, such as {some}"
            )
    if isinstance(values, RawTensor) or values.ndim != 2 or not values.dtype.name.startswith(FLOATS):
        raise NmsimError(
            f"--tensor {tensor}: expected a matrix of floating-point numbers [N, K], got {values.dtype} "
            f"{list(values.shape)}"
        )
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise NmsimError(
            f"--tensor {tensor}: {bad} of {values.size} values are infinite or no number, expected finite ones"
        )
    return values


def _simulate(
    machine: "SparseTensorCore", case: Case, other: Pattern | None, values: Any, progress: Any
) -> dict[str, Any]:
    import hwmodels
    from nmsim import prune

    mask = prune(values, case.pattern) if values is not None and case.pattern is not None else None
    seen = hwmodels.simulate(case, machine, mask=mask, other=other, progress=progress)
    return {
        "simulated_cycles": seen.cycles,
        "simulated_busy_cycles": seen.busy_cycles,
        "simulated_effectual_macs": seen.effectual_macs,
        "simulated_events": seen.events,
    }


def _write(machines: list["SparseTensorCore"], path: Path, force: bool) -> None:
    from nmsim.support.schema import to_toml

    if len(machines) != 1:
        raise NmsimError(f"--write: expected one core, got {len(machines)}")
    if path.suffix != ".toml":
        raise NmsimError(f"--write {path}: expected a name that ends in .toml")
    with atomic.new_file(path, force=force) as file:
        file.write(to_toml(machines[0]).encode())
    console.out.print(f"wrote {path}", highlight=False)


def _list(as_json: bool) -> None:
    import hwmodels

    found = [hwmodels.load_core(name) for name in hwmodels.core_names()]
    if as_json:
        console.print_json([{"id": core.id, "name": core.name} for core in found])
        return
    console.print_table(
        "Tensor cores",
        ["core", "name", "patterns", "encodings", "cores", "multiply-adds a cycle"],
        [
            (
                core.id,
                core.name,
                ", ".join(map(str, core.patterns)) or DENSE,
                ", ".join(core.encodings) if core.patterns else "",
                core.cores,
                core.cores * core.array_rows * core.array_cols * core.array_depth,
            )
            for core in found
        ],
        note="Multiply-adds of values as wide as a lane: 16 bits, 8 on the edge chip.",
    )
