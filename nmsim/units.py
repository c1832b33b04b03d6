"""Exact integer helpers, and the unit suffixes that every number in code, TOML and CSV carries in its name."""

from collections.abc import Iterable

UNIT_SUFFIXES = {
    "_bits": "bit",
    "_bytes": "byte",
    "_elems": "element",
    "_groups": "group",
    "_cycles": "clock cycle",
    "_s": "second",
    "_hz": "hertz",
    "_flop": "floating-point operation (a multiply-add is two)",
    "_flop_per_s": "floating-point operation per second",
    "_bytes_per_s": "byte per second",
    "_bytes_per_cycle": "byte per clock cycle",
    "_elements_per_s": "dense element per second",
    "_joules": "joule",
    "_joules_per_flop": "joule per floating-point operation",
    "_joules_per_bit": "joule per bit read, written or moved",
    "_joules_per_bit_mm": "joule per bit and millimetre",
    "_watts": "watt",
    "_um2": "square micrometre",
    "_um2_per_bit": "square micrometre per stored bit",
    "_gates": "two-input NAND equivalent",
}
"""Suffix of a name -> the unit it stands for. Base units inside; scale only when printing."""


JOULES = {"J": 1.0, "mJ": 1e3, "µJ": 1e6, "nJ": 1e9}
"""Unit -> how many of it a joule is."""


def ceil_div(numerator: int, denominator: int) -> int:
    """Divide two integers and round up.

    Examples
    --------
    >>> ceil_div(10, 4)
    3
    """
    return -(-numerator // denominator)


def bits_to_bytes(bits: int) -> int:
    """Count the bytes that hold `bits` bits.

    Examples
    --------
    >>> bits_to_bytes(9)
    2
    """
    return ceil_div(bits, 8)


def format_bytes(count_bytes: float) -> str:
    """Write a byte count with a binary prefix.

    Examples
    --------
    >>> format_bytes(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count_bytes) < 1024:
            return f"{count_bytes:.4g} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.4g} TiB"


def percent(share: float | None, digits: int = 2, *, unit: str = " %") -> str:
    """Write a share in percent. It prints as 100 % or 0 % only if it is exactly that, and as - if it is not known.

    Examples
    --------
    >>> percent(0.5), percent(1 - 1e-9), percent(1.0), percent(1e-9, 1), percent(None)
    ('50.00 %', '>99.99 %', '100 %', '<0.1 %', '-')
    """
    if share is None or share != share:
        return "-"
    if share in (0, 1):
        return f"{100 * share:.0f}{unit}"
    text, step = f"{100 * share:.{digits}f}", 10.0**-digits
    # What would round to one of the two says on which side of it the share lies.
    if float(text) == 100:
        text = f">{100 - step:.{digits}f}" if share < 1 else ">100"
    elif float(text) == 0:
        text = f"<{step:.{digits}f}" if share > 0 else f">-{step:.{digits}f}"
    return text + unit


def joules_unit(joules: Iterable[float]) -> tuple[str, float]:
    """Choose one unit for a column of energies: the largest in which the least of them is 1 or more.

    Parameters
    ----------
    joules : iterable of float
        In joules; those that are not known may be NaN.

    Returns
    -------
    tuple of str and float
        The unit, and how many of it a joule is.

    Examples
    --------
    >>> joules_unit([0.25, 0.004])
    ('mJ', 1000.0)
    """
    least = min((each for each in joules if each > 0), default=1.0)
    return next(((unit, per) for unit, per in JOULES.items() if least * per >= 1), ("nJ", JOULES["nJ"]))


def short(value: float) -> str:
    """Write a number with three digits, or all of its whole ones.

    Examples
    --------
    >>> short(0.012345), short(78.91), short(12345.6)
    ('0.0123', '78.9', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
