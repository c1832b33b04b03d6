"""`nmsim core`: one product on sparse tensor cores that somebody may build, stage by stage."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.predict import read_shape
from nmsim.cli.progress import share_bar
from nmsim.errors import NmsimError, SpecError
from nmsim.files import atomic
from nmsim.pattern import Pattern
from nmsim.records import Case

if TYPE_CHECKING:
    from hwmodels import SparseTensorCore

DENSE = "dense"


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
        str | None, typer.Option("--other", help="Pattern of the other operand, on a dual-sided core.")
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
    names: Annotated[
        bool, typer.Option("--list", help="List the cores that ship, and do nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict the cycles of Y[M,N] = X[M,K] W[N,K]^T on sparse tensor cores, with the stage that limits them.

    Cycles are those of a closed form of the pipeline from DRAM to the sums, a lower bound of what --simulate sees block by
    block. Energy is a nominal figure with its range. These cores are designs: nobody sells them.
    """
    import hwmodels

    if names:
        _list(as_json)
        return
    machines = [hwmodels.load_core(name) for name in console.split_names(cores or ["flexible-8x16"], "core")]
    if write is not None:
        _write(machines, write)
        return
    if shape is None:
        raise SpecError("no shape given: expected M,N,K, such as nmsim core 1,4096,4096")
    if weights is not None and not simulated:
        raise NmsimError("--weights: only a simulation looks at masks; expected --simulate as well")
    if weights is not None and sparse_operand != "weights":
        raise NmsimError(f"--weights: expected sparse weights, got sparse {sparse_operand}")
    gemm = read_shape(shape)
    cases = [
        (
            machine,
            Case(
                gemm,
                dtype=dtype or machine.dtypes[0],
                pattern=None if text == DENSE else Pattern.parse(text),
                sparse_operand=sparse_operand,  # type: ignore[arg-type]
                encoding=name,
                packing=packing,
            ),
        )
        for machine in machines
        for text in console.split_names(pattern or ["2:4", "4:8", "8:16"], "pattern")
        for name in console.split_names(encoding or ["bitmask"], "encoding")[: 1 if text == DENSE else None]
    ]
    records, taken = [], []
    for machine, case in cases:
        try:
            records.append(_record(machine, case, other))
            taken.append((machine, case))
        except NmsimError as error:
            if len(cases) == 1:
                raise
            console.err.print(f"left out: {error}", highlight=False, markup=False)
    if not taken:
        raise NmsimError("nothing left to predict: expected a pattern and an encoding that a core takes")
    if simulated:
        values = _values(weights, tensor)
        with share_bar() as tell:
            for place, (machine, case) in enumerate(taken):
                name = f"{case.pattern or DENSE} on {machine.id}"
                records[place] |= _simulate(
                    machine,
                    case,
                    other,
                    values,
                    lambda share, place=place, name=name: tell(name, (place + share) / len(taken)),
                )
    if as_json:
        console.print_json(records)
        return
    columns = {
        "core": "core", "pattern": "pattern", "encoding": "encoding", "cycles": "cycles", "simulated_cycles": "simulated",
        "time_us": "time µs", "speedup": "speedup vs dense", "utilisation": "used", "limit": "limited by",
        "next": "next", "energy": "energy µJ", "execution": "execution",
    }  # fmt: skip
    if not simulated:
        del columns["simulated_cycles"]
    console.print_table(
        f"M={gemm.M}, N={gemm.N}, K={gemm.K}, sparse {sparse_operand}",
        list(columns.values()),
        [[_cell(record, name) for name in columns] for record in records],
        note="Against the dense product on the same core. Used: effectual multiply-adds of what all arrays could do.",
    )
    if len(records) == 1:
        console.out.print(f"{records[0]['explanation']}.", highlight=False)


def _record(machine: "SparseTensorCore", case: Case, other: str | None) -> dict[str, Any]:
    import hwmodels
    from hwmodels.silicon.energy import energy

    answer = hwmodels.predict_core(case, machine, other=other)
    used = energy(case, machine, Pattern.parse(other) if other else None).total
    found: dict[str, Any] = asdict(answer)
    del found["case"], found["mapping"]
    return {
        "core": found.pop("core"),
        **asdict(case.shape),
        "dtype": case.dtype,
        "pattern": str(case.pattern) if case.pattern else DENSE,
        "other_pattern": other,
        "sparse_operand": case.sparse_operand,
        "encoding": case.encoding,
        "packing": case.packing,
        **found,
        "mapping": {name: int(value) for name, value in answer.mapping._asdict().items()},
        "energy_joules_low": used.low,
        "energy_joules": used.nominal,
        "energy_joules_high": used.high,
    }


def _cell(record: dict[str, Any], name: str) -> str:
    if name == "time_us":
        return f"{record['time_s'] * 1e6:.4g}"
    if name == "speedup":
        return f"{record['speedup_vs_dense']:.2f}x"
    if name == "utilisation":
        return f"{record['utilisation']:.0%}"
    if name == "next":
        return _next(record)
    if name == "energy":
        ends = (record[f"energy_joules{end}"] * 1e6 for end in ("", "_low", "_high"))
        nominal, low, high = (f"{end:.3g}" for end in ends)
        return f"{nominal} ({low}-{high})"
    return str(record[name])


def _next(record: dict[str, Any]) -> str:
    """The stage that works longest after the one that limits, and its share of the cycles."""
    stages = {name: cycles for name, cycles in record["stage_cycles"].items() if name != record["limit"]}
    if stages.get("select") == record["stage_cycles"]["multiply"]:
        del stages["select"]
    name = max(stages, key=lambda stage: stages[stage])
    return f"{name} {stages[name] / record['cycles']:.0%}"


def _values(weights: Path | None, tensor: str | None) -> Any:
    """The tensor whose mask is simulated, or None."""
    if weights is None:
        if tensor is not None:
            raise NmsimError(f"--tensor {tensor}: expected --weights with the checkpoint it is in")
        return None
    from nmsim.files.reader import RawTensor
    from nmsim.files.sharded import open_checkpoint

    with open_checkpoint(weights) as checkpoint:
        for file in checkpoint.files:
            if tensor in file.tensors:
                values = file.array(tensor)
                break
        else:
            some = ", ".join(checkpoint.names[:6])
            raise NmsimError(
                f"--tensor {tensor}: not in {weights}; expected one of its names, such as {some}"
            )
    if isinstance(values, RawTensor) or values.ndim != 2:
        raise NmsimError(
            f"--tensor {tensor}: expected a matrix of numbers [N, K], got {values.dtype} {list(values.shape)}"
        )
    return values


def _simulate(
    machine: "SparseTensorCore", case: Case, other: str | None, values: Any, progress: Any
) -> dict[str, Any]:
    import hwmodels
    from nmsim import prune

    mask = prune(values, case.pattern) if values is not None and case.pattern is not None else None
    seen = hwmodels.simulate(
        case, machine, mask=mask, other=Pattern.parse(other) if other else None, progress=progress
    )
    return {
        "simulated_cycles": seen.cycles,
        "simulated_busy_cycles": seen.busy_cycles,
        "simulated_effectual_macs": seen.effectual_macs,
        "simulated_events": seen.events,
    }


def _write(machines: list["SparseTensorCore"], path: Path) -> None:
    from hwmodels.tensorcore.core_file import to_toml

    if len(machines) != 1:
        raise NmsimError(f"--write: expected one core, got {len(machines)}")
    if path.suffix != ".toml":
        raise NmsimError(f"--write {path}: expected a name that ends in .toml")
    atomic.refuse_target(path, force=False)
    with atomic.new_file(path) as file:
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
