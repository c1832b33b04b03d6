"""Pruned models beside the dense models that cost as little: all thresholds of each, as records and in words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwmodels.chips.load import Chip
from hwmodels.models import Model
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.threshold.equal import (
    NARROWEST_BITS,
    SAME,
    QuantisedDense,
    Threshold,
    equal_energy,
    equal_memory,
    equal_time,
    equal_value_bits,
    hidden_of,
    quantised_dense,
)
from hwmodels.threshold.footprint import (
    NONE,
    OUTLIER_ENCODING,
    SCALED_BELOW_BITS,
    Footprint,
    ModelFormat,
    footprint,
    stacked,
)
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError, brief
from nmsim.format import sparse_format
from nmsim.units import percent

AS = {"memory": "as small", "time": "as fast", "energy": "as frugal"}
LESS = {"memory": ("smaller", "bytes"), "time": ("faster", "time"), "energy": ("more frugal", "energy")}
"""Sense -> what the unpruned model is if it costs less, and what it takes less of."""
UNITS = {"B": 1e9, "M": 1e6}
"""Unit of parameters -> how many it stands for."""
COUNTS = {1: "it", 2: "both", 3: "all three"}


def statement(
    found: Sequence[tuple[Threshold, str]],
    smaller: Sequence[QuantisedDense] = (),
    missing: Sequence[tuple[str, str, str]] = (),
) -> str:
    """Say in a sentence or two which dense models a pruned one has to beat.

    Parameters
    ----------
    found : sequence of (Threshold, str)
        Each with the machine or core that it holds on, empty for memory.
    smaller : sequence of QuantisedDense
        Dense models of narrow values that are no larger than the pruned one.
    missing : sequence of (str, str, str)
        Sense, machine or core, and reason of each threshold that was asked for and not found.

    Returns
    -------
    str

    Examples
    --------
    >>> from hwmodels.threshold import ModelFormat, equal_memory
    >>> from hwmodels.models import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> print(statement([(equal_memory(load_model("llama-3.1-8b"), how), "")]))
    A dense model of 4.90 B parameters is as small: the pruned model has to beat it.
    """
    ends = [each for threshold, _ in found for each in (threshold.equal, threshold.low, threshold.high)]
    unit = params_unit(each.params_elems for each in ends if each)
    beaten: list[str] = []
    lost: list[str] = []
    for threshold, where in found:
        where = f" on {where}" if where else ""
        # Here pruning costs more than it saves, so the sentence is about the unpruned model.
        if threshold.share * SAME >= 1:
            lost.append(_unpruned(threshold, where))
            continue
        who, verb = ("one of", "") if beaten else ("A dense model of", " is")
        text = f"{who} {in_unit(threshold.equal.params_elems, unit)} {unit} parameters{verb} {AS[threshold.sense]}{where}"
        ends_text = span(threshold, unit, " to ", "up to ")
        beaten.append(f"{text} ({ends_text} {unit})" if ends_text else text)
    text = ""
    if beaten:
        text = f"{'; '.join(beaten)}: the pruned model has to beat {COUNTS.get(len(beaten), 'all of them')}."
    text = f"{text}{''.join(lost)}".strip()
    for sense, where, reason in missing:
        text += f" No dense model was found that is {AS[sense]} on {where}: {reason}."
    if smaller:
        widest = max(smaller, key=lambda each: each.value_bits)
        text += (
            f" It also has to beat dense values of {widest.value_bits} bits "
            f"({widest.bits_per_element:.4g} bits an element with scales), which take no more memory."
        )
    return text


def _unpruned(threshold: Threshold, where: str) -> str:
    """How the unpruned model compares if it costs no more."""
    if threshold.share <= SAME:
        return f" The unpruned model is {AS[threshold.sense]}{where}."
    less, what = LESS[threshold.sense]
    share = percent(1 / threshold.share, 1, unit="%")
    return f" The unpruned model is {less}{where} ({share} of the {what})."


def span(threshold: Threshold, unit: str, between: str, up_to: str) -> str:
    """Parameters at both ends of a threshold, empty if they are not known or the same.

    Parameters
    ----------
    threshold : Threshold
    unit : str
        Key of `UNITS`.
    between : str
        Between both ends.
    up_to : str
        Before the high end, if no dense model costs as little as the low one.
    """
    low, high = threshold.low, threshold.high
    if high is None or (low is not None and low.width >= high.width):
        return ""
    start = up_to if low is None else in_unit(low.params_elems, unit) + between
    return start + in_unit(high.params_elems, unit)


def params_unit(elems: Iterable[int]) -> str:
    """Choose one unit for numbers of parameters: billions, or millions if one of them is below a billion.

    Examples
    --------
    >>> params_unit([8_029_995_008, 4_899_000_000]), params_unit([1_235_000_000, 740_000_000])
    ('B', 'M')
    """
    return "B" if min(elems, default=0) >= UNITS["B"] else "M"


def in_unit(elems: int, unit: str) -> str:
    """Write a number of parameters in a unit.

    Examples
    --------
    >>> in_unit(8_029_995_008, "B"), in_unit(1_235_000_000, "M"), in_unit(6_710_000, "M")
    ('8.03', '1,235', '6.71')
    """
    count = elems / UNITS[unit]
    if unit == "B":
        return f"{count:.2f}"
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


COLUMNS = "columns:"
ENDS = ("equal", "low", "high", "of_bounds")


@dataclass(frozen=True)
class Comparison:
    """One pruned model on one machine and one core, if any. A threshold is None if it is not known.

    `narrow` are dense models of narrow values. `missing` has sense, place and reason of thresholds that were asked for.
    """

    model: str
    how: ModelFormat
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
    context_tokens: int = 0

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
            **({"context_tokens": self.context_tokens} if self.context_tokens else {}),
            **self.how.row(),
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
            # Bytes are exact and have no range; energy has two ends, and time has one of bounds as well.
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
    ways: Sequence[ModelFormat],
    machines: Sequence[Chip],
    core: SparseTensorCore | None,
    *,
    tokens: int = 1,
    context_tokens: int = 0,
    kv_dtype: str | None = None,
    step_elems: int = 16,
    narrow_bits: Sequence[int] = (),
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[Comparison], dict[str | None, list[QuantisedDense]]]:
    """Find the thresholds of a model stored in several ways, on several machines.

    Parameters
    ----------
    model : Model
    ways : sequence of ModelFormat
    machines : sequence of HardwareSpec or SparseTensorCore
        Empty: memory and energy alone.
    core : SparseTensorCore or None
        Its energy counts.
    tokens : int
        Sequences decoded together.
    context_tokens, kv_dtype
        As `hwmodels.threshold.equal_time`.
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
    places: Sequence[Chip | None] = machines or [None]
    asked = [(machine, how) for machine in places for how in ways]
    attention: dict[str, Any] = {"context_tokens": context_tokens, "kv_dtype": kv_dtype}
    for place, (machine, how) in enumerate(asked):
        name = machine.id if machine else None
        if name not in narrow:
            narrow[name] = [
                quantised_dense(model, ways[0], bits, machine, core, tokens, **attention)
                for bits in narrow_bits
            ]
        if progress is not None:
            progress(label(how), place / len(asked))
        rows.append(_comparison(model, how, machine, core, tokens, attention, step_elems, narrow[name]))
    return rows, narrow


