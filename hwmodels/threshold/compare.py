"""Pruned models beside the dense models that cost as little: all thresholds of each, as records and in words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwmodels.machine.spec import HardwareSpec
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.threshold.equal import Threshold, equal_energy, equal_memory, equal_time
from hwmodels.threshold.footprint import Footprint, footprint, stacked
from hwmodels.threshold.quantised import NARROWEST_BITS, QuantisedDense, equal_value_bits, quantised_dense
from hwmodels.threshold.stored import SCALED_BELOW_BITS, Stored
from hwmodels.threshold.widths import hidden_of
from hwmodels.threshold.words import statement
from hwmodels.workload import Model
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern

NONE = "none"
COLUMNS = "columns:"
ENDS = ("equal", "low", "high", "best_case")


@dataclass(frozen=True)
class Comparison:
    """One pruned model on one machine and one core, if any. A threshold is None if it is not known.

    `narrow` are dense models of narrow values. `missing` has sense, place and reason of thresholds that were asked for.
    """

    model: str
    how: Stored
    stored: Footprint
    dense: Footprint
    hardware: str | None
    core: str | None
    tokens: int
    memory: Threshold
    time: Threshold | None
    energy: Threshold | None
    narrow: tuple[QuantisedDense, ...]
    missing: tuple[tuple[str, str, str], ...]

    @property
    def linear_share(self) -> float:
        """Bytes of the pruned layers over those of the dense ones."""
        return self.stored.pruned_bytes / self.dense.pruned_bytes

    def statement(self, others: "Sequence[Comparison]" = ()) -> str:
        """What the pruned model has to beat, in words; on other machines too, if rows of it are given."""
        rows = (self, *others)
        costs = [(self.memory, ""), *((row.time, row.hardware) for row in rows), (self.energy, self.core)]
        known = [(each, where or "") for each, where in costs if each is not None]
        missing = dict.fromkeys(problem for row in rows for problem in row.missing)
        most_bytes, own_bits = self.stored.total_bytes, VALUE_BITS[self.how.dtype]
        smaller = [
            each for each in self.narrow if each.total_bytes <= most_bytes and each.value_bits < own_bits
        ]
        return statement(known, smaller, list(missing))

    def record(self) -> dict[str, Any]:
        """All of it, flat."""
        fields: dict[str, Any] = {
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
            fields |= {f"pruned_{sense}_{unit}": cost, f"dense_{sense}_{unit}": of_dense}
            for end in ENDS[: {"memory": 1, "time": 4, "energy": 3}[sense]]:
                equal = getattr(threshold, end) if threshold else None
                name = sense if end == "equal" else f"{sense}_{end}"
                fields[f"{name}_width"] = equal.width if equal else None
                fields[f"{name}_hidden_elems"] = equal.hidden_elems if equal else None
                fields[f"{name}_params_elems"] = equal.params_elems if equal else None
        fields["time_extrapolates"] = self.time.extrapolates if self.time else None
        return fields | {"statement": self.statement()}


def compare(
    model: Model,
    ways: Sequence[Stored],
    machines: Sequence[HardwareSpec],
    core: SparseTensorCore | None,
    *,
    tokens: int = 1,
    step_elems: int = 16,
    narrow_bits: Sequence[int] = (),
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[Comparison], dict[str | None, list[QuantisedDense]]]:
    """Find the thresholds of a model stored in several ways, on several machines.

    Parameters
    ----------
    model : Model
    ways : sequence of Stored
    machines : sequence of HardwareSpec
        Empty: memory and energy alone.
    core : SparseTensorCore or None
        Its energy counts.
    tokens : int
        Sequences decoded together.
    step_elems : int
        Widths of dense models are multiples of this.
    narrow_bits : sequence of int
        Bits of the values of dense models to compare with.
    progress : callable, optional
        Receives the way and the share done.

    Returns
    -------
    tuple of list and dict
        A `Comparison` per machine and way; and the dense models of narrow values by machine id.

    Raises
    ------
    RowError
        A step above the hidden size, or more columns than a layer has.
    """
    hidden = hidden_of(stacked(model))
    if step_elems > hidden:
        raise RowError(f"--step {step_elems}: expected at most the hidden size of {model.name}, {hidden}")
    for how in ways:
        for layer in model.layers:
            if layer.pruned and how.columns > layer.K:
                raise RowError(
                    f"--outliers {how.beside}: expected at most the in features of {layer.name}, {layer.K}"
                )
    rows: list[Comparison] = []
    narrow: dict[str | None, list[QuantisedDense]] = {}
    places: Sequence[HardwareSpec | None] = machines or [None]
    asked = [(machine, how) for machine in places for how in ways]
    for place, (machine, how) in enumerate(asked):
        name = machine.id if machine else None
        if name not in narrow:
            narrow[name] = [
                quantised_dense(model, ways[0], bits, machine, core, tokens) for bits in narrow_bits
            ]
        if progress is not None:
            progress(label(how), place / len(asked))
        rows.append(_comparison(model, how, machine, core, tokens, step_elems, narrow[name]))
    return rows, narrow


def _comparison(
    model: Model,
    how: Stored,
    machine: HardwareSpec | None,
    core: SparseTensorCore | None,
    tokens: int,
    step_elems: int,
    narrow: list[QuantisedDense],
) -> Comparison:
    """All three thresholds of one pruned model, and why one that was asked for is missing."""
    costs: dict[str, Threshold] = {}
    missing: list[tuple[str, str, str]] = []
    places: tuple[tuple[str, Callable[..., Threshold], Any], ...] = (
        ("time", equal_time, machine),
        ("energy", equal_energy, core),
    )
    for sense, equal, where in places:
        if where is None:
            continue
        try:
            costs[sense] = equal(model, how, where, tokens=tokens, step_elems=step_elems)
        except NmsimError as error:
            missing.append((sense, where.id, str(error)))
    return Comparison(
        model=model.name,
        how=how,
        stored=footprint(model, how),
        dense=footprint(model, how.dense()),
        hardware=machine.id if machine else None,
        core=core.id if core else None,
        tokens=tokens,
        memory=equal_memory(model, how, step_elems=step_elems),
        time=costs.get("time"),
        energy=costs.get("energy"),
        narrow=tuple(narrow),
        missing=tuple(missing),
    )


def problems(rows: Sequence[Comparison]) -> list[str]:
    """A sentence for each reason why a threshold is missing, with the ways to store that it is about unless all are."""
    about: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        for problem in row.missing:
            about.setdefault(problem, {})[label(row.how)] = None
    ways = {label(row.how) for row in rows}
    return [
        f"no {sense} on {where}{'' if labels.keys() == ways else ' of ' + ', '.join(labels)}: {reason}"
        for (sense, where, reason), labels in about.items()
    ]


def narrow_bits(words: Iterable[str]) -> list[int]:
    """Read bits of narrow values.

    Raises
    ------
    RowError
        A word that is not a whole number of such bits.
    """
    most = SCALED_BELOW_BITS - 1
    numbers = []
    for word in words:
        if not (word.isascii() and word.isdigit() and NARROWEST_BITS <= int(word) <= most):
            raise RowError(
                f"--quantised {word!r}: expected bits of a value, {NARROWEST_BITS} to {most}, such as 8,4,3"
            )
        numbers.append(int(word))
    return numbers


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


def label(how: Stored) -> str:
    """Name a way to store a model: pattern, encoding, and what lies beside."""
    return f"{how.pattern} {how.encoding}" + ("" if how.beside == NONE else f" with {how.beside}")
