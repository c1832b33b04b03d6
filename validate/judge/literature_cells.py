"""The cells of a literature table: times and rates, value types, shapes, and what the words around them say."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from nmsim.errors import RowError

SECONDS = {
    name: Decimal(f"1e{exponent}")
    for name, exponent in (("ns", -9), ("us", -6), ("µs", -6), ("μs", -6), ("ms", -3), ("s", 0))
}
FLOP_PER_S = {
    f"{prefix}{unit}": Decimal(f"1e{exponent}")
    for prefix, exponent in (("g", 9), ("t", 12), ("p", 15))
    for unit in ("flops", "flop/s", "flops/s", "ops", "op/s", "ops/s")
}
"""Operations of the **dense** product a second, whatever the kernel skips."""

MAX_COUNT = 10**9

DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32",
    "fp32": "fp32", "tf32": "tf32", "e4m3": "fp8", "e5m2": "fp8", "float8": "fp8", "fp8": "fp8", "int8": "int8",
    "w8a8": "int8", "nvfp4": "fp4", "mxfp4": "fp4", "e2m1": "fp4", "fp4": "fp4", "int4": "int4",
}  # fmt: skip
"""Words for a value type -> as nmsim writes it."""

LEAST_TIME_S, MOST_TIME_S = 1e-9, 1e6
"""What a product may take: less than a clock cycle or more than a week is a slip."""
_NUMBER = r"\d[\d,]*(?:\.\d*)?(?:e[+-]?\d{1,3})?"
_QUANTITY = re.compile(rf"~?\s*({_NUMBER})\s*([a-zµμ/]+)(?:\s*\(?dense-equivalent\)?)?", re.I)
_RESULT_TYPE = re.compile(r"(?:in )?\(?\b[a-z]+\d+\b\)? (?:out(?:put)?|accum\w*|acc|compute)\b", re.I)
_TYPE = re.compile(rf"\b({'|'.join(DTYPES)})\b", re.I)


@dataclass(frozen=True)
class Time:
    """A time in seconds, and how far it may be off as printed: one unit of its last digit."""

    time_s: float
    printed_step_s: float


def parse_time(text: str, flop: float) -> Time | None:
    """Read a time, or a rate of a product of `flop` operations; None where the cell is empty.

    Examples
    --------
    >>> parse_time("0.49 ms", 1e9).time_s, round(parse_time("250 TFLOPS dense-equivalent", 1e9).time_s, 9)
    (0.00049, 4e-06)
    """
    if not text:
        return None
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or (unit not in SECONDS and unit not in FLOP_PER_S):
        raise RowError(
            f"{text!r}: expected a time in ns, us, ms or s, a rate in GFLOPS, TFLOPS or TOPS of the dense product, "
            "or nothing"
        )
    value, step = _number(match[1]), _last_digit(match[1])
    if value <= 0:
        raise RowError(f"{text!r}: expected more than 0")
    time_s = float(value * SECONDS[unit]) if unit in SECONDS else flop / float(value * FLOP_PER_S[unit])
    if not LEAST_TIME_S <= time_s <= MOST_TIME_S:
        raise RowError(f"{text!r}: is {time_s:g} s, expected {LEAST_TIME_S:g} to {MOST_TIME_S:g} s")
    if unit in SECONDS:
        return Time(time_s, float(step * SECONDS[unit]))
    return Time(time_s, time_s * float(step / value))


def parse_speedup(text: str) -> tuple[float, float] | None:
    """Read a speedup and one unit of its last digit; None where the cell is empty.

    Examples
    --------
    >>> parse_speedup("1.52x")
    (1.52, 0.01)
    """
    if not text:
        return None
    match = re.fullmatch(rf"({_NUMBER})\s*[x×]?", text, re.I)
    if match is None or not _number(match[1]) > 0:
        raise RowError(f"{text!r}: expected one positive number, such as 1.52, or nothing")
    return float(_number(match[1])), float(_last_digit(match[1]))


def parse_count(text: str) -> int:
    """Read a dimension, which tables of floats write as 4096.0.

    Examples
    --------
    >>> parse_count("4096.0")
    4096
    """
    if not re.fullmatch(_NUMBER, text, re.I) or not 1 <= _number(text) < MAX_COUNT or _number(text) % 1:
        raise RowError(f"{text!r}: expected a whole number of at least 1")
    return int(_number(text))


def parse_dtype(text: str) -> tuple[str, str]:
    """Read the value type of the sparse product and that of the dense one.

    Examples
    --------
    >>> parse_dtype("FP32 (CUDA cores)"), parse_dtype("INT8 w+a vs FP16 dense")
    (('fp32', 'fp32'), ('int8', 'fp16'))
    """
    halves = re.split(r"\b(?:vs\.?|against)\s", text, maxsplit=1, flags=re.I)
    found = [
        sorted({DTYPES[word.lower()] for word in _TYPE.findall(_RESULT_TYPE.sub(" ", half))})
        for half in halves
    ]
    if any(len(types) != 1 for types in found):
        raise RowError(
            f"{text!r}: expected one value type for both operands ({', '.join(dict.fromkeys(DTYPES.values()))}), or "
            "'A vs B' where the dense product has another"
        )
    return found[0][0], found[-1][0]


def parse_phase(batch_phase: str, M: int) -> Literal["decode", "prefill"]:
    """Tell decode from prefill by the words, or by M where they say neither.

    Examples
    --------
    >>> parse_phase("decode/small-batch M=64", 64), parse_phase("square", 1024)
    ('decode', 'prefill')
    """
    words = batch_phase.lower()
    if "decode" in words:
        return "decode"
    return "decode" if M <= 64 and "prefill" not in words else "prefill"


def parse_l2_state(note: str) -> Literal["cold", "warm", ""]:
    """Read whether the operands had to come from DRAM.

    Examples
    --------
    >>> parse_l2_state("back-to-back timing, NO L2 flush"), parse_l2_state("L2 flushed each rep"), parse_l2_state("")
    ('warm', 'cold', '')
    """
    words = note.lower()
    if re.search(
        r"\bno l2 flush|without l2 flush|l2 not flushed|back-to-back|warm l2|\bl2 warm|hot l2", words
    ):
        return "warm"
    return "cold" if re.search(r"\bl2 (?:is )?flush|flush\w* (?:the )?l2|cold l2|\bl2 cold", words) else ""


def parse_products(batch_phase: str, note: str) -> tuple[int, int]:
    """Count the products that the times are of: sparse ones, and dense ones that both sides run.

    Training runs three products a linear, of which that of the weights' gradient stays dense. An FFN or MLP has two
    linears.

    Examples
    --------
    >>> parse_products("training MLP fwd+bwd", ""), parse_products("FFN 8192->8192->8192", ""), parse_products("", "")
    ((4, 2), (2, 0), (1, 0))
    """
    words = f"{batch_phase}; {note}".lower()
    linears = 2 if re.search(r"\b(?:ffn|mlp) (?:of two linears|fwd|\d+ ?->)", words) else 1
    training = re.search(r"fwd ?\+ ?bwd|forward ?(?:\+|and) ?backward", words) is not None
    return (2 * linears, linears) if training else (linears, 0)


def _number(digits: str) -> Decimal:
    """Read digits; a comma parts thousands, never a fraction."""
    if "," in digits and not re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?", digits):
        raise RowError(f"{digits!r}: expected a decimal point, and commas between thousands alone")
    return Decimal(digits.replace(",", ""))


def _last_digit(digits: str) -> Decimal:
    return Decimal(1).scaleb(int(_number(digits).as_tuple().exponent))
