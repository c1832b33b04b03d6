"""The answer of a study in three short paragraphs. Every number in them is computed from the tables of the study."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hwmodels.plots.labels import SPEEDUP, STAGE_NAMES, Step, at_step
from nmsim.units import percent
from validate.study.whole_model import DENSE, fastest

PAYS_FROM = 1.05
"""An estimated speedup vs dense below this counts as not paying: it is within the error of the estimate."""

LOSS_BELOW = 0.995
"""A speedup below this prints as less than 1.00."""

EXTRAPOLATES = "extrapolates"


@dataclass(frozen=True)
class Answer:
    """Three paragraphs: what is fastest, what it costs, and what does not pay."""

    best: str
    cost: str
    limits: str

    @property
    def paragraphs(self) -> tuple[str, str, str]:
        """In the order of reading."""
        return self.best, self.cost, self.limits


def answer(
    model: pd.DataFrame,
    bits: pd.DataFrame,
    *,
    model_name: str,
    dtype: str,
    names: Mapping[str, str],
    context_tokens: int = 0,
) -> Answer:
    """Say what a study has found.

    Parameters
    ----------
    model : DataFrame
        From `validate.study.whole_model.sum_layers`.
    bits : DataFrame
        From `validate.study.bits.bits_per_element`.
    model_name, dtype : str
    names : mapping of str to str
        Machine id -> its name in full.
    context_tokens : int
        Tokens that a decode step attends to; 0 if attention is not counted.

    Returns
    -------
    Answer
    """
    sparse = model[model["pattern"] != DENSE]
    operand = "weights" if (sparse["sparse_operand"] == "weights").any() else "activations"
    rows = sparse[sparse["sparse_operand"] == operand]
    steps = steps_of(rows)
    first, last = steps[0], steps[-1]
    start = at_step(rows, first)
    top = fastest(start, ["phase"]).iloc[0]
    return Answer(
        _best(start, top, f"In {in_words(first)}, pruned {operand}", f"{model_name} in {dtype}", names),
        _cost(start, top, bits) + _attention(top, context_tokens),
        _limits(sparse, rows, start, operand, last, names),
    )


def _attention(top: "pd.Series[Any]", context_tokens: int) -> str:
    """Say what attention takes of the fastest step, and what the linear layers alone would promise."""
    if "attention_share" not in top:
        return ""
    return (
        f" Attention and its cache, {context_tokens} tokens in decode, are counted as dense: there they take "
        f"{percent(top['attention_share'], 0, unit='%')} of the time. For the linear layers alone the speedup would be "
        f"{times(top['linear_speedup_vs_dense'])}."
    )


def steps_of(rows: pd.DataFrame) -> list[Step]:
    """All steps: decode batches from the least up, then prefill lengths."""
    steps = rows[["phase", "tokens"]].drop_duplicates().sort_values(["phase", "tokens"])
    return [(str(phase), int(tokens)) for phase, tokens in steps.itertuples(index=False, name=None)]


def times(speedup: float) -> str:
    """Print a speedup.

    Examples
    --------
    >>> times(1.7279)
    '1.73×'
    """
    return f"{speedup:.2f}×"


def span(speedups: "pd.Series[Any]") -> str:
    """Print the least and the greatest speedup, or one number if both print alike.

    Examples
    --------
    >>> span(pd.Series([1.561, 1.2])), span(pd.Series([1.2, 1.2001]))
    ('1.20× to 1.56×', '1.20×')
    """
    return " to ".join(dict.fromkeys((times(speedups.min()), times(speedups.max()))))


def heat(speedup: float) -> int:
    """Choose the shade of a cell: -1 for a loss, 0 if it does not pay, 1 to 4 for larger speedups.

    Examples
    --------
    >>> heat(0.9), heat(1.0), heat(1.8)
    (-1, 0, 4)
    """
    if speedup < LOSS_BELOW:
        return -1
    return sum(speedup >= edge for edge in (PAYS_FROM, 1.25, 1.5, 1.75))


def reach(row: "pd.Series[Any]") -> str:
    """Print the range of comparable measurements of an estimated speedup, or that there is none.

    Examples
    --------
    >>> row = {"predicted_speedup_low": 1.411, "predicted_speedup_high": 1.63, "extrapolates": False}
    >>> reach(pd.Series(row)), reach(pd.Series(row | {"extrapolates": True}))
    ('1.41× to 1.63×', 'extrapolates')
    """
    low, high = row["predicted_speedup_low"], row["predicted_speedup_high"]
    return EXTRAPOLATES if row["extrapolates"] or low != low else f"{times(low)} to {times(high)}"


def _reach_in_words(row: "pd.Series[Any]") -> str:
    text = reach(row)
    if text == EXTRAPOLATES:
        return f"{text}: no such kernel has been measured"
    return f"80 % of comparable measurements: {text} vs dense"


def in_words(step: Step) -> str:
    """Name a step inside a sentence.

    Examples
    --------
    >>> in_words(("decode", 1)), in_words(("prefill", 512))
    ('decode at batch 1', 'prefill of 512 tokens')
    """
    phase, tokens = step
    return f"decode at batch {tokens}" if phase == "decode" else f"prefill of {tokens} tokens"


def _best(
    start: pd.DataFrame, top: "pd.Series[Any]", subject: str, model: str, names: Mapping[str, str]
) -> str:
    """The fastest pattern, encoding and machine at the first step, and what the other machines reach."""
    # With attention, the speedup is of more than the layers that are pruned.
    counted = "all linear layers and the attention" if "attention_share" in top else "all linear layers"
    text = (
        f"{subject} bring an estimated {times(top[SPEEDUP])} vs dense ({_reach_in_words(top)}). "
        f"This holds for {counted} of {model}, with {top['pattern']} and {top['encoding']} codes on the "
        f"{names[top['hardware']]}. {STAGE_NAMES[top['limit']].capitalize()} limits the speedup to at most "
        f"{times(top['speedup_at_most'])} vs dense."
    )
    rivals = fastest(start[start["hardware"] != top["hardware"]], ["hardware"])
    if rivals.empty:
        return text
    imagined = sum(names[machine].startswith("hypothetical") for machine in rivals["hardware"])
    others = f"The other {len(rivals)} machines" if len(rivals) > 1 else "The other machine"
    others += f" ({imagined} of them hypothetical)" if imagined and len(rivals) > 1 else ""
    verb = "reach" if len(rivals) > 1 else "reaches"
    return f"{text} {others} {verb} an estimated {span(rivals[SPEEDUP])} vs dense, each with its best pattern and encoding."


def _cost(start: pd.DataFrame, top: "pd.Series[Any]", bits: pd.DataFrame) -> str:
    """Metadata and energy of the fastest way, and the patterns that keep more energy on the same machine."""
    own = _bits_of(bits, top)
    text = (
        f"Its metadata take {own['measured_metadata_bits_per_elem']:.3f} bits per weight, measured on "
        f"{_count(own['elems'])} pruned weights (entropy bound {own['entropy_bits_per_elem']:.3f})."
    )
    energy = bits.groupby("pattern", sort=False)["energy_kept"].first()
    if energy.isna().any():
        return text
    text += f" It keeps {percent(energy[top['pattern']], 1)} of the energy of these weights"
    here = start[start["hardware"] == top["hardware"]]
    rivals = fastest(here[here["pattern"].map(energy) > energy[top["pattern"]]], ["pattern"])
    if rivals.empty:
        others = energy.drop(top["pattern"])
        most = len(others) > 0 and bool((others < energy[top["pattern"]]).all())
        return text + (", more than any other pattern." if most else ".")
    rivals = rivals.iloc[rivals["pattern"].map(energy).argsort()]
    claims = _in_a_row(
        f"{row['pattern']} keeps {percent(energy[row['pattern']], 1)} at {times(row[SPEEDUP])} vs dense "
        f"({_bits_of(bits, row)['measured_metadata_bits_per_elem']:.3f} bits in {row['encoding']} codes)"
        for _, row in rivals.iterrows()
    )
    return f"{text}. On the same machine, {claims}."


def _in_a_row(parts: Iterable[str]) -> str:
    """Join phrases as a sentence does."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _limits(
    sparse: pd.DataFrame,
    rows: pd.DataFrame,
    start: pd.DataFrame,
    operand: str,
    last: Step,
    names: Mapping[str, str],
) -> str:
    """How many machines and patterns pay at the last step, activations, and the worst encoding at the first."""
    # A pair counts with its fastest encoding: a designer would choose that one.
    pairs = fastest(at_step(rows, last), ["hardware", "pattern"])
    paying = pairs[pairs[SPEEDUP] >= PAYS_FROM]
    least, head = f"{100 * (PAYS_FROM - 1):.0f} %", f"In {in_words(last)}"
    if paying.empty:
        sentences = [f"{head} none of the {_pairs(len(pairs))} gains {least} or more vs dense"]
    elif len(paying) == len(pairs):
        which = (
            "the one pair of machine and pattern pays" if len(pairs) == 1 else f"all {_pairs(len(pairs))} pay"
        )
        sentences = [f"{head} {which}, an estimated {span(pairs[SPEEDUP])} vs dense"]
    else:
        native = set(pairs.index[pairs["execution"] == "native"])
        verb = "pays" if len(paying) == 1 else "pay"
        why = ", those with a sparse unit for the pattern" if set(paying.index) == native else ""
        sentences = [
            f"{head} only {len(paying)} of {_pairs(len(pairs))} {verb}{why} "
            f"(an estimated {times(paying[SPEEDUP].max())} vs dense at best). The others gain less than {least}"
        ]
    if operand == "weights":
        sentences += _activations(sparse[sparse["sparse_operand"] == "activations"])
    worst = start.iloc[int(start[SPEEDUP].argmin())]
    if worst[SPEEDUP] < LOSS_BELOW:
        first = str(start["phase"].iloc[0]), int(start["tokens"].iloc[0])
        sentences.append(
            f"The wrong encoding loses: {worst['pattern']} with {worst['encoding']} codes on the "
            f"{names[worst['hardware']]} brings {times(worst[SPEEDUP])} vs dense in {in_words(first)}"
        )
    return ". ".join([*sentences, "All of this is an estimate, and the page shows its errors."])


