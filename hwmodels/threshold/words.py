"""What a pruned model has to beat, in words."""

from collections.abc import Sequence

from hwmodels.threshold.equal import Threshold
from hwmodels.threshold.quantised import QuantisedDense

AS = {"memory": "as small", "time": "as fast", "energy": "as frugal"}
COUNTS = {1: "it", 2: "both", 3: "all three"}


def statement(found: Sequence[tuple[Threshold, str]], smaller: Sequence[QuantisedDense] = ()) -> str:
    """Say in a sentence or two which dense models a pruned one has to beat.

    Parameters
    ----------
    found : sequence of (Threshold, str)
        Each with the machine or core that it holds on, empty for memory.
    smaller : sequence of QuantisedDense
        Dense models of narrow values that are no larger than the pruned one.

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
    beaten: list[str] = []
    lost: list[str] = []
    for threshold, where in found:
        equal, low, high = threshold.equal, threshold.low, threshold.high
        where = f" on {where}" if where else ""
        if equal.width >= 1:
            lost.append(f" The unpruned model is {AS[threshold.sense]}{where}.")
            continue
        who, verb = ("one of", "") if beaten else ("A dense model of", " is")
        text = f"{who} {billions(equal.params_elems)} B parameters{verb} {AS[threshold.sense]}{where}"
        if low is not None and high is not None and low.width < high.width:
            text += f" ({billions(low.params_elems)} to {billions(high.params_elems)} B)"
        beaten.append(text)
    text = ""
    if beaten:
        text = f"{'; '.join(beaten)}: the pruned model has to beat {COUNTS.get(len(beaten), 'all of them')}."
    text = f"{text}{''.join(lost)}".strip()
    if smaller:
        widest = max(smaller, key=lambda each: each.value_bits)
        text += (
            f" It also has to beat dense values of {widest.value_bits} bits "
            f"({widest.bits_per_element:.4g} bits an element with scales), which take no more memory."
        )
    return text


def billions(elems: int) -> str:
    """Parameters in billions, or in smaller units where they are fewer than a hundredth of one.

    Examples
    --------
    >>> billions(8_029_995_008), billions(4_500_000)
    ('8.03', '0.0045')
    """
    count = elems / 1e9
    return f"{count:.2f}" if count >= 0.1 else f"{count:.2g}"
