"""How chips store a pattern if nobody says."""

import itertools
from pathlib import Path

from hwmodels.chips.load import Chip, load_chip
from hwmodels.machine.spec import HardwareSpec
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim import encodings
from nmsim.case import DEFAULT_DTYPE, SparseOperand
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern


def formats_on(core: SparseTensorCore, stored: SparseFormat) -> list[SparseFormat]:
    """List the formats of a pattern that the decoders of a core read, in the order of its file; the format itself if none."""
    names = core.encodings_of(stored.pattern)
    return [SparseFormat(stored.pattern, encodings.get(name), stored.packing) for name in names] or [stored]


def best_format(
    pattern: Pattern | str,
    hardware: str | Path | Chip,
    *,
    dtype: str = DEFAULT_DTYPE,
    operand: SparseOperand = "weights",
) -> SparseFormat:
    """Choose how a chip stores a pattern if nobody says.

    A machine stores it as its own sparse unit reads it, else in the default encoding. A core design stores it in the shortest
    code that it decodes, the first in its file of several that are equally short.

    Parameters
    ----------
    pattern : Pattern or str
    hardware : str, Path, HardwareSpec or SparseTensorCore
        As for `load_chip`.
    dtype : str
        Value type of the operands.
    operand : {"weights", "activations"}
        The sparse operand.

    Raises
    ------
    PatternError, SpecError
        A text that is no pattern, or unknown hardware.

    Examples
    --------
    >>> best_format("2:4", "h200").short, best_format("8:16", "h200").short
    ('2:4/index', '8:16/bitmask')
    >>> best_format("8:16", "edge-npu-8x16").short
    '8:16/combinatorial'
    """
    spec, default = load_chip(hardware), sparse_format(pattern)
    if not isinstance(spec, HardwareSpec):
        return min(
            formats_on(spec, default), key=lambda form: form.encoding.expected_bits_per_group(form.pattern)
        )
    for unit in spec.native:
        known = (name for name in unit.encodings if encodings.get(name).supports(default.pattern))
        for encoding, packing in itertools.product(known, unit.packings):
            native = sparse_format(default.pattern, encoding=encoding, packing=packing)
            if spec.native_unit(native, operand=operand, dtype=dtype) is not None:
                return native
    return default
