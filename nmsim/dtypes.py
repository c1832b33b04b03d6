"""Value types: their bits, and the order of their magnitudes.

All types except integers are compared by their stored bits. With the sign bit cleared, an IEEE-like number that is
read as an unsigned integer keeps the order of magnitudes. So -0.0 equals 0.0, infinity is above every finite number and NaN
above infinity, for every float type, with no arithmetic and no rounding.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError


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
