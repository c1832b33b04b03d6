"""What `nmsim core` prints: a record of each product on each core, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nmsim.case import Case
from nmsim.cli import console
from nmsim.cli.scaled import joules_unit, short
from nmsim.errors import NmsimError
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING
from nmsim.pattern import Pattern

if TYPE_CHECKING:
    from hwmodels import SparseTensorCore

DENSE = "dense"
UNKNOWN = "-"
ENERGIES = ("energy_joules_low", "energy_joules", "energy_joules_high")
NOTE = (
    "Against the dense product on the same core. Used: effectual multiply-adds of what all arrays could do."
)
NO_BOUND = "With a second pattern the cycles are those of pairs that arrive evenly, and no bound."


def record(machine: "SparseTensorCore", case: Case, other: Pattern | None) -> tuple[dict[str, Any], str]:
    """Predict one product on one core: its record, and the reason if its energy is not known."""
    import hwmodels
    from hwmodels.silicon.energy import energy

    answer = hwmodels.predict_core(case, machine, other=other)
    try:
        used, problem = energy(case, machine, other).total, ""
    except NmsimError as error:
        used, problem = None, str(error)
    found: dict[str, Any] = asdict(answer)
    del found["case"], found["mapping"]
    return {
        "core": found.pop("core"),
        **asdict(case.shape),
        "dtype": case.dtype,
        "pattern": str(case.pattern) if case.pattern else DENSE,
        "other_pattern": str(other) if other else None,
        "sparse_operand": case.sparse_operand,
        "encoding": case.format.encoding.name if case.format else DEFAULT_ENCODING,
        "packing": str(case.format.packing) if case.format else DEFAULT_PACKING,
        **found,
        "mapping": {name: int(value) for name, value in answer.mapping._asdict().items()},
        **dict(zip(ENERGIES, (used.low, used.nominal, used.high) if used else (None,) * 3, strict=True)),
    }, problem


def show(records: Sequence[dict[str, Any]], title: str, bound: bool) -> None:
    """Print the table of some records, and the explanation of a single one."""
    known = [each["energy_joules"] for each in records if each["energy_joules"] is not None]
    unit, per_joule = joules_unit(known)
    columns = {
        "core": "core", "pattern": "pattern", "encoding": "encoding", "cycles": "cycles", "simulated_cycles": "simulated",
        "time_us": "time µs", "speedup": "speedup vs dense", "utilisation": "used", "limit": "limited by",
        "next": "next", "energy": f"energy {unit}", "execution": "execution",
    }  # fmt: skip
    if "simulated_cycles" not in records[0]:
        del columns["simulated_cycles"]
    console.print_table(
        title,
        list(columns.values()),
        [[_cell(each, name, per_joule) for name in columns] for each in records],
        note=NOTE if bound else f"{NOTE} {NO_BOUND}",
    )
    if len(records) == 1:
        console.out.print(f"{records[0]['explanation']}.", highlight=False)


def _cell(record: dict[str, Any], name: str, per_joule: float) -> str:
    if name == "time_us":
        return f"{record['time_s'] * 1e6:.4g}"
    if name == "speedup":
        return f"{record['predicted_speedup_vs_dense']:.2f}x"
    if name == "utilisation":
        return f"{record['utilisation']:.0%}"
    if name == "next":
        return _next(record)
    if name == "encoding" and record["pattern"] == DENSE:
        return UNKNOWN
    if name == "energy":
        if record["energy_joules"] is None:
            return UNKNOWN
        low, nominal, high = (short(record[end] * per_joule) for end in ENERGIES)
        return f"{nominal} ({low}-{high})"
    return str(record[name])


def _next(record: dict[str, Any]) -> str:
    """The stage that works longest after the one that limits, and its share of the cycles."""
    stages = {name: cycles for name, cycles in record["stage_cycles"].items() if name != record["limit"]}
    if stages.get("select") == record["stage_cycles"]["multiply"]:
        del stages["select"]
    name = max(stages, key=lambda stage: stages[stage])
    return f"{name} {stages[name] / record['cycles']:.0%}"
