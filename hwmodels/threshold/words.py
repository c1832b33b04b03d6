"""What a pruned model has to beat, in words."""

from collections.abc import Iterable, Sequence

from hwmodels.threshold.equal import Threshold
from hwmodels.threshold.quantised import QuantisedDense
from hwmodels.threshold.search import SAME

AS = {"memory": "as small", "time": "as fast", "energy": "as frugal"}
LESS = {"memory": ("smaller", "bytes"), "time": ("faster", "time"), "energy": ("more frugal", "energy")}
"""Sense -> what the unpruned model is where it costs less, and what it takes less of."""
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
    >>> from hwmodels.threshold import Stored, equal_memory
    >>> from hwmodels.workload import load_model
    >>> how = Stored(pattern="8:16", encoding="combinatorial")
    >>> print(statement([(equal_memory(load_model("llama-3.1-8b"), how), "")]))
    A dense model of 4.90 B parameters is as small: the pruned model has to beat it.
    """
    ends = [each for threshold, _ in found for each in (threshold.equal, threshold.low, threshold.high)]
    unit = params_unit(each.params_elems for each in ends if each)
    beaten: list[str] = []
    lost: list[str] = []
    for threshold, where in found:
        where = f" on {where}" if where else ""
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
    """How the unpruned model compares where it costs no more."""
    share = f"{1 / threshold.share:.1%}"
    if share == "100.0%":
        return f" The unpruned model is {AS[threshold.sense]}{where}."
    less, what = LESS[threshold.sense]
    return f" The unpruned model is {less}{where} ({share} of the {what})."


def span(threshold: Threshold, unit: str, between: str, up_to: str) -> str:
    """Parameters at both ends of a threshold, empty where they are not known or the same.

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
    """Choose one unit for numbers of parameters: billions, or millions where one of them is below a billion.

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
