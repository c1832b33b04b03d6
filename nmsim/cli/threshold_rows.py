"""What `nmsim threshold` prints: a record of each pruned model on each machine, the tables of all of them, sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nmsim.case import VALUE_BITS
from nmsim.cli import console
from nmsim.cli.scaled import joules_unit, short
from nmsim.errors import RowError
from nmsim.pattern import Pattern

if TYPE_CHECKING:
    from hwmodels.threshold import Footprint, QuantisedDense, Stored, Threshold

NONE = "none"
COLUMNS = "columns:"
UNKNOWN = "-"
WAY = ("pattern", "encoding", "beside")
ENDS = ("equal", "low", "high", "best_case")


@dataclass(frozen=True)
class Row:
    """One pruned model on one machine and one core, if any; a threshold is None if it is not known.

    `missing` has sense, place and reason of those that were asked for.
    """

    model: str
    how: "Stored"
    stored: "Footprint"
    dense: "Footprint"
    hardware: str | None
    core: str | None
    tokens: int
    memory: "Threshold"
    time: "Threshold | None"
    energy: "Threshold | None"
    narrow: "tuple[QuantisedDense, ...]"
    missing: tuple[tuple[str, str, str], ...]

    @property
    def linear_share(self) -> float:
        """Bytes of the pruned layers over those of the dense ones."""
        return self.stored.pruned_bytes / self.dense.pruned_bytes

    def statement(self, others: "Sequence[Row]" = ()) -> str:
        """What the pruned model has to beat, in words; on other machines too, where rows of it are given."""
        from hwmodels.threshold.words import statement

        rows = (self, *others)
        told = [(self.memory, ""), *((row.time, row.hardware) for row in rows), (self.energy, self.core)]
        found = [(each, where or "") for each, where in told if each is not None]
        missing = dict.fromkeys(problem for row in rows for problem in row.missing)
        most_bytes, own_bits = self.stored.total_bytes, VALUE_BITS[self.how.dtype]
        smaller = [
            each for each in self.narrow if each.total_bytes <= most_bytes and each.value_bits < own_bits
        ]
        return statement(found, smaller, list(missing))

    def record(self) -> dict[str, Any]:
        """All of it, flat."""
        from hwmodels.threshold import equal_value_bits

        found: dict[str, Any] = {
            "model": self.model,
            "hardware": self.hardware,
            "core": self.core,
            "tokens": self.tokens,
            **asdict(self.how),
            "pattern": str(self.how.pattern),
            "outliers": str(self.how.outliers) if self.how.outliers else None,
            **asdict(self.stored),
            "pruned_bytes": self.stored.pruned_bytes,
            "total_bytes": self.stored.total_bytes,
            "dense_total_bytes": self.dense.total_bytes,
            "bits_per_element": self.stored.bits_per_element,
            "linear_share": self.linear_share,
            "linear_params_elems": round(self.linear_share * self.stored.pruned_elems),
            "equal_value_bits": equal_value_bits(self.stored, self.how),
            "step_width": self.memory.step_width,
        }
        for sense, unit in (("memory", "bytes"), ("time", "s"), ("energy", "joules")):
            threshold = getattr(self, sense)
            cost, of_dense = (threshold.pruned_cost, threshold.dense_cost) if threshold else (None, None)
            found |= {f"pruned_{sense}_{unit}": cost, f"dense_{sense}_{unit}": of_dense}
            for end in ENDS[: {"memory": 1, "time": 4, "energy": 3}[sense]]:
                equal = getattr(threshold, end) if threshold else None
                name = sense if end == "equal" else f"{sense}_{end}"
                found[f"{name}_width"] = equal.width if equal else None
                found[f"{name}_hidden_elems"] = equal.hidden_elems if equal else None
                found[f"{name}_params_elems"] = equal.params_elems if equal else None
        found["time_extrapolates"] = self.time.extrapolates if self.time else None
        return found | {"statement": self.statement()}


def beside(text: str) -> dict[str, Any]:
    """Read what is kept beside the N:M part, as `Stored` takes it.

    Examples
    --------
    >>> beside("columns:128"), beside("8:256"), beside("none")
    ({'columns': 128}, {'outliers': Pattern(n=8, m=256)}, {})
    """
    if text == NONE:
        return {}
    if text.startswith(COLUMNS):
        count = text.removeprefix(COLUMNS)
        if not (count.isascii() and count.isdigit() and int(count) > 0):
            raise RowError(f"--outliers {text!r}: expected {COLUMNS}C with a positive number of columns")
        return {"columns": int(count)}
    return {"outliers": Pattern.parse(text)}


def label(how: "Stored") -> str:
    """Name a way to store a model: pattern, encoding, and what lies beside."""
    return f"{how.pattern} {how.encoding}" + ("" if how.beside == NONE else f" with {how.beside}")


def show(rows: Sequence[Row], narrow: "Mapping[str | None, list[QuantisedDense]]") -> None:
    """Print the tables of some rows, and a sentence or two for each."""
    from hwmodels.threshold.words import in_unit, params_unit

    first = rows[0]
    stored = [row for row in rows if row.hardware == first.hardware]
    console.print_table(
        f"Bits an element of the pruned layers of {first.model}, {first.how.dtype}",
        [*WAY, "values", "metadata", "scales", "beside it", "in all", "of dense", "as dense values of"],
        [[*_way(row), *_bits(row)] for row in stored],
        note="Packing included. The last column: bits of dense values with which a model with scales is as small.",
    )  # fmt: skip
    costs = [getattr(row, sense) for row in rows for sense in ("memory", "time", "energy")]
    ends = [getattr(cost, end) for cost in costs if cost for end in ENDS]
    unit_elems = params_unit([first.dense.params_elems, *(end.params_elems for end in ends if end)])
    scenarios = [row.energy.pruned_cost for row in rows if row.energy]
    unit, per_joule = joules_unit(scenarios)
    lines = []
    for row in stored:
        lines.append([*_way(row), *_costs(row.memory, "", "GB", 1e-9, unit_elems)])
        lines += [
            [*_way(row), *_costs(other.time, other.hardware, "ms", 1e3, unit_elems)]
            for other in rows
            if other.how == row.how and other.time
        ]
        if row.energy:
            lines.append([*_way(row), *_costs(row.energy, row.core, unit, per_joule, unit_elems)])
    console.print_table(
        f"Dense models that cost no more, {first.tokens} token{'s' if first.tokens > 1 else ''} a step",
        [*WAY, "equal", "on", "pruned", "dense", "share", "width", f"parameters {unit_elems}",
         f"range {unit_elems}", f"best case {unit_elems}"],
        lines,
        note="Width: hidden size over that of the unpruned model of "
        f"{in_unit(first.dense.params_elems, unit_elems)} {unit_elems}, in steps of {first.memory.step_width:.2g}. "
        "A ~ marks times without measured rows of that pattern.",
    )  # fmt: skip
    if any(narrow.values()):
        _show_narrow(narrow, first.core)
    for row in stored:
        others = [other for other in rows if other.how == row.how and other is not row]
        console.out.print(
            f"{label(row.how)}: {row.statement(others)}\n",
            highlight=False,
            markup=False,
        )


def _show_narrow(narrow: "Mapping[str | None, list[QuantisedDense]]", core: str | None) -> None:
    """Print the table of dense models of narrow values."""
    one = next(iter(narrow.values()))
    unit, per_joule = joules_unit(each.energy_joules for each in one if each.energy_joules)
    machines = [name for name in narrow if name]
    headings = [*(f"{name} ms" for name in machines), *([f"{core} {unit}"] if core else [])]
    console.print_table(
        "Dense models of narrow values",
        ["bits of a value", "bits an element", "GB", *headings],
        [
            [
                each.value_bits,
                f"{each.bits_per_element:.4g}",
                f"{each.total_bytes * 1e-9:.4g}",
                *(_scaled(narrow[name][place].time_s, 1e3) for name in machines),
                *([_scaled(each.energy_joules, per_joule)] if core else []),
            ]
            for place, each in enumerate(one)
        ],
        note="Products of two operands of that type; - where the machine or core has none."
        if headings
        else "",
    )


def _scaled(value: float | None, factor: float) -> str:
    return UNKNOWN if value is None else short(value * factor)


def _way(row: Row) -> list[str]:
    return [str(row.how.pattern), row.how.encoding, row.how.beside]


def _bits(row: Row) -> list[str]:
    from hwmodels.threshold import equal_value_bits

    found, elems = row.stored, row.stored.pruned_elems
    side_bytes = found.side_values_bytes + found.side_metadata_bytes
    parts = (found.values_bytes, found.metadata_bytes, found.scales_bytes, side_bytes, found.pruned_bytes)
    return [
        *(f"{8 * part / elems:.4g}" for part in parts),
        f"{row.linear_share:.1%}",
        f"{equal_value_bits(found, row.how):.4g} bits",
    ]


def _costs(threshold: "Threshold", where: str | None, unit: str, per: float, unit_elems: str) -> list[str]:
    from hwmodels.threshold.words import in_unit, span

    best = threshold.best_case
    mark = "~" if threshold.extrapolates else ""
    return [
        threshold.sense,
        where or UNKNOWN,
        f"{short(threshold.pruned_cost * per)} {unit}",
        f"{short(threshold.dense_cost * per)} {unit}",
        f"{threshold.share:.1%}",
        f"{threshold.equal.width:.3f}",
        f"{mark}{in_unit(threshold.equal.params_elems, unit_elems)}",
        span(threshold, unit_elems, "-", "up to ") or UNKNOWN,
        in_unit(best.params_elems, unit_elems) if best else UNKNOWN,
    ]
