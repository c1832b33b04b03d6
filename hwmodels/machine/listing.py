"""Key numbers of a machine, and all its numbers with their sources, as plain records."""

from collections.abc import Iterator, Mapping
from typing import Any

from hwmodels.machine.spec import HardwareSpec
from nmsim.support.schema import Quantity, about, hints

SHOWN_DTYPES = ("bf16", "fp16")
"""Value types whose peak a summary shows; the first that the machine has."""


def summary(spec: HardwareSpec) -> dict[str, Any]:
    """Take the key numbers of a machine.

    Parameters
    ----------
    spec : HardwareSpec

    Returns
    -------
    dict
        `id`, `name`, `family`, `hypothetical`, and numbers in the units of their names. Peaks are of 16-bit values, None if
        the machine has none. The patterns are those of its sparse units.

    Examples
    --------
    >>> import hwmodels
    >>> summary(hwmodels.load_machine("h200"))["native_patterns"]
    ['2:4']
    """
    numbers = ("cores", "clock_hz", "dram_bandwidth_bytes_per_s", "dram_capacity_bytes")
    return {
        **{name: getattr(spec, name) for name in ("id", "name", "family", "hypothetical")},
        **{name: getattr(spec, name).value for name in numbers},
        **{name: _peak(getattr(spec, name)) for name in ("dense_peak_flop_per_s", "sparse_peak_flop_per_s")},
        "native_patterns": list(dict.fromkeys(str(unit.pattern) for unit in spec.native)),
    }


def _peak(peaks: Mapping[str, Quantity]) -> float | None:
    return next((float(peaks[dtype].value) for dtype in SHOWN_DTYPES if dtype in peaks), None)


def numbers_of(spec: HardwareSpec) -> list[dict[str, Any]]:
    """List all numbers of a machine: dotted key, value, unit, kind of knowledge, source.

    Parameters
    ----------
    spec : HardwareSpec

    Returns
    -------
    list of dict
        `key`, `value`, `unit`, `kind`, `source`; keys as in the file of the machine.
    """
    return [
        {"key": key, **{name: getattr(number, name) for name in ("value", "unit", "kind", "source")}}
        for key, number in _numbers(spec, "")
    ]


def _numbers(part: Any, prefix: str) -> Iterator[tuple[str, Quantity]]:
    """Numbers of a record and of the tables in it."""
    for name in hints(type(part)):
        section, value = about(type(part), name).section, getattr(part, name)
        key = f"{prefix}{section}{'.' if section else ''}{name}"
        if isinstance(value, Quantity):
            yield key, value
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{entry}", number) for entry, number in value.items())
        elif isinstance(value, tuple) and value and not isinstance(value[0], str):
            for place, entry in enumerate(value):
                yield from _numbers(entry, f"{key}[{place}].")
