"""Value types: their bits, and the order of their magnitudes.

All types except integers are compared by their stored bits. With the sign bit cleared, an IEEE-like number that is
read as an unsigned integer keeps the order of magnitudes. So -0.0 equals 0.0, infinity is above every finite number and NaN
above infinity, for every float type, with no arithmetic and no rounding.

NaN and infinity are refused where nmsim chooses or measures weights (`refuse_not_finite`). No order of magnitudes is right
for them, and one of them in a group would take the place of a number.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError, PatternError


@dataclass(frozen=True)
class ValueType:
    """A value type that tensors may have.

    Parameters
    ----------
    name : str
        Numpy's name of it.
    container_code : str
        Its name in a safetensors header.
    bits : int
    kind : {"float", "signed", "unsigned"}
        How magnitudes are compared.
    """

    name: str
    container_code: str
    bits: int
    kind: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype (from `ml_dtypes` for those that numpy lacks)."""
        return (
            np.dtype(getattr(ml_dtypes, self.name)) if hasattr(ml_dtypes, self.name) else np.dtype(self.name)
        )

    @property
    def bits_dtype(self) -> np.dtype[Any]:
        """The unsigned dtype of the stored bits."""
        return np.dtype(f"uint{self.bits}")


TYPES = (
    ValueType("float64", "F64", 64, "float"),
    ValueType("float32", "F32", 32, "float"),
    ValueType("float16", "F16", 16, "float"),
    ValueType("bfloat16", "BF16", 16, "float"),
    ValueType("float8_e4m3fn", "F8_E4M3", 8, "float"),
    ValueType("float8_e5m2", "F8_E5M2", 8, "float"),
    ValueType("int64", "I64", 64, "signed"),
    ValueType("int32", "I32", 32, "signed"),
    ValueType("int16", "I16", 16, "signed"),
    ValueType("int8", "I8", 8, "signed"),
    ValueType("uint64", "U64", 64, "unsigned"),
    ValueType("uint32", "U32", 32, "unsigned"),
    ValueType("uint16", "U16", 16, "unsigned"),
    ValueType("uint8", "U8", 8, "unsigned"),
)
BY_NAME = {kind.name: kind for kind in TYPES}
BY_CONTAINER_CODE = {kind.container_code: kind for kind in TYPES}


def of(array: NDArray[Any]) -> ValueType:
    """Find an array's value type.

    Raises
    ------
    NmsimError
        A dtype that is not listed (bool, complex, object, text, big-endian).
    """
    kind = BY_NAME.get(array.dtype.name)
    if kind is None or not array.dtype.isnative:
        raise NmsimError(f"dtype {array.dtype}: expected one of {', '.join(BY_NAME)}, in native byte order")
    return kind


def stored_bits(array: NDArray[Any]) -> NDArray[Any]:
    """View an array as unsigned integers of the same width, without a copy where memory allows."""
    return np.ascontiguousarray(array).view(of(array).bits_dtype)


def magnitude_keys(array: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers in the order of the magnitudes: same shape, same width.

    Examples
    --------
    >>> keys = magnitude_keys(np.array([-0.0, 0.0, -1.0, np.inf, np.nan], np.float32))
    >>> bool(keys[0] == keys[1] < keys[2] < keys[3] < keys[4])
    True
    """
    kind = of(array)
    bits = stored_bits(array)
    if kind.kind == "unsigned":
        return bits
    if kind.kind == "float":
        magnitudes: NDArray[Any] = bits & bits.dtype.type((1 << (kind.bits - 1)) - 1)
        return magnitudes
    negative = bits >> bits.dtype.type(kind.bits - 1) == 1
    return np.where(negative, ~bits + bits.dtype.type(1), bits)


CHUNK_ELEMS = 1 << 20
"""Elements that are looked at together."""


class NotFinite(NamedTuple):
    """Elements that are NaN or infinite: their count and the first of them."""

    elems: int
    first: tuple[int, ...]


def not_finite(array: NDArray[Any]) -> NotFinite | None:
    """Count the elements that are NaN or infinite, and find the first; None if there is none.

    Parameters
    ----------
    array : array
        Any type that `TYPES` lists; integers are always finite.

    Examples
    --------
    >>> not_finite(np.array([[1, 2], [np.nan, np.inf]], np.float32))
    NotFinite(elems=2, first=(1, 0))
    """
    if of(array).kind != "float" or not array.size:
        return None
    # Types without infinity have one NaN, which is what infinity turns into.
    least = magnitude_keys(np.full(1, np.inf).astype(array.dtype))[0]
    whole = array.reshape(1) if not array.ndim else array
    step = max(1, CHUNK_ELEMS // math.prod(whole.shape[1:]))
    count, first = 0, None
    for low in range(0, len(whole), step):
        keys = magnitude_keys(whole[low : low + step])
        if keys.max() < least:
            continue
        bad = keys >= least
        count += int(np.count_nonzero(bad))
        if first is None:
            place = np.unravel_index(int(np.argmax(bad)), bad.shape)
            first = (low + int(place[0]), *map(int, place[1:])) if array.ndim else ()
    return None if first is None else NotFinite(count, first)


def refuse_not_finite(array: NDArray[Any], name: str = "x") -> None:
    """Refuse NaN and infinity: the one rule of all commands and functions that choose or measure weights.

    Raises
    ------
    PatternError
        Names the first position, what it holds, and how many there are.

    Examples
    --------
    >>> refuse_not_finite(np.array([1.0, np.inf]))
    Traceback (most recent call last):
    nmsim.errors.PatternError: x[1] is inf, the first of 1 of 2 elements that are NaN or infinite; expected finite numbers
    """
    found = not_finite(array)
    if found is not None:
        where = f"[{', '.join(map(str, found.first))}]" if found.first else ""
        raise PatternError(
            f"{name}{where} is {float(array[found.first])}, the first of {found.elems} of {array.size} elements that are NaN "
            "or infinite; expected finite numbers"
        )