def _activations(rows: pd.DataFrame) -> list[str]:
    """What to say of pruned activations in decode; nothing if they were not studied."""
    best = rows[rows["phase"] == "decode"].groupby("tokens")[SPEEDUP].max().sort_index()
    if best.empty:
        return []
    start = f"{times(best.iloc[0])} vs dense at batch {best.index[0]}"
    failing = best[best < PAYS_FROM]
    if failing.empty:
        until = f" up to batch {best.index[-1]}" if len(best) > 1 else ""
        return [f"Pruned activations, an estimated {start}, pay{until}"]
    if failing.index[0] == best.index[0]:
        return [f"Pruned activations do not pay in decode (an estimated {start})"]
    return [f"Pruned activations, an estimated {start}, stop paying at batch {failing.index[0]}"]


def _bits_of(bits: pd.DataFrame, row: "pd.Series[Any]") -> "pd.Series[Any]":
    """The bits of the pattern and encoding of a row."""
    own: pd.Series[Any] = bits[
        (bits["pattern"] == row["pattern"]) & (bits["encoding"] == row["encoding"])
    ].iloc[0]
    return own


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count != 1 else ''} of machine and pattern"


def _count(elems: float) -> str:
    return f"{elems / 1e6:.1f} million" if elems >= 1e5 else f"{elems:.0f}"