def _comparison(
    model: Model,
    how: ModelFormat,
    machine: Chip | None,
    core: SparseTensorCore | None,
    tokens: int,
    attention: dict[str, Any],
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
            more = attention if sense == "time" else {}
            costs[sense] = equal(model, how, where, tokens=tokens, step_elems=step_elems, **more)
        except NmsimError as error:
            # One missing threshold must not hide the others, so its reason is kept as text.
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
        context_tokens=attention["context_tokens"],
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
                f"--quantised {brief(word)}: expected bits of a value, {NARROWEST_BITS} to {most}, such as 8,4,3"
            )
        numbers.append(int(word))
    return numbers


def beside(text: str, encoding: str = OUTLIER_ENCODING) -> dict[str, Any]:
    """Read what is kept beside the N:M part, as `ModelFormat` takes it; `encoding` of outliers.

    Examples
    --------
    >>> beside("columns:128"), beside("8:256")["outliers"].short, beside("none")
    ({'columns': 128}, '8:256/combinatorial', {})
    """
    if text == NONE:
        return {}
    if text.startswith(COLUMNS):
        count = text.removeprefix(COLUMNS)
        if not (count.isascii() and count.isdigit() and int(count) > 0):
            raise RowError(f"--outliers {brief(text)}: expected {COLUMNS}C with a positive number of columns")
        return {"columns": int(count)}
    return {"outliers": sparse_format(text, encoding=encoding)}


def label(how: ModelFormat) -> str:
    """Name how a model is stored: pattern, encoding, and what lies beside."""
    cells = how.row()
    return f"{cells['pattern']} {cells['encoding']}" + ("" if how.beside == NONE else f" with {how.beside}")
