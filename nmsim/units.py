"""Exact integer helpers, and the unit suffixes that every number in code, TOML and CSV carries in its name."""

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
    "_groups_per_s": "group per second",
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
