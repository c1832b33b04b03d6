"""A hardware spec as a TOML file: the way back from `hwmodels.machine.spec.read_spec`."""

from collections.abc import Iterable, Iterator

from hwmodels.machine.cache import CACHE_NUMBERS, CacheLevel
from hwmodels.machine.native import NativeUnit
from hwmodels.machine.quantity import Quantity
from hwmodels.machine.spec import (
    HEADER,
    NUMBERS,
    OPTIONAL_NUMBERS,
    PEAKS,
    UNIT_LISTS,
    UNIT_RATES,
    HardwareSpec,
)
from hwmodels.machine.toml_table import toml_head, toml_value


def to_toml(spec: HardwareSpec, comment: str = "") -> str:
    """Write a spec as the text of a TOML file that `hwmodels.load` takes.

    Parameters
    ----------
    spec : HardwareSpec
    comment : str
        What the file begins with; one comment line a line.

    Returns
    -------
    str

    Examples
    --------
    >>> import hwmodels
    >>> to_toml(hwmodels.load("h200")).splitlines()[0]
    'id = "h200"'
    """
    return "\n".join(_lines(spec, comment)) + "\n"


def _lines(spec: HardwareSpec, comment: str) -> Iterator[str]:
    yield from toml_head(spec, HEADER, comment)
    for part, required in NUMBERS.items():
        yield from ("", f"[{part}]")
        yield from _numbers(spec, (*required, *OPTIONAL_NUMBERS[part]))
    for level in spec.cache:
        yield from (
            "",
            "[[cache]]",
            f"level = {toml_value(level.level)}",
            f"shared = {toml_value(level.shared)}",
        )
        yield from _numbers(level, CACHE_NUMBERS)
    for name in PEAKS:
        if getattr(spec, name):
            yield from ("", f"[{name}]")
            yield from (f"{dtype} = {_quantity(peak)}" for dtype, peak in getattr(spec, name).items())
    for unit in spec.native:
        yield from ("", "[[native]]", f"pattern = {toml_value(str(unit.pattern))}")
        yield from (f"{name} = {toml_value(getattr(unit, name))}" for name in (*UNIT_LISTS, "source"))
        yield from _numbers(unit, UNIT_RATES)
    yield from ("", "[weight_column_skip]")
    feature = spec.weight_column_skip
    yield from (f"{name} = {toml_value(getattr(feature, name))}" for name in ("supported", "kind", "source"))


def _numbers(of: HardwareSpec | CacheLevel | NativeUnit, names: Iterable[str]) -> Iterator[str]:
    known = ((name, getattr(of, name)) for name in names)
    return (f"{name} = {_quantity(quantity)}" for name, quantity in known if quantity is not None)


def _quantity(quantity: Quantity) -> str:
    parts = (f"{name} = {toml_value(getattr(quantity, name))}" for name in ("value", "kind", "source"))
    return f"{{ {', '.join(parts)} }}"
