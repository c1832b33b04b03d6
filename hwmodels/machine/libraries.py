"""What a vendor's matrix library reaches per generation of matrix units and value type: `hwmodels/data/libraries.toml`.

A datasheet gives the peak of a unit, and not what the vendor's library makes of it. That is the share of the rate,
the wait per element of K, and whether K is split. These are properties of a generation and of the library for
it, not of one board. Each has its kind and source. A generation without a property takes it from the generation that it
names as the most like it (assumption A68).
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from nmsim.case import VALUE_BITS
from nmsim.errors import brief
from nmsim.fields import Dtype
from nmsim.support.schema import About, Number, Quantity, Text, read_record, record

LIBRARIES_FILE = Path(__file__).parents[1] / "data" / "libraries.toml"
VALUE_TYPES = tuple(VALUE_BITS)
SUBSTITUTES: Mapping[str, str] = {
    "fp16": "bf16",
    "bf16": "fp16",
    "fp4": "fp8",
    "int4": "int8",
    "tf32": "bf16",
}
"""Value type without properties of its own -> the type of the same unit whose properties it takes."""
WEAK_SHARE = 0.8
"""A dense library whose rate share is below this part of the best one of its generation is a weak baseline."""


@record
class TypeTraits:
    """What the dense and the sparse library reach with one value type."""

    rate_share: Annotated[Quantity | None, Number("ratio", "Rate of the dense library over what the estimate takes "
        "without it: near 1, above it if clocks run above the quoted one.")] = None  # fmt: skip
    sparse_rate_share: Annotated[Quantity | None, Number("ratio", "The same of the 2:4 library.")] = None
    latency_ratio: Annotated[Quantity | None, Number("ratio", "Time of a dense block per element of K, over "
        "`element_latency_s`.")] = None  # fmt: skip
    sparse_latency_ratio: Annotated[Quantity | None, Number("ratio", "Time of a 2:4 block per element of K, over "
        "`sparse_element_latency_s`.")] = None  # fmt: skip


@record
class Library:
    """What the libraries of one generation reach."""

    source: Annotated[Text, About("What the generation is, and why it is like the other one.")]
    types: Annotated[Mapping[Dtype, TypeTraits], About("Properties by value type.")]
    like: Annotated[Text | None, About("Generation that a missing property is taken from.")] = None
    launch_ratio: Annotated[Quantity | None, Number("ratio", "Time between dense calls back to back, over "
        "`library_launch_s`.")] = None  # fmt: skip
    sparse_launch_ratio: Annotated[Quantity | None, Number("ratio", "The same of 2:4, over "
        "`sparse_library_launch_s`.")] = None  # fmt: skip
    dram_ratio: Annotated[Quantity | None, Number("ratio", "DRAM bandwidth that libraries reach, over `dram_share` and "
        "`sparse_dram_share`.")] = None  # fmt: skip
    cache_ratio: Annotated[
        Quantity | None, Number("ratio", "Share of the last-level cache that holds distinct bytes.")
    ] = None
    parts: Annotated[Quantity | None, Number("parts", "Most blocks that share K in the dense library.")] = (
        None
    )
    sparse_parts: Annotated[Quantity | None, Number("parts", "The same of 2:4.")] = None
    restream_tokens: Annotated[Quantity | None, Number("tokens", "Tokens that share one pass over the weights in the "
        "16-bit 2:4 library (A23): more than any product has if it reads them once.")] = None  # fmt: skip


@record
class LibrariesFile:
    """`hwmodels/data/libraries.toml`."""

    generation: Annotated[
        Mapping[str, Library], About("Generation of matrix units, as the compiler names it.")
    ]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that each chain of generations ends."""
        for name, library in self.generation.items():
            if library.like is not None and library.like not in self.generation:
                yield (
                    f"generation.{name}.like",
                    f"{brief(library.like)}: expected one of {', '.join(self.generation)}",
                )


def measured(generation: str | None) -> bool:
    """Say whether the libraries of a generation were measured themselves, and not taken from another one.

    Examples
    --------
    >>> measured("sm_90"), measured("sm_120"), measured(None)
    (True, False, False)
    """
    return generation in libraries() and bool(libraries()[str(generation)].types)


PROPERTIES = ("rate", "latency", "launch", "dram", "cache", "parts", "restream_tokens")
"""What `properties` says of a value type and a side, in this order."""
RATE, LATENCY, LAUNCH, DRAM, CACHE, PARTS, RESTREAM_TOKENS = range(len(PROPERTIES))
DENSE_PARTS, SPARSE_PARTS, REREAD_TOKENS = 8.0, 1.0, 128.0
"""What holds where nothing is known: K is split in dense products only, and 128 tokens share a pass over the weights."""
NO_REREAD_TOKENS = float(1 << 20)
"""Tokens that share a pass if weights are read once: more than any product has."""


@functools.cache
def libraries() -> Mapping[str, Library]:
    """Read the generations of `libraries.toml`."""
    return read_record(LibrariesFile, LIBRARIES_FILE).generation


_LEFT_OUT = " left out"


def left_out(generation: str | None) -> str | None:
    """Name a generation as a stranger: without an entry of its own, so that the one that it is like stands in.

    Parameters
    ----------
    generation : str or None
        As a machine names it.

    Returns
    -------
    str or None
        A name for `measured`, `chain` and `properties`.

    Examples
    --------
    >>> chain(left_out("sm_90")), measured(left_out("sm_90"))
    (('sm_80',), False)
    """
    return None if generation is None else generation.removesuffix(_LEFT_OUT) + _LEFT_OUT


def chain(generation: str | None) -> tuple[str, ...]:
    """Name a generation and those that it takes missing properties from, nearest first.

    Examples
    --------
    >>> chain("sm_90")
    ('sm_90', 'sm_80')
    >>> chain("gfx942")
    ()
    """
    found: list[str] = []
    known = libraries()
    if generation is not None and generation.endswith(_LEFT_OUT):
        return chain(generation.removesuffix(_LEFT_OUT))[1:]
    while generation in known and generation not in found:
        found.append(str(generation))
        generation = known[str(generation)].like
    return tuple(found)


def properties(generation: str | None) -> NDArray[np.float64]:
    """Look up what the libraries of a generation reach.

    Parameters
    ----------
    generation : str or None
        As a machine names it; None or one without an entry takes what holds where nothing is known.

    Returns
    -------
    float64 array [value types, 2, properties]
        By place in `VALUE_TYPES`; dense, then 2:4; by place in `PROPERTIES`.
    """
    known = libraries()
    names = list(chain(generation))
    table = np.ones((len(VALUE_TYPES), 2, len(PROPERTIES)))
    for side, prefix in enumerate(("", "sparse_")):

        def first(name: str, default: float) -> float:
            quantities = (getattr(known[one], name) for one in names)
            return next((float(one.value) for one in quantities if one is not None), default)

        for place, dtype in enumerate(VALUE_TYPES):
            wide = VALUE_BITS[dtype] == 16
            table[place, side] = (
                _of_type(names, dtype, f"{prefix}rate_share"),
                _of_type(names, dtype, f"{prefix}latency_ratio"),
                first(f"{prefix}launch_ratio", 1.0),
                first("dram_ratio", 1.0),
                first("cache_ratio", 1.0),
                first(f"{prefix}parts", SPARSE_PARTS if side else DENSE_PARTS),
                first("restream_tokens", REREAD_TOKENS) if side and wide else np.inf,
            )
    return table


def _of_type(names: list[str], dtype: str, name: str) -> float:
    """A property of a value type: of the nearest generation that has it, for the type itself or its substitute."""
    for generation in names:
        types = libraries()[generation].types
        for one in (dtype, SUBSTITUTES.get(dtype, dtype)):
            quantity = getattr(types[one], name) if one in types else None
            if quantity is not None:
                return float(quantity.value)
    return 1.0


def weak_baseline(generation: str | None, dtype: str) -> bool:
    """Say whether a speedup is owed in part to a dense library that is weak for this value type.

    Parameters
    ----------
    generation : str or None
        As a machine names it.
    dtype : str
        Value type of the dense baseline.

    Examples
    --------
    >>> weak_baseline("sm_100", "int8"), weak_baseline("sm_100", "fp8")
    (True, False)
    """
    table = properties(generation)[:, 0, RATE]
    names = chain(generation)
    # Dense fp4 rows pass the quoted peak, for whatever reason, so they are no yardstick.
    known = {name for one in names for name in libraries()[one].types if VALUE_BITS[name] >= 8} | {dtype}
    best = max(table[VALUE_TYPES.index(name)] for name in known)
    return bool(table[VALUE_TYPES.index(dtype)] < WEAK_SHARE * best)
